"""Cards: what a device can do, of a few whose figures are known, and of this machine's CPU.

Peaks, bandwidths and memory are those of data sheets. What products and attention of this network
reach is expected: the rates of the H100 are such that the reference's padded step comes to the
speed that three runs published, those of the L4 rest on products measured elsewhere, and all others
were set beside these two. See :mod:`solver.roofline`.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

from augment.errors import InputError
from solver.settings import EngineSettings

DType = Literal["bfloat16", "float16", "float32"]

CALIBRATION = (
    "the reference's published 750-810 padded examples/s on an H100, and products measured on L4"
)
"""What the rates below rest on."""

POSITIONS_ON_CPU = 4096
"""Positions that a CPU computes at once: it gains nothing beyond its caches."""

_SECONDS_TO_MEASURE = 0.4  # each of four products, and copies
# Of the bandwidth on paper, what kernels of a few reads and a write reach.
_BANDWIDTH_SHARE = 0.72


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of device, how many of it work together, and what each of them can do."""

    name: str
    dtype: DType
    peak_tflops: float
    """Dense products on paper, TFLOP/s, with sums in float32."""
    product_tflops: float
    """What products of this network's shapes reach, TFLOP/s."""
    attention_tflops: float
    """What attention over a few hundred positions reaches, TFLOP/s."""
    gb_per_second: float
    """What fused kernels read and write, GB/s."""
    memory_gb: float
    """What a process can use of each card's memory, GB."""
    link_gb_per_second: float = 0.0
    """What a card sends to others of its machine while all sum their gradients, GB/s."""
    network_gb_per_second: float = 1.5
    """What a card sends to those of another machine, GB/s."""
    launch_us: float = 10.0
    """Time of the host for each kernel, Python included, microseconds."""
    example_us: float = 15.0
    """Time of the host to pack one example, microseconds."""
    orthogonal_share: float = 0.1
    """The rate of NorMuon's products, of a few hundred rows, of that of products."""
    gap_us: float = 2.5
    """Time of the device between two kernels, microseconds."""
    unfused: float = 1.0
    """How many times the bytes of fused kernels are moved; 1 where the cycle is compiled."""
    overlaps: bool = True
    """Whether the host works while the device computes."""
    count: int = 1
    """Cards on all machines together."""
    num_machines: int = 1

    @property
    def label(self) -> str:
        """The name as a person gives it, and how many machines."""
        on_each = self.count // self.num_machines
        label = self.name if on_each == 1 else f"{self.name}x{on_each}"
        return label if self.num_machines == 1 else f"{label} on {self.num_machines} machines"

    @property
    def sent_gb_per_second(self) -> float:
        """What each card sends while all sum their gradients, GB/s: the slowest link decides."""
        if self.num_machines == 1:
            return self.link_gb_per_second
        return min(self.link_gb_per_second, self.network_gb_per_second)


