"""How fast a card is, beside what a roofline expects of it: `make gpu` measures this in minutes.

Ceilings of the card, training steps and predictions of the recipes as the stages run them, the
memory they take beside its plan, and the kernels of one step. All figures go into a JSON file. What
the time is not enough for is left out, and named.
"""

import math
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from timing import Report, time_of
from torch.profiler import ProfilerActivity, profile
from workloads import arc1_mix, data_set, plan_tests, prediction_of, product_rate

from augment.examples import ExampleStream
from pipeline.console import say
from pipeline.recipes import load_recipe
from pipeline.settings import Settings
from pipeline.sources import load_source
from solver.attention import Sequences, attend, choose_kernel
from solver.cards import CARDS, Card
from solver.engine import Engine, open_engine
from solver.flop import flop_of_training
from solver.kinds import new_model
from solver.loader import batches
from solver.memory import plan_training
from solver.model import run_recursion
from solver.packing import boxes_for, lengths_of
from solver.puzzle_table import PuzzleTable
from solver.roofline import prediction_time, training_time
from solver.settings import EngineSettings
from solver.train import Training, start_training, train_step

_WARM_UP, _TIMED = 4, 12  # steps: the first ones compile
_KERNELS = 15  # of a step, those that take most
# What a test on a CPU trains instead.
SMALL = (
    "model.num_heads=2", "model.dim=32", "model.num_cycles=1", "model.num_latent_steps=1",
    "train.global_batch=8", "engine.positions_per_pass=2048",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """The device that is measured, until when, and where the figures go."""

    engine: Engine
    report: Report
    card: Card | None
    until: float
    is_small: bool

    def recipe(self, name: str) -> Settings:
        """Return a recipe, a small one of its kind in tests."""
        return load_recipe(name, SMALL if self.is_small else ())

    def share_of_peak(self, name: str, flop: float, seconds: float) -> None:
        """Note which share of the card's peak on paper real cells got (MFU)."""
        if self.card:
            self.report.add(f"{name}_mfu", flop / seconds / 1e12 / self.card.peak_tflops)


def known_card(engine: Engine) -> Card | None:
    """Return what the roofline knows of this device, None if it is another."""
    if engine.device.type == "cpu":
        return None
    words = torch.cuda.get_device_name(engine.device).lower().split()
    return next((CARDS[word] for word in words if word in CARDS), None)


def measure_ceilings(bench: Bench) -> None:
    """Products of each width, attention on real lengths, and copies."""
    engine, report, divisor = bench.engine, bench.report, 64 if bench.is_small else 1
    for dim, inner in ((128, 512), (384, 1024), (512, 1536)):
        rate = product_rate(engine, 131_072 // divisor, dim, inner)
        report.add(f"products_d{dim}_tflops", rate / 1e12)
    model = bench.recipe("arc1").model
    boxes = arc1_mix(768 // divisor).boxes
    lengths = np.sort(lengths_of(boxes, model))[::-1]
    bounds = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)).to(engine.device)
    shape = (int(lengths.sum()), model.num_heads, model.dim // model.num_heads)
    q = torch.randn(shape, device=engine.device, dtype=engine.dtype, requires_grad=True)
    kernel = choose_kernel(engine.device, engine.dtype)
    sequences = Sequences(bounds, int(lengths[0]), kernel)

    def both() -> None:
        attend(q, q, q, sequences).sum().backward()

    flop = 3 * 4 * model.dim * float((lengths.astype(float) ** 2).sum())
    both()
    seconds = [time_of(both, engine.device) for _ in range(5)]
    report.add("attention_tflops", [flop / s / 1e12 for s in seconds])
    source = torch.empty(2**30 // divisor, dtype=torch.uint8, device=engine.device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = [time_of(lambda: target.copy_(source), engine.device) for _ in range(5)]
    report.add("copy_gb_per_second", [2 * source.numel() / s / 1e9 for s in seconds])


@dataclass(frozen=True, slots=True)
class Run:
    """A training run of a recipe and what it is fed."""

    settings: Settings
    training: Training
    steps: Iterator[None]
    lengths: np.ndarray


def start_run(bench: Bench, name: str, *changes: str, engine: Engine | None = None) -> Run:
    """Return a recipe's training on ARC-AGI-1, as pretraining runs it, and note its memory plan."""
    engine = engine or bench.engine
    settings = bench.recipe(name)
    settings = load_recipe(name, [*(SMALL if bench.is_small else ()), *changes])
    dataset = data_set(["arc1/training"], ["arc1/evaluation"], settings.model.rows_per)
    stream, train = ExampleStream(dataset, 0), replace(settings.train, num_steps=10_000)
    model = new_model(settings.model)
    engine.positions_per_pass = settings.engine.positions_per_pass or engine.planned_positions
    say(f"{name}: {plan_training(model, dataset.index.num_rows, stream, train, engine, 0.0)}")
    table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(model, table, train, engine)
    model.train()

    def steps() -> Iterator[None]:
        for batch in batches(stream, train, settings.model, engine.group, 0):
            train_step(training, batch, train, engine)
            yield

    boxes = boxes_for(settings.model, stream.examples(0, 4096).boxes)
    return Run(settings, training, steps(), lengths_of(boxes, settings.model))


def measure_training(bench: Bench, name: str) -> Run:
    """Note examples a second of a recipe, its share of the peak, its memory, and the roofline's."""
    engine, report = bench.engine, bench.report
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = start_run(bench, name)
    rate, seconds = steps_per_second(run, engine)
    batch, mean = run.settings.train.global_batch, float(run.lengths.mean())
    report.add(f"{name}_first_steps_seconds", seconds, "s")
    report.add(f"{name}_train_examples_per_second", [r * batch for r in rate])
    flop = batch * flop_of_training(run.settings.model, run.lengths) / len(run.lengths)
    bench.share_of_peak(f"{name}_train", flop, 1 / float(np.median(rate)))
    report.add(f"{name}_positions_per_example", mean)
    if bench.card:
        report.add(f"{name}_peak_memory_gb", torch.cuda.max_memory_allocated() / 1e9)
        expected = training_time(
            bench.card,
            run.settings.model,
            run.settings.train,
            run.lengths,
            engine.positions_per_pass,
        )
        report.add(f"{name}_train_expected_per_second", batch / expected.seconds)
    return run


def steps_per_second(run: Run, engine: Engine) -> tuple[list[float], float]:
    """Return the rates of three timed pieces, and the seconds of the steps before them."""
    first = time_of(lambda: list(islice(run.steps, _WARM_UP)), engine.device)
    count = _TIMED // 3
    pieces = [time_of(lambda: list(islice(run.steps, count)), engine.device) for _ in range(3)]
    return [count / piece for piece in pieces], first


def measure_fast(bench: Bench) -> None:
    """Measure the training of `arc1-fast`, and the kernels of one of its steps."""
    measure_kernels(bench, measure_training(bench, "arc1-fast"), "arc1-fast")


def measure_kernels(bench: Bench, run: Run, name: str) -> None:
    """Note the kernels of one training step that take most of its time."""
    is_cuda = bench.engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        time_of(lambda: next(run.steps), bench.engine.device)
    key = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    kind = "DeviceType.CUDA" if is_cuda else "DeviceType.CPU"
    events = [event for event in profiled.key_averages() if str(event.device_type) == kind]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    kernels = [
        {"kernel": e.key[:90], "share": round(getattr(e, key) / total, 4), "calls": e.count}
        for e in events[:_KERNELS]
    ]
    bench.report.figures[f"{name}_kernels"] = kernels
    bench.report.add(f"{name}_kernels_milliseconds", total / 1000)
    for kernel in kernels:
        say(f"  {kernel['share']:6.1%} {kernel['calls']:6} {kernel['kernel']}")


def measure_prediction(bench: Bench, name: str, canvas: str) -> None:
    """Note views a second of a recipe at four supervision steps."""
    model = replace(bench.recipe(name).model, canvas=canvas)
    plan = plan_tests(model, 4, load_source("arc1/evaluation"), 8 if bench.is_small else 416)
    run = prediction_of(plan, bench.engine)
    run()
    seconds = [time_of(run, bench.engine.device) for _ in range(3)]
    title = f"{name}_predict_{canvas}"
    bench.report.add(f"{title}_views_per_second", [len(plan.boxes) / s for s in seconds])
    bench.share_of_peak(title, plan.flop, float(np.median(seconds)))
    if bench.card:
        at_once = bench.engine.planned_positions
        expected = prediction_time(bench.card, model, 4, plan.lengths, at_once).seconds
        bench.report.add(f"{title}_expected_per_second", len(plan.boxes) / expected)


def measure_small_width(bench: Bench) -> None:
    """Note what compiling, and launching whole CUDA graphs, bring at width 128."""
    sides: dict[str, Callable[..., object] | None] = {"eager": None}
    if not bench.is_small:
        sides["compiled"] = torch.compile(run_recursion, dynamic=True)
    if bench.engine.device.type == "cuda":
        sides["graphs"] = torch.compile(run_recursion, dynamic=True, mode="reduce-overhead")
    for side, recursion in sides.items():
        engine = replace(bench.engine, compile=False)
        run = start_run(bench, "demo", "model.canvas_side=30", engine=engine)
        run.training.model.recursion = recursion or run_recursion  # type: ignore[assignment]
        rate, _ = steps_per_second(run, engine)
        batch = run.settings.train.global_batch
        bench.report.add(f"d128_{side}_examples_per_second", [r * batch for r in rate])


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/rates.json"))
    parser.add_argument("--small", action="store_true", help="a small model and little of it")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    compiled = "false" if options.small else "auto"
    engine = open_engine(EngineSettings(device=options.device, compile=compiled), say)
    bench = Bench(engine, Report(options.out, engine), known_card(engine), until, options.small)
    parts: tuple[tuple[str, Callable[[], object]], ...] = (
        ("ceilings", lambda: measure_ceilings(bench)),
        ("arc1-fast", lambda: measure_fast(bench)),
        ("arc1", lambda: measure_training(bench, "arc1")),
        ("arc1 views, full canvas", lambda: measure_prediction(bench, "arc1", "full")),
        ("arc1-fast views", lambda: measure_prediction(bench, "arc1-fast", "box")),
        ("width 128", lambda: measure_small_width(bench)),
    )
    for name, measure in parts:
        if time.monotonic() > until:
            say(f"{name}: not measured, the time for rates is over")
            continue
        try:
            measure()
        except Exception as error:  # one figure that cannot be had must not cost the others
            say(f"{name}: not measured: {type(error).__name__}: {error}")
        bench.report.write()


if __name__ == "__main__":
    main()
