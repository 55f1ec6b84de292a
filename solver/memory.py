"""The memory that training takes on each device, planned before it starts.

Shapes: N positions of a pass, M cells of these, G examples in it, D width, V tokens.
"""

import copy
import math
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from augment.boxes import full_boxes
from augment.errors import InputError
from augment.examples import Examples, Stream
from solver.engine import Engine
from solver.kinds import new_model
from solver.loss import compute_losses
from solver.model import Model
from solver.packing import boxes_for, lengths_of, pack
from solver.settings import ModelSettings, TrainSettings

_GB = 1e9
_CUDA_CONTEXT = 1.0e9  # bytes of the driver's context and its libraries
USABLE = 0.9  # of what is free on a GPU: the rest is what its allocator cannot put to use
_COUNTED = (100, 300)  # examples of the passes that are counted: as large as passes are
_SAMPLED = 2048  # examples that tell how long those of a run are
_SPREADS = 4  # standard deviations by which a batch may be longer than the mean of all


def plan_memory(
    model: Model,
    num_rows: int,
    positions_at_once: int,
    positions: int,
    dtype: torch.dtype,
    *,
    num_processes: int = 1,
    on_gpu: bool = True,
) -> dict[str, float]:
    """Return the bytes that a training run takes on the device of each process, by purpose.

    ``num_rows``: the trained rows, all of them in the end. ``positions``: those of all lanes of
    this process, of which ``positions_at_once`` are computed in one pass. What a pass takes is
    counted on tensors without values, for any options of the model; all else follows from shapes.
    A compiled model takes less.
    """
    dim, numbers = model.settings.dim, sum(p.numel() for p in model.parameters())
    constant, each = peak_bytes_of_pass(model, dtype)
    # Weights, two moments and the average, and what is summed over processes.
    copies = 4 + (num_processes > 1)
    return {
        "weights": 4.0 * numbers * copies,
        "rows": 4.0 * dim * 2 * num_rows,  # twice while the table grows
        "states": 2.0 * len(model.STATES) * dtype.itemsize * dim * positions,  # old and new
        "activations": constant + each * positions_at_once,
        "device": _CUDA_CONTEXT if on_gpu else 0.0,
    }


def fitting_positions(
    model: Model,
    num_rows: int,
    positions: int,
    dtype: torch.dtype,
    available_bytes: float,
    *,
    num_processes: int = 1,
    on_gpu: bool = True,
) -> int:
    """Return how many positions fit into one pass, at most ``positions``; 0 if no example does.

    See :func:`plan_memory`.
    """

    def total(at_once: int) -> float:
        plan = plan_memory(
            model, num_rows, at_once, positions, dtype, num_processes=num_processes, on_gpu=on_gpu
        )
        return sum(plan.values())

    least, most = total(0), total(positions)
    if most <= available_bytes:
        return positions
    fitting = int(positions * (available_bytes - least) / (most - least))
    return fitting if fitting >= model.settings.length else 0


def peak_bytes_of_pass(model: Model, dtype: torch.dtype) -> tuple[float, float]:
    """Return the most bytes that a pass of training takes: at any size, and more per position."""
    return _peak_bytes_of_pass(model.settings, model.recompute, dtype)


@lru_cache
def _peak_bytes_of_pass(
    settings: ModelSettings, recompute: bool, dtype: torch.dtype
) -> tuple[float, float]:
    # Cycles without gradient keep nothing, and take a second to count.
    model = new_model(replace(settings, num_cycles=settings.gradient_cycles))
    model.recompute = recompute
    (few, less), (many, more) = (_count_pass(model, count, dtype) for count in _COUNTED)
    each = (more - less) / (many - few)
    return max(0.0, less - each * few), each