# Peaks, bandwidths, memory: NVIDIA's data sheets, less what a process cannot use. Links: NVLink, or
# PCIe without direct copies between cards. Networks: 400 Gb/s for each H100 or H200, as their
# machines mostly have, and 12 Gb/s for each other card. Host: the order of what an EPYC core took
# for compiled steps; Kaggle's machines (L4, T4) are slower.
CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card(  # SXM. Products at 61 % of the peak, attention (FlashAttention 2) at 26 %.
            "h100",
            "bfloat16",
            peak_tflops=989,
            product_tflops=600,
            attention_tflops=260,
            gb_per_second=3350 * _BANDWIDTH_SHARE,
            memory_gb=80.0,
            link_gb_per_second=300.0,
            network_gb_per_second=45.0,
        ),
        Card(  # The same chip with faster memory.
            "h200",
            "bfloat16",
            peak_tflops=989,
            product_tflops=600,
            attention_tflops=260,
            gb_per_second=4800 * _BANDWIDTH_SHARE,
            memory_gb=141.0,
            link_gb_per_second=300.0,
            network_gb_per_second=45.0,
        ),
        Card(  # 54-71 TFLOP/s measured in bfloat16 products: 72 W do not feed more.
            "l4",
            "bfloat16",
            peak_tflops=121,
            product_tflops=60,
            attention_tflops=42,
            gb_per_second=300 * _BANDWIDTH_SHARE,
            memory_gb=22.5,
            link_gb_per_second=6.0,
            launch_us=15.0,
            example_us=25.0,
        ),
        Card(  # Not measured: products near the L4's share of the peak. FlashAttention needs
            # Ampere; the memory-efficient kernel is set to a sixth of the peak.
            "t4",
            "float16",
            peak_tflops=65,
            product_tflops=30,
            attention_tflops=10,
            gb_per_second=320 * _BANDWIDTH_SHARE,
            memory_gb=14.6,
            link_gb_per_second=6.0,
            launch_us=20.0,
            example_us=35.0,
        ),
        Card(  # Not measured: the L4's architecture with 450 W, so nearer to its peak.
            "4090",
            "bfloat16",
            peak_tflops=165,
            product_tflops=120,
            attention_tflops=60,
            gb_per_second=1008 * _BANDWIDTH_SHARE,
            memory_gb=23.5,
            link_gb_per_second=8.0,
        ),
    )
}


def choose_card(text: str, num_machines: int = 1) -> Card:
    """Return the cards of so many machines; ``text``: a name, or a name and how many in each."""
    match = re.fullmatch(r"(.+?)(?:x([1-9]\d{0,5}))?", text)
    if match is None or match[1] not in CARDS:
        raise InputError(
            f"GPU {text!r} is not known; choose from {', '.join(CARDS)}, each also with a number "
            "of them, such as l4x4; or cpu"
        )
    count = num_machines * int(match[2] or 1)
    return replace(CARDS[match[1]], count=count, num_machines=num_machines)


def measure_cpu(dim: int, inner: int, dtype: DType | Literal["auto"]) -> Card:
    """Return this machine as a card, from the speed of products and copies within two seconds.

    ``dim``, ``inner``: widths of the state and inside SwiGLU. Calibrated on training ``demo``
    (D 128) and ``arc1-fast`` (D 384) in float32 on 2 cores of an EPYC: 110 and 4.3 examples/s.
    Attention reached 0.3 of the rate of products, and operations one by one took as long as six
    times the bytes of fused ones, copied.
    """
    import torch  # only here

    from solver.device import choose_device, choose_dtype
    from solver.memory import machine_bytes

    engine = EngineSettings(device="cpu", dtype=dtype)
    chosen = choose_dtype(engine, choose_device(engine))
    flop = seconds = 0.0
    for num_in, num_out in ((dim, 3 * dim), (dim, dim), (dim, 2 * inner), (inner, dim)):
        x = torch.randn(POSITIONS_ON_CPU, num_in, dtype=chosen)
        weight = torch.randn(num_out, num_in, dtype=chosen)
        flop += 2.0 * POSITIONS_ON_CPU * num_in * num_out
        seconds += _least_seconds(partial(torch.nn.functional.linear, x, weight))
    numbers = torch.zeros(2**25)
    copied = torch.empty_like(numbers)
    copying = _least_seconds(partial(copied.copy_, numbers))
    tflops = flop / seconds / 1e12
    return Card(
        "cpu",
        cast(DType, str(chosen).removeprefix("torch.")),
        peak_tflops=tflops,
        product_tflops=tflops,
        attention_tflops=0.3 * tflops,
        gb_per_second=2e-9 * numbers.nbytes / copying,
        memory_gb=1e-9 * machine_bytes(),
        orthogonal_share=1.0 if chosen == torch.float32 else 0.5,
        gap_us=0.0,
        unfused=6.0,
        overlaps=False,
    )


def _least_seconds(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs: other work on the machine only adds."""
    times: list[float] = []
    end = time.perf_counter() + _SECONDS_TO_MEASURE
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
