"""`make experiment`: which recipe learns most from equal compute?

The proxy: the ARC-1 training tasks that fit a canvas. Half of them are held out as a competition's
tasks would be: their demonstrations are trained, their tests are not. No other task is trained,
unless an arm says so, and no evaluation task plays any part. Every arm changes a few settings of
the recipe `arc1-small`, and trains until the same number of FLOP is spent (`solver.flop`), each
with the same seeds.
Along the way loss and exact accuracy are measured on the held-out tests under all dihedrals (with
the true box, after all supervision steps, moving average), and at the end pass@k of the votes of 16
views, boxes inferred.

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
from typing import Any, NamedTuple

import torch

from augment.examples import ExampleStream
from augment.view import NUM_DIHEDRALS
from pipeline.evaluation import Evaluation
from pipeline.inputs import choose_evaluated_tasks
from pipeline.recipes import arc1_small
from pipeline.settings import CheckpointSettings, Settings, change_settings
from pipeline.stages.build import make_dataset
from solver.engine import open_engine
from solver.flop import flop_of_training
from solver.kinds import new_model
from solver.model import Model
from solver.packing import boxes_for, lengths_of
from solver.progress import TrainingProgress
from solver.puzzle_table import PuzzleTable
from solver.train import Training, require_finite, start_training, train

VOTING_VIEWS, MEASUREMENTS = 16, 5
VOTED_BY = (1, 2, 100)
SHARES = ("accuracy", "exact", *(f"pass@{k}" for k in VOTED_BY))
FOLDER = Path("runs/experiment")

ARMS: Mapping[str, tuple[str, ...]] = {
    "arc1-small": (),
    "demo": (
        "model.conditioning=prefix",
        "model.prefix_length=16",
        "model.told=view",
        "model.patch=1",
        "model.convolution=false",
        "model.output=stablemax",
        "model.max_supervision_steps=2",
        "data.color_maps=all",
        "data.trained=arc1/training",
    ),
    "prefix": ("model.conditioning=prefix", "model.prefix_length=16"),
    "patch1": ("model.patch=1",),
    "patch3": ("model.patch=3",),
    "no-convolution": ("model.convolution=false",),
    "stablemax": ("model.output=stablemax",),
    "two-steps": ("model.max_supervision_steps=2",),
    "deep": ("model.num_latent_steps=3",),
    "d64": ("model.dim=64", "model.num_heads=2"),
    "d192": ("model.dim=192", "model.num_heads=6"),
    "d256": ("model.dim=256", "model.num_heads=8"),
    "batch32": ("train.global_batch=32",),
    "batch256-lr3x": ("train.global_batch=256", "train.lr=3e-3"),
    "dropout": ("model.dropout=0.1",),
    "lr-2x": ("train.lr=2e-3",),
    "lr-half": ("train.lr=5e-4",),
    "rows-lr-3x": ("train.rows_lr=3e-2",),
    "rows-lr-third": ("train.rows_lr=3e-3",),
    "colors-told": ("model.told=view", "data.color_maps=all"),
    "colors-of-inputs": ("data.color_maps=inputs",),
    "no-colors": ("data.color_maps=none",),
    "views15": ("data.views_per_task=15",),
    "others": ("data.trained=arc1/training",),
    "fresh": ("data.trained=arc1/training", "data.fresh=folder:rearc"),
    "hrm": ("model.kind=hrm", "model.num_cycles=2", "model.num_latent_steps=2",
            "model.max_supervision_steps=2"),
    "transformer": ("model.kind=transformer", "model.num_layers=4",
                    "model.max_supervision_steps=2"),
    "direct": ("model.kind=transformer", "model.num_layers=4"),
}  # fmt: skip


class Job(NamedTuple):
    """What decides a run."""

    arm: str
    changes: tuple[str, ...]
    seed: int
    budget: float
    """FLOP."""
    side: int
    num_evaluated: int


def settings_of(job: Job) -> Settings:
    """Return the settings of a run."""
    recipe = arc1_small()
    data = replace(
        recipe.data,
        predicted=(),
        evaluated=("arc1/training",),
        num_evaluated=job.num_evaluated,
        max_side=job.side,
    )
    base = replace(
        recipe,
        data=data,
        model=replace(recipe.model, canvas_side=job.side),
        # An average over the last hundred steps: the runs are short.
        train=replace(recipe.train, seed=job.seed, ema_rate=0.99),
        checkpoint=CheckpointSettings(),
    )
    return change_settings(base, job.changes)


def measure(training: Training, evaluation: Evaluation) -> dict[str, float]:
    """Return loss and accuracies of the moving average after all supervision steps."""
    loss, accuracy, exact = evaluation.measure_loss(averaged(training), training.table)
    return {"loss": loss, "accuracy": accuracy, "exact": exact}


def vote(training: Training, evaluation: Evaluation) -> dict[str, Any]:
    """Return the shares of outputs solved by the votes of trained views, and what became of each.

    For each output: the cells of its test's larger grid, and the place of the solution among the
    candidates, from 0; None where it is not among them.
    """
    score = evaluation.score(averaged(training), training.table)
    oracles = {k: score.oracle_pass_at(k) for k in VOTED_BY}
    places = [place for task in score.tasks for place in task.votes or ()]
    pairs = (pair for task in evaluation.tasks for pair in task.test_pairs)
    cells = [max(pair.input.size, pair.output.size) for pair in pairs]
    shares = {f"pass@{k}": oracle[1] for k, oracle in oracles.items() if oracle}
    return {**shares, "outputs": list(zip(cells, places, strict=True))}


def averaged(training: Training) -> Model:
    """Return the model of the moving average."""
    return training.ema.averaged(training.model).eval()


def run(job: Job, compile: bool) -> list[dict]:
    """Train one arm with one seed until the budget is spent, and return its measurements."""
    torch.set_num_threads(1)
    settings = settings_of(job)
    engine = open_engine(replace(settings.engine, compile=str(compile).lower()), print)
    dataset = make_dataset(settings)
    tasks = choose_evaluated_tasks(settings.data)
    train_settings = settings.train
    stream = ExampleStream(dataset, train_settings.seed)
    scored, voting = (
        Evaluation.of(tasks, dataset, num_views, engine)
        for num_views in (NUM_DIHEDRALS, VOTING_VIEWS)
    )

    sample = ExampleStream(dataset, 0).examples(0, 16 * dataset.num_pairs)
    boxes = boxes_for(settings.model, sample.boxes)
    lengths = lengths_of(boxes, settings.model)
    flop_of_step = (
        flop_of_training(settings.model, lengths) / len(lengths) * settings.train.global_batch
    )
    num_steps = round(job.budget / flop_of_step)
    train_settings = replace(train_settings, num_steps=num_steps)
    table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(new_model(settings.model, job.seed), table, train_settings, engine)
    stops = {round(num_steps * n / MEASUREMENTS) for n in range(1, MEASUREMENTS + 1)}
    # Every lane takes all its supervision steps on a pair, as good as none halts before.
    of_pair = settings.train.global_batch / settings.model.max_supervision_steps / dataset.num_pairs
    start, lines = time.monotonic(), []

    progress = TrainingProgress(num_steps, engine.group)
    for step in train(training, stream, train_settings, engine, progress):
        if step not in stops:
            continue
        require_finite(training, engine.group)
        line = {**job._asdict(), "step": step, "flop": step * flop_of_step}
        line |= {"presentations": round(step * of_pair, 1)}
        line |= {"seconds": round(time.monotonic() - start, 1)}
        line |= measure(training, scored)
        if step == num_steps:
            line |= vote(training, voting)
        print(json.dumps({n: v for n, v in line.items() if n != "outputs"}), flush=True)
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
    last = [
        "| arm | seeds | steps | presentations a pair | loss | accuracy, % | exact, % | pass@1, % "
        "| pass@2, % | pass@100, % | s |"
    ]
    way = [f"| loss at | {' | '.join(f'{n}/{MEASUREMENTS}' for n in range(1, MEASUREMENTS + 1))} |"]
    for part in (last, way):
        part.append("|---" * (part[0].count("|") - 1) + "|")
    for arm, of_arm in arms.items():
        runs = ends[arm]
        shares = (show(column(runs, name), percent=True) for name in SHARES)
        counts = (len(runs), runs[0]["step"], runs[0]["presentations"])
        cells = [arm, *map(str, counts), show(column(runs, "loss")), *shares]
        last.append(f"| {' | '.join([*cells, show(column(runs, 'seconds'))])} |")
        steps = sorted({line["step"] for line in of_arm})
        losses = [column([line for line in of_arm if line["step"] == n], "loss") for n in steps]
        way.append(f"| {arm} | {' | '.join(map(show, losses))} |")
    return "\n".join([*last, "", *way, ""])


def column(lines: list[dict], name: str) -> list[float]:
    return [line[name] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=["arc1-small", "demo"])
    parser.add_argument("--arm", action="append", default=[], help='one more: "name: a=b c=d"')
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=float, default=1.5e14, help="FLOP of a run")
    parser.add_argument("--side", type=int, default=20, help="longest side of a grid, cells")
    parser.add_argument("--held-out", type=int, default=170, help="tasks held out, at most")
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
    finished = {job_of(line) for line in lines}
    scale = (options.budget, options.side, options.held_out)
    planned = [
        Job(arm, changes, seed, *scale) for seed in options.seeds for arm, changes in arms.items()
    ]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, job, not options.no_compile) for job in planned if job not in finished
        ]
        for future in as_completed(jobs):
            measured = future.result()
            lines += measured
            with path.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in measured)
    shown = table([line for line in lines if job_of(line) in planned])
    (FOLDER / "table.md").write_text(shown)
    print(shown)


def job_of(line: dict) -> Job:
    """Return the run that a measurement belongs to."""
    return Job(**{name: line[name] for name in Job._fields} | {"changes": tuple(line["changes"])})


if __name__ == "__main__":
    main()
