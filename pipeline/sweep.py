"""How the score depends on what prediction may spend."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import orjson

from augment.errors import InputError
from augment.files import write_atomic
from augment.predictions import Prediction
from augment.task import Task
from pipeline.clock import Stopwatch
from pipeline.console import Progress, say, say_table
from pipeline.job import Meter
from pipeline.learning import Learning
from pipeline.prediction import choose_tasks, choose_weights, split_tasks
from pipeline.recipes import Settings
from pipeline.runs import Run
from solver.checkpoint import Weights
from solver.engine import open_engine
from solver.predict import plan_work, predict
from solver.world import leave_world
from submission.score import score_submission
from submission.vote import count_votes
from submission.writer import build_submission

_COLUMNS = {
    "views": "",
    "steps": "",
    "pass@1 task": ".2%",
    "pass@1 output": ".2%",
    "pass@2 task": ".2%",
    "pass@2 output": ".2%",
    "by votes": "",
    "FLOP": ".2g",
    "seconds": ".2g",
}


def sweep(settings: Settings, run: Run, views: Sequence[int], steps: Sequence[int]) -> None:
    """Score the tasks of ``settings`` with every number of views and supervision steps."""
    with run.lock():
        _sweep(settings, run, views, steps)


def _sweep(settings: Settings, run: Run, views: Sequence[int], steps: Sequence[int]) -> None:
    """See :func:`sweep`.

    Each number of steps is predicted once, with the most views; fewer views are a part of these,
    so their FLOP and seconds are the same part of what was counted and measured. The first number
    of steps has the start-up in its seconds. Candidates are ranked by count.
    """
    engine = open_engine(settings.engine, say)
    world, device = engine.world, engine.device
    tasks = choose_tasks(settings)
    if any(task.answers is None for task in tasks):
        raise InputError("sweep scores, and the answers of some of these tasks are not known")
    weights = choose_weights(settings, run, tasks, world)
    start = time.monotonic()
    known, unseen = split_tasks(tasks, weights, settings, engine)
    groups: list[tuple[Sequence[Task], Weights]] = [(known, weights)] if known else []
    if unseen:
        learning = Learning(settings, run, engine, Stopwatch(), unseen, weights)
        if learning.may_go_on:
            learning.go_on(1.0)
        groups.append((unseen, learning.weights()))
    prepared_in = time.monotonic() - start
    most = max((int(w.index.num_views.max()) for _, w in groups), default=1)
    views = sorted({min(number, most) for number in views})
    lines: list[dict[str, float]] = []
    works = [plan_work(weights, group, max(views)) for group, weights in groups]
    with Progress("sweep", "setting", len(steps), settings.log, is_shown=world.leads) as progress:
        for num_steps in steps:
            changed = replace(settings.predict, num_supervision_steps=num_steps)
            meter = Meter()
            meter.begin()
            predictions: list[Prediction] = []
            start = time.monotonic()
            for (group, group_weights), work in zip(groups, works, strict=True):
                answered = predict(group_weights, group, work, changed, engine, meter)
                predictions += [prediction for prediction in answered if prediction is not None]
            seconds, flop = time.monotonic() - start, world.sum(meter.flop, device)
            for num_views in views:
                counted = [p for p in predictions if p.view < num_views]
                part = len(counted) / max(1, len(predictions))
                lines.append({
                    "views": num_views,
                    "steps": num_steps,
                    **_score_votes(tasks, counted),
                    "flop": flop * part,
                    "seconds": seconds * part,
                })  # fmt: skip
            progress.update()
    if world.leads:
        found = {
            "tasks": len(tasks),
            "outputs": sum(len(task.test_inputs) for task in tasks),
            "weights": weights.source,
            "prepared_in_seconds": prepared_in,
            "settings": asdict(replace(settings, model=weights.model.settings)),
            "scores": lines,
        }
        write_atomic(run.folder / "sweep.json", orjson.dumps(found, option=orjson.OPT_INDENT_2))
        say_table("sweep", _COLUMNS, [list(line.values()) for line in lines])
    world.wait()
    leave_world()


def _score_votes(tasks: Sequence[Task], predictions: Iterable[Prediction]) -> dict[str, float]:
    """Return both metrics of the submission that the predictions vote for."""
    candidates = count_votes(predictions).candidates
    score = score_submission(build_submission(tasks, candidates)[0], tasks, candidates)
    found: dict[str, float] = {}
    for k in (1, 2):
        per_task, per_output = score.pass_at(k)
        found |= {f"pass@{k} per task": per_task, f"pass@{k} per output": per_output}
    return found | {"solved by votes": score.num_solved_by_votes}
