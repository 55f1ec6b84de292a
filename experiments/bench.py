"""`make bench`: how fast this is on a CPU, beside what the machine could do at best.

The sides of a ratio take turns in one process, on the same weights and examples, after their
outputs were compared. Medians over the rounds are reported, with the smallest and the largest.
Results are printed and written to runs/bench/cpu.json.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
from oracle import loss as oracle_loss
from oracle import supervision_step

from augment.boxes import full_boxes, infer_test_boxes
from augment.dataset import Dataset, Examples, ExampleStream, encode_test_inputs
from augment.predictions import Prediction
from augment.puzzles import PuzzleIndex, RowsPer
from augment.task import Task
from augment.tokens import FIRST_COLOR, GridStore, decode_grids, encode_grids
from augment.view import NUM_VIEWS
from pipeline.sources import load_source
from solver.batch import Batch
from solver.checkpoint import Weights
from solver.engine import Engine, open_engine
from solver.flop import flop_of_prediction, flop_of_training
from solver.model import TRM, State
from solver.optimizer import EMA, make_optimizer
from solver.packing import boxes_for, lengths_of
from solver.predict import Views, answer
from solver.puzzle_embedding import PuzzleTable
from solver.settings import (
    EngineSettings,
    ModelSettings,
    PredictSettings,
    TrainSettings,
    swiglu_width,
)
from solver.train import Training, start_training, supervise, train_step
from submission.vote import count_votes

# One update of z per cycle instead of four: as many passes without gradient for each with one as
# in the reference (4 to 2, there 10 to 5), so that enough examples are timed in a CPU's minutes.
SHORTER = ModelSettings(num_latent_steps=1)
TINY = ModelSettings(dim=64, num_heads=2, num_cycles=1, num_latent_steps=1)
NARROW = ModelSettings(
    canvas="box", dim=128, num_heads=4, rows_per="task", rotary="grid", rotary_base=100.0,
    num_cycles=1, num_latent_steps=1, max_supervision_steps=2,
)  # fmt: skip
TRAIN = TrainSettings(warmup_steps=0)
CANVAS = 30
ROOT = Path(__file__).resolve().parent.parent
LENGTH = 916


def take_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of every side in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(time_of(run, device))
    return seconds


def time_of(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Report:
    """The figures, printed as they come and written as JSON."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        name = torch.cuda.get_device_name() if engine.device.type == "cuda" else processor()
        self.figures: dict[str, object] = {
            "machine": name,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "dtype": str(engine.dtype),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "date": date.today().isoformat(),
        }
        print(", ".join(f"{key} {value}" for key, value in self.figures.items()), flush=True)

    def add(self, name: str, values: Sequence[float] | float, unit: str = "") -> None:
        values = values if isinstance(values, Sequence) else [values]
        middle = statistics.median(values)
        self.figures[name] = round(middle, 4)
        line = f"{name:44} {middle:12,.3f} {unit}"
        if len(values) > 1:
            self.figures[f"{name}_spread"] = [round(min(values), 4), round(max(values), 4)]
            line += f"  ({min(values):,.3f} .. {max(values):,.3f}, n {len(values)})"
        print(line, flush=True)

    def ratio(self, name: str, slow: Sequence[float], fast: Sequence[float]) -> None:
        self.add(name, [a / b for a, b in zip(slow, fast, strict=True)], "x")

    def rates(
        self,
        what: str,
        name: str,
        count: int,
        flop: float,
        real_flop: float,
        seconds: Sequence[float],
        rate: float,
    ) -> None:
        """Add examples per second, and the shares of ``rate`` that all and real cells get."""
        self.add(f"{what}_per_second_{name}", [count / s for s in seconds])
        self.add(f"{what}_share_of_peak_{name}", [flop / s / rate for s in seconds])
        self.add(f"{what}_share_on_real_cells_{name}", [real_flop / s / rate for s in seconds])

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.figures, indent=2) + "\n")
        print(f"{self.path}")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def data_set(
    trained: Sequence[str], predicted: Sequence[str], rows_per: RowsPer = "view"
) -> Dataset:
    """Return a data set of sources with a few views of each task."""
    with_answers = [task for name in trained for task in load_source(name)]
    hidden = [task.without_answers() for name in predicted for task in load_source(name)]
    tasks = (*with_answers, *hidden)
    index = PuzzleIndex.of(tasks, 8, 0, rows_per)
    flags = (True,) * len(with_answers) + (False,) * len(hidden)
    return Dataset(tasks, index, flags, CANVAS)


