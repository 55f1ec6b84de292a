"""What makes test-time training of unseen tasks better at equal compute?

The proxy is that of `make experiment` (compare.py): the ARC-1 training tasks that fit a canvas,
half of them held out. Weights that know other tasks alone (or none, without `--weights`) are
trained on the demonstrations of the held-out tasks until the budget of FLOP is spent. An arm names
the share of it in which each task trains apart, after all have trained together, and changes of
settings. Then the votes of 16 views are scored. No evaluation task plays any part.

    PYTHONPATH=. python experiments/test_time.py --list-held-out    # for data.left_out of others
    PYTHONPATH=. python experiments/test_time.py --weights runs/others/checkpoints/step_000003600 \
        --arm "together: apart=0" --arm "both: apart=0.5 adapt.per_task_batch=8" --budget 1e13

One line of JSON a run is added to runs/experiment/test_time.jsonl; runs found there are not made
again.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from compare import FOLDER, VOTED_BY, VOTING_VIEWS, Job, settings_of

from augment.dataset import Dataset
from augment.errors import InputError
from augment.examples import ExampleStream
from augment.task import Task
from augment.view import NUM_DIHEDRALS
from pipeline.evaluation import Evaluation
from pipeline.inputs import choose_evaluated_tasks, describe_leak
from pipeline.settings import Settings
from solver.adapt import make_adaptation_dataset, start_adaptation
from solver.engine import Engine, open_engine
from solver.flop import flop_of_training
from solver.packing import boxes_for, lengths_of
from solver.progress import TrainingProgress
from solver.settings import AdaptSettings
from solver.train import require_finite, train
from solver.weights import Weights, load_weights, new_weights


class Run(NamedTuple):
    """What decides a run."""

    arm: str
    weights: str
    """Checkpoint folder; empty: a new model."""
    apart: float
    """The share of the budget in which each task trains apart."""
    changes: tuple[str, ...]
    seed: int
    budget: float
    """FLOP."""
    side: int
    num_evaluated: int

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        changes = (f"adapt.seed={self.seed}", "adapt.ema_share=0.1", *self.changes)
        return settings_of(Job("", changes, 0, self.budget, self.side, self.num_evaluated))


class Learned(NamedTuple):
    """Weights after training on some tasks, and what it took."""

    weights: Weights
    examples: int
    flop: float

    def measure(self, tasks: Sequence[Task], engine: Engine) -> tuple[float, float, list]:
        """Return loss and exact share of the tests, and the place of each among the votes."""
        model, table, index = self.weights.model.eval(), self.weights.table, self.weights.index
        dataset = Dataset(tuple(tasks), index, (False,) * len(tasks), model.settings.canvas_side)
        views, voting = (
            Evaluation.of(tasks, dataset, number, engine)
            for number in (NUM_DIHEDRALS, VOTING_VIEWS)
        )
        loss, _, exact = views.measure_loss(model, table)
        score = voting.score(model, table)
        return loss, exact, [place for task in score.tasks for place in task.votes or ()]


def learn(
    weights: Weights,
    tasks: Sequence[Task],
    settings: Settings,
    adapt: AdaptSettings,
    budget: float,
    engine: Engine,
) -> Learned:
    """Return what the weights are after training on the demonstrations of ``tasks``."""
    data, model = settings.data, weights.model.settings
    dataset = make_adaptation_dataset(tasks, data.views_per_task, data.seed, model, data.color_maps)
    stream = ExampleStream(dataset, adapt.seed)
    sample = stream.examples(0, 16 * dataset.num_pairs)
    lengths = lengths_of(boxes_for(model, sample.boxes), model)
    flop_of_step = flop_of_training(model, lengths) / len(lengths) * adapt.global_batch
    num_steps = max(1, round(budget / flop_of_step))
    warmup_steps = min(adapt.warmup_steps, num_steps // 10)
    adapt = replace(adapt, num_steps=num_steps, warmup_steps=warmup_steps)
    training = start_adaptation(weights, dataset, adapt, engine)
    for _ in train(training, stream, adapt, engine, TrainingProgress(num_steps, engine.group)):
        pass
    require_finite(training, engine.group)
    learned = replace(
        weights,
        model=training.ema.averaged(training.model),
        table=training.table,
        index=dataset.index,
    )
    return Learned(learned, num_steps * adapt.global_batch, num_steps * flop_of_step)


def run_one(run: Run) -> dict[str, Any]:
    """Train together, then apart, and return what was measured."""
    torch.set_num_threads(1)
    settings = run.settings
    engine = open_engine(replace(settings.engine, compile="true"), print)
    weights = (
        load_weights(Path(run.weights))
        if run.weights
        else new_weights(settings.model, settings.adapt.seed)
    )
    tasks = choose_evaluated_tasks(settings.data)
    if leak := describe_leak(tasks, weights):
        raise InputError(leak)
    start, adapt, stages = time.monotonic(), settings.adapt, []
    if run.apart < 1:
        together = learn(weights, tasks, settings, adapt, (1 - run.apart) * run.budget, engine)
        weights = together.weights
        stages.append(together)
        measured = [together.measure(tasks, engine)]
    if run.apart > 0:
        budget, measured = run.apart * run.budget / len(tasks), []
        for task in tasks:
            apart = learn(weights, [task], settings, adapt.per_task, budget, engine)
            stages.append(apart)
            measured.append(apart.measure([task], engine))
    places = [place for _, _, some in measured for place in some]
    num_tests = [len(some) for _, _, some in measured]
    losses, exacts, _ = zip(*measured, strict=True)
    shares = {f"pass@{k}": np.mean([p is not None and p < k for p in places]) for k in VOTED_BY}
    num_pairs = sum(len(task.train) for task in tasks)
    return {
        **run._asdict(),
        "flop": sum(stage.flop for stage in stages),
        "presentations": round(sum(stage.examples for stage in stages) / num_pairs, 1),
        "seconds": round(time.monotonic() - start, 1),
        "loss": float(np.average(losses, weights=num_tests)),
        "exact": float(np.average(exacts, weights=num_tests)),
        **{name: float(value) for name, value in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", action="append", default=[], help='"name: apart=S a.b=c ..."')
    parser.add_argument("--weights", default="", help="trained on other tasks; empty: none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=float, default=5e12, help="FLOP of a run")
    parser.add_argument("--side", type=int, default=12, help="longest side of a grid, cells")
    parser.add_argument("--held-out", type=int, default=110, help="tasks held out, at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--list-held-out", action="store_true", help="print their ids and stop")
    options = parser.parse_args()
    scale = (options.budget, options.side, options.held_out)
    if options.list_held_out:
        data = Run("", "", 0, (), 0, *scale).settings.data
        print(",".join(task.task_id for task in choose_evaluated_tasks(data)))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "test_time.jsonl"
    path.touch()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    finished = {run_of(line) for line in lines}
    planned = []
    for seed in options.seeds:
        for arm in options.arm:
            name, _, changes = arm.partition(":")
            apart, *others = changes.split()
            share = float(apart.removeprefix("apart="))
            planned.append(Run(name, options.weights, share, tuple(others), seed, *scale))
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        jobs = [pool.submit(run_one, run) for run in planned if run not in finished]
        for future in as_completed(jobs):
            line = future.result()
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def run_of(line: dict[str, Any]) -> Run:
    """Return the run that a line belongs to."""
    return Run(**{name: line[name] for name in Run._fields} | {"changes": tuple(line["changes"])})


if __name__ == "__main__":
    main()
