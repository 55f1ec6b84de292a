"""The stage from weights to answers, and how its score depends on what is spent on it."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from augment.errors import InputError
from augment.files import write_atomic
from augment.leaks import give_away
from augment.task import Task, write_challenges, write_solutions
from pipeline.clock import Stopwatch
from pipeline.console import TrainingLog, describe_engine, make_table, print_score, print_table, say
from pipeline.recipes import Settings
from pipeline.runs import ROOT, Run
from pipeline.sources import load_sources, within_side
from solver.settings import PredictSettings
from submission.score import score_submission
from submission.vote import count_votes, write_tally
from submission.writer import build_submission, write_submission

if TYPE_CHECKING:
    from augment.predictions import Prediction
    from solver.checkpoint import Weights
    from solver.engine import Engine

_ROUND_GROWTH = 4  # a round brings every test to this many times the views it had


def predict(settings: Settings, run: Run) -> None:
    """Answer the tasks of ``settings``: train on those never seen, predict views, vote, write."""
    from solver.engine import open_engine
    from solver.world import leave_world

    engine = open_engine(settings.engine, say)
    tasks, weights = choose_work(settings, run)
    if engine.world.leads:
        # The architecture travels in the checkpoint, whatever the recipe says.
        run.record("predict", asdict(replace(settings, model=weights.model.settings)))
        say(f"predict: {len(tasks)} tasks with {weights.source}, {describe_engine(engine)}")
    visible = [task.without_answers() for task in tasks]
    groups = prepare(visible, weights, settings, engine)
    predictions: list[Prediction] = []
    start, limit = time.monotonic(), settings.predict.time_limit_seconds
    for number, (group, group_weights) in enumerate(groups):
        left = sum(len(others) for others, _ in groups[number:])
        seconds = (limit - (time.monotonic() - start)) * len(group) / left if limit else math.inf
        predictions += _answer_in_rounds(group, group_weights, settings.predict, engine, seconds)
    if engine.world.leads:
        _write_answers(tasks, predictions, run)
    engine.world.wait()
    leave_world()


def sweep(settings: Settings, run: Run, views: Sequence[int], steps: Sequence[int]) -> None:
    """Score the tasks of ``settings`` with every number of views and supervision steps.

    Each number of steps is predicted once, with the most views; fewer views are a part of these,
    so their FLOP and seconds are the same part of what was counted and measured. The first number
    of steps has the start-up in its seconds.
    """
    from solver.engine import open_engine
    from solver.predict import plan_work, predict
    from solver.world import leave_world

    engine = open_engine(settings.engine, say)
    world, device = engine.world, engine.device
    tasks, weights = choose_work(settings, run)
    if any(task.answers is None for task in tasks):
        raise InputError("sweep scores, and the answers of some of these tasks are not known")
    visible = [task.without_answers() for task in tasks]
    start = time.monotonic()
    groups = prepare(visible, weights, settings, engine)
    prepared_in = time.monotonic() - start
    most = max((int(w.index.num_views.max()) for _, w in groups), default=1)
    views = sorted({min(number, most) for number in views})
    lines: list[dict[str, float]] = []
    for num_steps in steps:
        changed = replace(settings.predict, num_supervision_steps=num_steps)
        meter = _Meter()
        numbers: list[int] = []
        predictions: list[Prediction] = []
        start = time.monotonic()
        for group, group_weights in groups:
            work = plan_work(group_weights, group, max(views))
            numbers += work.views.tolist()
            predictions += predict(group_weights, group, work, changed, engine, meter)
        seconds, flop = time.monotonic() - start, world.sum(meter.flop, device)
        for num_views in views:
            counted = [p for n, p in zip(numbers, predictions, strict=True) if n < num_views]
            part = len(counted) / max(1, len(predictions))
            lines.append({
                "views": num_views,
                "steps": num_steps,
                **_score_votes(tasks, counted),
                "flop": flop * part,
                "seconds": seconds * part,
            })  # fmt: skip
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
        table = make_table("views", "steps", "pass@1 task", "output", "pass@2 task", "output",
                           "by votes", "FLOP", "seconds")  # fmt: skip
        for line in lines:
            table.add_row(*(_show(name, value) for name, value in line.items()))
        print_table(table)
    world.wait()
    leave_world()


def _show(name: str, value: float) -> str:
    if name.startswith("pass"):
        return f"{value:.2%}"
    return str(value) if isinstance(value, int) else f"{value:.2g}"


def _score_votes(tasks: Sequence[Task], predictions: "Iterable[Prediction]") -> dict[str, float]:
    """Return both metrics of the submission that the predictions vote for."""
    candidates = count_votes(predictions).candidates
    score = score_submission(build_submission(tasks, candidates)[0], tasks, candidates)
    found: dict[str, float] = {}
    for k in (1, 2):
        per_task, per_output = score.pass_at(k)
        found |= {f"pass@{k} per task": per_task, f"pass@{k} per output": per_output}
    return found | {"solved by votes": score.num_solved_by_votes}


def choose_work(settings: Settings, run: Run) -> "tuple[list[Task], Weights]":
    """Return the tasks to predict and the weights to do it with, which never saw the answers."""
    tasks = within_side(load_sources(settings.data.predicted), settings.data.max_side)
    if not tasks:
        raise InputError("no task to predict: data.predicted is empty or data.max_side too small")
    weights = _find_weights(settings, run)
    _refuse_taught(tasks, weights)
    return tasks, weights


def _find_weights(settings: Settings, run: Run) -> "Weights":
    from solver.checkpoint import latest_checkpoint, load_weights

    if settings.weights:
        return load_weights(Path(settings.weights))
    latest = latest_checkpoint(run.checkpoints)
    if latest is not None:
        return load_weights(latest)
    if settings.shipped_weights:
        path = Path(settings.shipped_weights)
        return load_weights(path if path.exists() else ROOT / path)
    raise InputError(
        f"{run.checkpoints}: no checkpoint; run pretrain first, or name one: weights=FOLDER"
    )


def _refuse_taught(tasks: Iterable[Task], weights: "Weights") -> None:
    """Raise :class:`InputError` when the weights were taught answers of what they would answer."""
    taught = set(weights.taught.tolist())
    known = [task.task_id for task in tasks if not taught.isdisjoint(give_away(task))]
    if known:
        raise InputError(
            f"{weights.source}: trained on the answers of {len(known)} of the tasks to predict, "
            f"so their score would mean nothing: {', '.join(known)}"
        )


def prepare(
    tasks: Sequence[Task],
    weights: "Weights",
    settings: Settings,
    engine: "Engine",
) -> "list[tuple[list[Task], Weights]]":
    """Return the tasks that fit the canvas, with the weights to answer them after any training."""
    side = weights.model.settings.canvas_side
    fitting = within_side(tasks, side)
    if len(fitting) < len(tasks) and engine.world.leads:
        say(
            f"predict: {len(tasks) - len(fitting)} tasks do not fit the {side}x{side} canvas of "
            "these weights and get a fallback answer"
        )
    known = [task for task in fitting if weights.index.find(task) is not None]
    unseen = [task for task in fitting if weights.index.find(task) is None]
    trained = fitting if settings.predict.adapt == "all" else unseen
    adapted = _adapt(trained, weights, settings, engine) if trained else None
    if adapted is not None and trained is fitting:
        return [(fitting, adapted)]
    groups = [(known, weights)] if known else []
    return groups if adapted is None else [*groups, (unseen, adapted)]


@dataclass(slots=True)
class _Meter:
    """Adds up the FLOP of predictions, and passes on how many views they were."""

    on_count: Callable[[int], object] = lambda _: None
    flop: float = 0.0

    def __call__(self, count: int, flop: float) -> None:
        self.on_count(count)
        self.flop += flop


def _answer_in_rounds(
    tasks: Sequence[Task],
    weights: "Weights",
    settings: PredictSettings,
    engine: "Engine",
    limit_seconds: float,
) -> "list[Prediction]":
    """Return the predictions of all views; under a limit of as many as fit, one view at least.

    Then one view of every test is answered first, and ever more as measured speed allows.
    """
    from tqdm import tqdm

    from solver.predict import plan_work, predict

    world, device = engine.world, engine.device
    work = plan_work(weights, tasks, settings.num_views)
    most = int(work.views.max()) + 1
    predictions: list[Prediction] = []
    num_views, start = 0, time.monotonic()
    hidden = None if world.leads else True  # None: no bar in a file
    with tqdm(total=len(work.codes), desc="predict", unit="view", disable=hidden) as bar:
        meter = _Meter(bar.update)
        while num_views < most:
            stop = most
            if limit_seconds < math.inf:
                stop = max(1, num_views * _ROUND_GROWTH)
                passed = time.monotonic() - start
                if num_views:
                    left = limit_seconds - passed
                    stop = min(stop, num_views + int(num_views * left / passed))
                stop = world.lead(stop, device)
            if stop <= num_views:
                break
            part = work.between(num_views, stop)
            predictions += predict(weights, tasks, part, settings, engine, meter)
            num_views = stop
    flop = world.sum(meter.flop, device)
    if world.leads:
        say(
            f"predict: {len(predictions):,} of {len(work.codes):,} views in "
            f"{time.monotonic() - start:.0f} s, {flop:.2g} FLOP"
        )
    return predictions


def _adapt(
    tasks: Sequence[Task], weights: "Weights", settings: Settings, engine: "Engine"
) -> "Weights | None":
    """Return weights trained on the tasks; None, and a line, when that diverges."""
    from solver.adapt import adapt

    leads = engine.world.leads
    if leads:
        say(f"adapt: {len(tasks)} tasks, {settings.adapt.num_steps} steps")
    with (
        Stopwatch(settings.adapt.time_limit_seconds) as clock,
        TrainingLog(settings.adapt, 0, engine.world) as log,
    ):
        try:
            adapted = adapt(
                weights,
                tasks,
                settings.data.views_per_task,
                settings.data.seed,
                settings.adapt,
                engine,
                should_stop=clock.should_stop,
                on_step=log.on_step,
                on_metrics=log.on_metrics,
            )
        except FloatingPointError as error:
            if leads:
                say(f"adapt: {error}; these tasks are answered without it")
            return None
    if clock.was_asked:
        raise KeyboardInterrupt
    return adapted


def _write_answers(tasks: Sequence[Task], predictions: "Iterable[Prediction]", run: Run) -> None:
    tally = count_votes(predictions)
    submission, coverage = build_submission(tasks, tally.candidates)
    write_tally(run.votes, tally)
    write_challenges(run.challenges, tasks)
    write_submission(run.submission, submission, tasks)
    say(f"{run.submission}: {coverage}; {tally.num_empty} empty predictions dropped")
    if all(task.answers is not None for task in tasks):
        write_solutions(run.solutions, tasks)
        print_score(score_submission(submission, tasks, tally.candidates))
    else:
        run.solutions.unlink(missing_ok=True)
        hidden = sum(task.answers is None for task in tasks)
        say(f"no score: the answers of {hidden} of {len(tasks)} tasks are not known")