def _count_pass(model: Model, num_examples: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the positions of a pass over examples of one size, and the bytes at its peak."""
    settings, host = model.settings, torch.device("cpu")
    boxes = boxes_for(settings, full_boxes(num_examples, min(8, settings.canvas_side)))
    tokens = np.zeros((num_examples, settings.canvas_side**2), dtype=np.uint8)
    rows, codes = np.zeros(num_examples, dtype=np.int64), np.zeros(num_examples, dtype=np.uint32)
    examples = Examples.without_labels(tokens, rows, codes, boxes)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, LiveBytes() as live:
        without_values = _fake_copy(model, mode)
        packed = pack(settings, host, examples, np.arange(num_examples))
        rows_GD = torch.zeros(num_examples, settings.dim, requires_grad=True)
        x_ND = without_values.embed(packed, rows_GD).to(dtype)
        outcome = without_values(without_values.start(len(x_ND), dtype), x_ND, packed)
        losses = compute_losses(
            outcome.logits_MV,
            outcome.halt_G,
            packed.labels_M,
            packed.owners_N,
            settings.output,
            without_values.look_ahead(outcome, x_ND, packed, np.zeros(num_examples, np.bool_)),
        )
        losses.total.backward()  # type: ignore[no-untyped-call]
    return len(x_ND), live.peak


def _fake_copy(model: Model, mode: FakeTensorMode) -> Model:
    """Return the model with tensors that have shapes but no values."""
    copies: dict[int, Any] = {
        id(tensor): nn.Parameter(mode.from_tensor(tensor.detach())) for tensor in model.parameters()
    }
    copies |= {id(tensor): mode.from_tensor(tensor) for tensor in model.buffers()}
    return copy.deepcopy(model, copies)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that live at a time, of those that are made under it."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call ``function`` and count what it returns."""
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self.live += num_bytes
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._counted.discard(key)
        self.live -= num_bytes


def plan_training(
    model: Model,
    num_rows: int,
    stream: Stream,
    settings: TrainSettings,
    engine: Engine,
    limit_gb: float,
) -> str:
    """Return the memory plan of a training run as a line, and have the engine follow it.

    Where the settings leave it open, a GPU computes as many positions at once as fit. ``limit_gb``:
    0 takes what a GPU has free, or a machine's whole memory over its processes. Raises
    :class:`InputError` when there is less than the run takes.
    """
    group, on_gpu = engine.group, engine.device.type != "cpu"
    positions = expected_positions(model, stream, -(-settings.global_batch // group.size))
    available = limit_gb * _GB or _free_bytes(engine)
    if engine.plans_by_memory:
        fitting = fitting_positions(
            model, num_rows, positions, engine.dtype, available,
            num_processes=group.size, on_gpu=on_gpu,
        )  # fmt: skip
        # A pass may be larger by less than one example.
        spare = 0 if fitting == positions else model.settings.length
        engine.positions_per_pass = max(1, fitting - spare)
    at_once = min(positions, engine.positions_per_pass + model.settings.length)
    plan = plan_memory(
        model, num_rows, at_once, positions, engine.dtype, num_processes=group.size, on_gpu=on_gpu
    )
    return require_memory(plan, engine, available)


def expected_positions(model: Model, stream: Stream, lanes: int) -> int:
    """Return how many positions the examples of ``lanes`` have together, seldom exceeded."""
    boxes = boxes_for(model.settings, stream.examples(0, _SAMPLED).boxes)
    return most_positions(lengths_of(boxes, model.settings), lanes, model.settings.length)


def most_positions(lengths: NDArray[np.int64], lanes: int, longest: int) -> int:
    """Return what a batch of ``lanes`` examples like these has at most, but for rare ones."""
    spread = _SPREADS * math.sqrt(lanes) * float(lengths.std())
    return min(math.ceil(lanes * float(lengths.mean()) + spread), lanes * longest)


def require_memory(plan: Mapping[str, float], engine: Engine, available_bytes: float) -> str:
    """Return the plan as a line; raise :class:`InputError` when there is less than it takes."""
    total = sum(plan.values())
    parts = ", ".join(f"{name} {part / _GB:.2f}" for name, part in plan.items() if part)
    line = f"{total / _GB:.2f} GB planned of {available_bytes / _GB:.1f} ({parts})"
    if total > available_bytes:
        half = engine.positions_per_pass // 2  # none of 1, and 0 would mean as many as fit
        smaller = f"engine.positions_per_pass={half} or " if half else ""
        raise InputError(
            f"memory: {line}; {smaller}engine.recompute=true takes less, and so does a smaller "
            "batch"
        )
    return line


def _free_bytes(engine: Engine) -> float:
    if engine.device.type == "cuda":
        unused = torch.cuda.memory_reserved(engine.device) - torch.cuda.memory_allocated(
            engine.device
        )
        return USABLE * (torch.cuda.mem_get_info(engine.device)[0] + unused)
    return machine_bytes() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def machine_bytes() -> float:
    """Return the memory of this machine, or of the container that it is in; inf if unknown."""
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf
    with suppress(OSError, ValueError):  # "max" without a limit; another place in older kernels
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