def spread_over_sizes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` examples whose box sizes are spread as those of all are."""
    by_size = np.argsort(boxes[:, 2] * boxes[:, 3], kind="stable")
    return by_size[((np.arange(count) + 0.5) / count * len(by_size)).astype(int)]


def boxed(model: ModelSettings) -> ModelSettings:
    return replace(model, canvas="box")


@dataclass
class Trainer:
    """A training run whose slots hold the same examples in every step that is timed."""

    training: Training
    batch: Batch
    engine: Engine

    @classmethod
    def of(cls, settings: ModelSettings, examples: Examples, engine: Engine) -> "Trainer":
        examples = replace(examples, boxes=boxes_for(settings, examples.boxes))
        train = replace(TRAIN, global_batch=len(examples.rows))
        table = PuzzleTable(int(examples.rows.max()) + 1, torch.zeros(settings.dim))
        training = start_training(TRM(settings), table, train, engine)
        return cls(training, Batch(examples, np.full(len(examples.rows), 16)), engine)

    def step(self) -> None:
        settings = replace(TRAIN, global_batch=len(self.batch.min_steps_B))
        train_step(self.training, self.batch, settings, self.engine)

    def loss(self) -> float:
        """Return the summed loss of one step from the start, before any weight changes."""
        training = self.training
        outcome = supervise(training.model, training.table, training.carry, self.batch, self.engine)
        training.optimizer.zero_grad()
        return outcome.losses.total.item()


class EagerTrainer:
    """The oracle's step with the same optimisers, on all examples at once."""

    def __init__(self, model: ModelSettings, examples: Examples, engine: Engine) -> None:
        self.model, self.engine, count = TRM(model).to(engine.device), engine, len(examples.rows)
        self.optimizer = make_optimizer(self.model, TRAIN)
        self.ema = EMA(self.model)
        self.rows = torch.zeros(count, model.dim, device=engine.device, requires_grad=True)
        self.tokens, self.labels = (
            torch.from_numpy(array).long().to(engine.device)
            for array in (examples.inputs, examples.labels)
        )
        shape = (count, LENGTH, model.dim)
        self.state = State(
            *(t.expand(shape).to(engine.dtype) for t in (self.model.y_start, self.model.z_start))
        )

    def loss(self) -> torch.Tensor:
        p = dict(self.model.named_parameters())
        cells = torch.arange(CANVAS**2, device=self.engine.device)
        logits, halt, self.state = supervision_step(
            p, self.model.settings, self.tokens, cells, self.rows, self.state, self.engine.dtype
        )
        return oracle_loss(logits, halt, self.labels)

    def step(self) -> None:
        self.loss().backward()
        with torch.no_grad():
            self.rows.mul_(1 - 1e-3).sub_(1e-2 * self.rows.grad.sign())
            self.rows.grad = None
        for parameter in self.model.parameters():
            parameter.grad /= len(self.tokens)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model, TRAIN.ema_rate)


def views_of_tests(tasks: Sequence[Task], count: int) -> Views:
    """Return ``count`` views of tests, spread over the sizes of their inferred boxes."""
    keys = [(n, test) for n, task in enumerate(tasks) for test in range(len(task.test_inputs))]
    numbers, tests = (np.array(column) for column in zip(*keys, strict=True))
    codes = np.random.default_rng(0).integers(NUM_VIEWS, size=len(keys)).astype(np.uint32)
    boxes = infer_test_boxes(tasks, numbers, tests, codes, CANVAS)
    inputs = encode_test_inputs(tasks, numbers, tests, codes, CANVAS)
    chosen = spread_over_sizes(boxes, count)
    rows = np.zeros(len(chosen), dtype=np.int64)
    return Views(inputs[chosen], rows, codes[chosen], boxes[chosen])


def answerer(views: Views, model: ModelSettings, steps: int, engine: Engine) -> Callable[[], None]:
    """Return what answers the views with ``steps`` supervision steps."""
    views = replace(views, boxes=boxes_for(model, views.boxes))
    table = PuzzleTable(1, torch.zeros(model.dim))
    index = PuzzleIndex.of([], 0, 0, "view")
    trm = engine.prepare(TRM(model).requires_grad_(False)).eval()
    weights = Weights(trm, table, index, np.empty(0, np.uint64), "bench", "")
    settings = PredictSettings(num_supervision_steps=steps)
    return lambda: answer(weights, views, settings, engine, on_views=lambda *_: None)


def product_rate(engine: Engine, tokens: int, dim: int = 512, inner: int = 1536) -> float:
    """Return the FLOP/s of the four products of a layer at ``tokens`` positions."""
    flop = seconds = 0.0
    for width, out in ((dim, 3 * dim), (dim, dim), (dim, 2 * inner), (inner, dim)):
        x = torch.randn(tokens, width, device=engine.device, dtype=engine.dtype)
        weight = torch.randn(out, width, device=engine.device, dtype=engine.dtype)
        product = partial(torch.nn.functional.linear, x, weight)
        times = take_turns({"product": product}, 7, engine.device)["product"]
        flop, seconds = flop + 2 * tokens * width * out, seconds + statistics.median(times[1:])
    return flop / seconds


def compare_training(
    name: str,
    model: ModelSettings,
    examples: Examples,
    engine: Engine,
    report: Report,
    rounds: int,
    rate: float,
    *,
    beside_eager: bool,
) -> None:
    """Time training steps of ``full`` and ``box`` on the same examples, and of the oracle."""
    sides = {m.canvas: Trainer.of(m, examples, engine).step for m in (model, boxed(model))}
    if beside_eager:
        sides["eager"] = EagerTrainer(model, examples, engine).step
    for side, run in sides.items():
        report.add(f"train_{side}_first_step_seconds_{name}", time_of(run, engine.device), "s")
    seconds = take_turns(sides, rounds, engine.device)
    count = len(examples.rows)
    report.ratio(f"train_box_over_full_{name}", seconds["full"], seconds["box"])
    if beside_eager:
        report.ratio("full_over_eager", seconds["eager"], seconds["full"])
    real = flop_of_training(model, lengths_of(examples.boxes, model))
    padded = flop_of_training(model, np.full(count, LENGTH))
    report.add(f"train_flop_full_over_box_{name}", padded / real, "x, the floor")
    for side, done in (("full", padded), ("box", real)):
        report.rates(f"train_{side}", name, count, done, real, seconds[side], rate)


def compare_prediction(
    name: str,
    model: ModelSettings,
    views: Views,
    engine: Engine,
    report: Report,
    rounds: int,
    steps: int,
    rate: float,
) -> None:
    """Time prediction of ``full`` and ``box`` on the same views."""
    sides = {m.canvas: answerer(views, m, steps, engine) for m in (model, boxed(model))}
    for run in sides.values():
        run()
    seconds = take_turns(sides, rounds, engine.device)
    report.ratio(f"predict_box_over_full_{name}", seconds["full"], seconds["box"])
    real = flop_of_prediction(model, lengths_of(views.boxes, model), steps)
    padded = flop_of_prediction(model, np.full(len(views.rows), LENGTH), steps)
    report.add(f"predict_flop_full_over_box_{name}", padded / real, "x, the floor")
    for side, done in (("full", padded), ("box", real)):
        report.rates(f"predict_{side}", name, len(views.rows), done, real, seconds[side], rate)


def check_outputs(model: ModelSettings, examples: Examples, engine: Engine) -> None:
    """Compare the sides' outputs from the same start, before anything is timed."""
    few = examples.take(np.arange(2))
    expected = EagerTrainer(model, few, engine).loss().item()
    whole = replace(few, boxes=full_boxes(2, CANVAS))
    for name, settings, chosen in (("full", model, few), ("box", boxed(model), whole)):
        found = Trainer.of(settings, chosen, replace(engine, compile=False)).loss()
        if abs(found / expected - 1) > 1e-2:
            raise SystemExit(f"{name}: the loss is {found}, the oracle's is {expected}")


def around(report: Report) -> None:
    """Measure what surrounds the network: loader, decoding and votes, build, start-up."""
    cpu = torch.device("cpu")
    stream = ExampleStream(data_set(["arc1/training"], ["arc1/evaluation"]), 0)
    stream.examples(0, 768)
    loads = [lambda n=n: stream.examples(768 * n, 768 * (n + 1)) for n in range(1, 41)]
    times = [time_of(load, cpu) for load in loads]
    blocks = [sum(times[n : n + 8]) for n in range(0, 40, 8)]
    report.add("loader_examples_per_second", [8 * 768 / s for s in blocks])

    tasks = load_source("arc1/evaluation")
    rng = np.random.default_rng(0)
    codes = rng.integers(NUM_VIEWS, size=len(tasks) * 100).astype(np.uint32)
    outputs = [task.answers[0] for task in tasks for _ in range(100)]
    store, at_origin = GridStore.of(outputs), np.zeros((len(codes), 2), dtype=np.int64)
    canvases = encode_grids(store, np.arange(len(codes)), codes, at_origin, CANVAS)
    canvases = canvases.reshape(-1, CANVAS, CANVAS)
    is_wrong = rng.random(len(canvases)) < 0.5  # one cell of the first row turns black in each
    canvases[is_wrong, 0, 0] = FIRST_COLOR
    names = [task.task_id for task in tasks for _ in range(100)]

    def vote() -> None:
        grids = decode_grids(canvases, codes)
        count_votes(Prediction(n, 0, g, 0.5) for n, g in zip(names, grids, strict=True))

    vote()
    times = take_turns({"vote": vote}, 5, cpu)["vote"]
    report.add("decode_views_per_second", [len(codes) / s for s in times])

    def run(folder: str, *command: str) -> None:
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipeline = [sys.executable, "-m", "pipeline", *command]
        subprocess.run(pipeline, cwd=folder, env=here, check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        sources = ["--recipe", "arc1", "--set", "data.trained=arc1/training"]
        build = time_of(partial(run, folder, "build", *sources), cpu)
        report.add("build_arc1_1000_views_seconds", build, "s")
        helps = take_turns({"help": partial(run, folder, "--help")}, 6, cpu)["help"]
        report.add("help_seconds", helps[1:], "s")


def peak_memory(canvas: str, engine: Engine, count: int) -> None:
    """Print the most memory one training step takes, in MB, in a process of its own."""
    examples = ExampleStream(data_set(["arc1/training"], []), 0).examples(0, 2048)
    chosen = examples.take(spread_over_sizes(examples.boxes, count))
    trainer = Trainer.of(replace(SHORTER, canvas=canvas), chosen, engine)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def arc1_mix(count: int) -> Examples:
    """Return examples spread like the ARC-1 training set: both sets' pairs, concepts left out."""
    examples = ExampleStream(data_set(["arc1/training"], ["arc1/evaluation"]), 0).examples(0, 8192)
    return examples.take(spread_over_sizes(examples.boxes, count))


def measure_width_128(engine: Engine, report: Report, options: Namespace, rate: float) -> None:
    """Training steps of the demo's model on whole canvases' mix, beside products of its width."""
    examples = arc1_mix(4 if options.tiny else 64)
    trainer = Trainer.of(NARROW, examples, engine)
    trainer.step()
    trainer.step()
    seconds = take_turns({"step": trainer.step}, options.rounds, engine.device)["step"]
    flop = flop_of_training(NARROW, lengths_of(examples.boxes, NARROW))
    own = product_rate(engine, 4096, 128, swiglu_width(128, NARROW.expansion))
    for name, peak in (("products_of_width_128", own), ("products_of_width_512", rate)):
        report.add(f"train_d128_share_of_{name}", [flop / s / peak for s in seconds])


def bench_cpu(model: ModelSettings, engine: Engine, report: Report, options: Namespace) -> None:
    """The whole on a CPU: `make bench`."""
    around(report)
    rounds, count = options.rounds, options.examples
    for canvas in ("full", "box"):
        command = [sys.executable, __file__, "memory", "--canvas", canvas, "--examples", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report.add(f"train_{canvas}_peak_memory_mb", float(done.stdout), "MB")
    rate = product_rate(engine, 4096)
    report.add("product_gflop_per_second", rate / 1e9)
    measure_width_128(engine, report, options, rate)
    examples = arc1_mix(count)
    check_outputs(model, examples, engine)
    train = partial(compare_training, engine=engine, report=report, rounds=rounds, rate=rate)
    train("arc1", model, examples, beside_eager=True)
    arc2 = ExampleStream(data_set([], ["arc2/evaluation"]), 0).examples(0, 8192)
    arc2 = arc2.take(spread_over_sizes(arc2.boxes, count))
    train("arc2_eval", model, arc2, beside_eager=False)
    for name in ("arc1", "arc2"):
        views = views_of_tests(load_source(f"{name}/evaluation"), count)
        compare_prediction(f"{name}_eval", model, views, engine, report, rounds, 1, rate)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cpu", "memory"])
    parser.add_argument("--canvas", choices=["full", "box"], help="of what to take the memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="a small model and little of it")
    options = parser.parse_args()
    started = time.perf_counter()
    compiled = options.what != "memory" and not options.tiny
    engine = open_engine(EngineSettings(device="cpu", compile=str(compiled).lower()), print)
    if options.what == "memory":
        peak_memory(options.canvas, engine, options.examples)
        return
    report = Report(Path("runs/bench/cpu.json"), engine)
    bench_cpu(TINY if options.tiny else SHORTER, engine, report, options)
    report.add("bench_seconds", time.perf_counter() - started, "s")
    report.write()


if __name__ == "__main__":
    main()
