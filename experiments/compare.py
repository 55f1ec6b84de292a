"""`make experiment`: which recipe learns most from equal compute?

Small models on a fixed proxy: the ARC-1 training tasks that fit 10x10 (178 tasks). Their
demonstrations are trained, their 190 tests are held out; no evaluation task plays any part. Every
arm changes a few settings of the base and trains until the same number of FLOP is spent
(`solver.flop`), each with the same seeds. Along the way loss and exact accuracy are measured on the
held-out pairs under trained views (with the true box, after all supervision steps, moving average),
and at the end pass@k of the votes of 16 views, boxes inferred.

One line of JSON per measurement in runs/experiment/curves.jsonl; runs found there are not made
again. The table of means and spreads goes to runs/experiment/table.md.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from augment.dataset import Dataset
from augment.examples import ExampleStream
from augment.puzzles import PuzzleIndex
from pipeline.evaluation import Evaluation
from pipeline.recipes import demo
from pipeline.settings import PretrainSettings, Settings, change_settings
from pipeline.sources import load_source
from solver.engine import open_engine
from solver.flop import flop_of_training
from solver.model import TRM
from solver.packing import boxes_for, lengths_of
from solver.progress import TrainingProgress
from solver.puzzle_table import PuzzleTable
from solver.settings import ModelSettings
from solver.train import Training, require_finite, start_training, train

SIDE, VIEWS, SCORED_VIEWS, VOTING_VIEWS, MEASUREMENTS = 10, 63, 2, 16, 5
VOTED_BY = (1, 2, 100)
SHARES = ("exact", *(f"pass@{k}" for k in VOTED_BY))
FOLDER = Path("runs/experiment")

MODEL = ModelSettings(
    canvas="box",
    canvas_side=SIDE,
    dim=128,
    num_heads=4,
    rows_per="task",
    num_cycles=1,
    num_latent_steps=2,
    max_supervision_steps=4,
)
TRAIN = PretrainSettings(global_batch=32, lr=5e-4, warmup_steps=50, ema_rate=0.99)

# What was chosen.
FAST = (
    "model.rotary=grid",
    "model.rotary_base=100",
    "train.optimizer=normuon",
    "train.schedule=wsd",
    "model.max_supervision_steps=2",
    "model.num_latent_steps=1",
    "train.lr=1e-3",
)
ARMS: Mapping[str, tuple[str, ...]] = {
    "base": (),
    "row-per-view": ("model.rows_per=view",),
    "full-canvas": ("model.canvas=full",),
    "grid": ("model.rotary=grid", "model.rotary_base=100"),
    "normuon": ("train.optimizer=normuon",),
    "normuon-4x": ("train.optimizer=normuon", "train.matrix_lr=2e-3"),
    "wsd": ("train.schedule=wsd",),
    "dropout": ("model.dropout=0.1",),
    "steps2": ("model.max_supervision_steps=2",),
    "steps8": ("model.max_supervision_steps=8",),
    "latent1": ("model.num_latent_steps=1",),
    "cycles2": ("model.num_cycles=2",),
    "fast": FAST,
    "fast-latent2": (*FAST, "model.num_latent_steps=2"),
    "fast-steps1": (*FAST, "model.max_supervision_steps=1"),
    "fast-d192": (*FAST, "model.dim=192", "model.num_heads=6"),
    "cycles2-gradient2": ("model.num_cycles=2", "model.gradient_cycles=2"),
}


def settings_of(changes: tuple[str, ...]) -> Settings:
    """Return the settings of an arm."""
    return change_settings(replace(demo(), model=MODEL, train=TRAIN), changes)


def measure(training: Training, evaluation: Evaluation) -> dict[str, float]:
    """Return loss and exact accuracy of the moving average after all supervision steps."""
    loss, exact = evaluation.measure_loss(averaged(training), training.table)
    return {"loss": loss, "exact": exact}


def vote(training: Training, evaluation: Evaluation) -> dict[str, float]:
    """Return the shares of outputs solved by the votes of trained views."""
    shares = evaluation.score(averaged(training), training.table, VOTED_BY)
    return {f"pass@{k}": share for k, share in zip(VOTED_BY, shares, strict=True)}


def averaged(training: Training) -> TRM:
    """Return the model of the moving average."""
    return training.ema.averaged(training.model).eval()


def run(
    arm: str, changes: tuple[str, ...], seed: int, budget: float, num_tasks: int, compile: bool
) -> list[dict]:
    """Train one arm with one seed until the budget is spent, and return its measurements."""
    torch.set_num_threads(1)
    settings = settings_of(changes)
    engine = open_engine(replace(settings.engine, compile=str(compile).lower()), print)
    tasks = [t for t in load_source("arc1/training") if t.longest_side(with_solutions=True) <= SIDE]
    tasks = tasks[:num_tasks]
    hidden = tuple(task.without_solutions() for task in tasks)
    index = PuzzleIndex.of(hidden, VIEWS, 0, settings.model.rows_per)
    dataset = Dataset(hidden, index, (False,) * len(hidden), SIDE)
    stream = ExampleStream(dataset, seed)
    scored, voting = (
        Evaluation.of(tasks, dataset, num_views, engine)
        for num_views in (SCORED_VIEWS, VOTING_VIEWS)
    )

    sample = ExampleStream(dataset, 0).examples(0, 16 * dataset.num_pairs)
    boxes = boxes_for(settings.model, sample.boxes)
    lengths = lengths_of(boxes, settings.model)
    flop_of_step = (
        flop_of_training(settings.model, lengths) / len(lengths) * settings.train.global_batch
    )
    num_steps = round(budget / flop_of_step)
    train_settings = replace(settings.train, seed=seed, num_steps=num_steps)
    table = PuzzleTable(index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(TRM(settings.model, seed), table, train_settings, engine)
    stops = {round(num_steps * n / MEASUREMENTS) for n in range(1, MEASUREMENTS + 1)}
    start, lines = time.monotonic(), []

    progress = TrainingProgress(num_steps, engine.group)
    for step in train(training, stream, train_settings, engine, progress):
        if step not in stops:
            continue
        require_finite(training, engine.group)
        line = {"arm": arm, "changes": changes, "seed": seed, "budget": budget}
        line |= {"tasks": num_tasks}
        line |= {"step": step, "flop": step * flop_of_step}
        line |= {"seconds": round(time.monotonic() - start, 1)}
        line |= measure(training, scored)
        if step == num_steps:
            line |= vote(training, voting)
        print(json.dumps(line), flush=True)
        lines.append(line)
    return lines


def show(values: list[float], percent: bool = False) -> str:
    """Return the mean, and the smallest and largest where there are several."""
    values = [100 * value for value in values] if percent else values
    spread = f" ({min(values):.3g} .. {max(values):.3g})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3g}{spread}"


def table(lines: list[dict]) -> str:
    """Return the ends of the runs, and their loss along the way: means, and spreads over seeds."""
    arms: dict[str, list[dict]] = {}
    for line in lines:
        arms.setdefault(line["arm"], []).append(line)
    ends = {arm: [line for line in of_arm if "pass@1" in line] for arm, of_arm in arms.items()}
    arms = {
        n: arms[n] for n in sorted(arms, key=lambda n: statistics.mean(column(ends[n], "loss")))
    }
    last = ["| arm | seeds | steps | loss | exact, % | pass@1, % | pass@2, % | pass@100, % | s |"]
    way = [f"| loss at | {' | '.join(f'{n}/{MEASUREMENTS}' for n in range(1, MEASUREMENTS + 1))} |"]
    for part in (last, way):
        part.append("|---" * (part[0].count("|") - 1) + "|")
    for arm, of_arm in arms.items():
        runs = ends[arm]
        shares = (show(column(runs, name), percent=True) for name in SHARES)
        cells = [arm, str(len(runs)), str(runs[0]["step"]), show(column(runs, "loss")), *shares]
        last.append(f"| {' | '.join([*cells, show(column(runs, 'seconds'))])} |")
        steps = sorted({line["step"] for line in of_arm})
        losses = [column([line for line in of_arm if line["step"] == n], "loss") for n in steps]
        way.append(f"| {arm} | {' | '.join(map(show, losses))} |")
    return "\n".join([*last, "", *way, ""])


def column(lines: list[dict], name: str) -> list[float]:
    return [line[name] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--arm", action="append", default=[], help='one more: "name: a=b c=d"')
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=1.5e13, help="FLOP of a run")
    parser.add_argument("--tasks", type=int, default=400, help="tasks of the proxy, at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    arms = {name: ARMS[name] for name in options.arms}
    for arm in options.arm:
        name, _, changes = arm.partition(":")
        arms[name] = tuple(changes.split())
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "curves.jsonl"
    path.touch()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    finished = {run_of(line) for line in lines}
    planned = [
        (arm, changes, seed, options.budget, options.tasks)
        for seed in options.seeds
        for arm, changes in arms.items()
    ]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, *job, not options.no_compile) for job in planned if job not in finished
        ]
        for job in as_completed(jobs):
            measured = job.result()
            lines += measured
            with path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in measured)
    shown = table([line for line in lines if run_of(line) in planned])
    (FOLDER / "table.md").write_text(shown)
    print(shown)


def run_of(line: dict) -> tuple:
    """Return what identifies the run of a measurement."""
    return line["arm"], tuple(line["changes"]), line["seed"], line["budget"], line["tasks"]


if __name__ == "__main__":
    main()
