"""The stages: each goes from files to files, can be run again alone, and resumes.

Torch is imported only by the stages that compute with it, and what draws tables and progress bars
only where one is drawn, so that a command answers at once.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from augment.errors import InputError
from augment.puzzles import tasks_by_id
from augment.task import Task, read_challenges
from pipeline.clock import Stopwatch
from pipeline.console import (
    TrainingLog,
    cut_metrics,
    describe_engine,
    make_table,
    print_score,
    print_table,
    say,
)
from pipeline.recipes import DataSettings, Settings
from pipeline.runs import Run
from pipeline.sources import (
    BUNDLED,
    fingerprint_sources,
    load_source,
    load_sources,
    refuse_leaks,
    within_side,
)
from pipeline.version import code_version
from submission.report import write_report
from submission.rounds import read_votes
from submission.score import Score, pass_json, score_json, score_submission
from submission.vote import RULES, Pool, by_demonstrations, pool_votes
from submission.writer import build_submission, read_submission

if TYPE_CHECKING:
    from augment.dataset import Dataset
    from augment.predictions import Prediction
    from solver.engine import Engine

_UNTOUCHED_BY_TRAINING = (
    "checkpoint",
    "adapt",
    "predict",
    "weights",
    "shipped_weights",
    "engine",
    "kaggle",
)

_FREE_TO_CHANGE = ("num_steps", "time_limit_seconds", "log_every")


def data(names: Sequence[str] = BUNDLED) -> None:
    """Print what each source of tasks holds; fetch what is not here yet."""
    table = make_table(
        "source", "tasks", "demonstrations", "test outputs", "answers", "largest side"
    )
    failures = []
    for name in names:
        try:
            tasks = load_source(name)
        except InputError as error:
            failures.append(str(error))
            continue
        table.add_row(
            name,
            str(len(tasks)),
            str(sum(len(task.train) for task in tasks)),
            str(sum(len(task.test_inputs) for task in tasks)),
            "known" if all(task.answers is not None for task in tasks) else "hidden",
            str(max(task.longest_side() for task in tasks)),
        )
    print_table(table)
    if failures:
        raise InputError("; ".join(failures))


def build(settings: Settings, run: Run) -> "Dataset":
    """Return the data set of ``settings``, which lies in the run afterwards.

    One that lies there already, whole and built from the same, is kept.
    """
    from augment.dataset import Dataset
    from augment.puzzles import PuzzleIndex

    start = time.monotonic()
    built_from = _digest_of_source(settings)
    if run.dataset.exists():
        try:
            dataset = Dataset.load(run.dataset, built_from)
            say(f"build: {run.dataset} is whole and built from the same: kept")
            return dataset
        except InputError as error:
            say(f"build: {error}; building it anew")
    tasks, with_answers = _choose_tasks(settings.data)
    index = PuzzleIndex.of(
        tasks, settings.data.views_per_task, settings.data.seed, settings.model.rows_per
    )
    dataset = Dataset(tasks, index, with_answers, settings.model.canvas_side)
    dataset.save(run.dataset, built_from)
    run.record("build", asdict(settings))
    num_bytes = sum(path.stat().st_size for path in run.dataset.iterdir())
    table = make_table("tasks", "pairs", "views", "rows", "fewest views", "MB", "seconds")
    table.add_row(
        f"{len(tasks):,}",
        f"{dataset.num_pairs:,}",
        f"{len(index.codes):,}",
        f"{index.num_rows:,}",
        str(index.num_views.min()),
        f"{num_bytes / 1e6:.1f}",
        f"{time.monotonic() - start:.1f}",
    )
    print_table(table)
    return dataset


def _digest_of_source(settings: Settings) -> str:
    """Return a digest of all that decides which data set ``settings`` give."""
    data = settings.data
    files = fingerprint_sources((*data.trained, *data.predicted))
    deciding = [asdict(data), settings.model.rows_per, settings.model.canvas_side, files]
    return hashlib.sha256(orjson.dumps(deciding)).hexdigest()


def _choose_tasks(data: DataSettings) -> tuple[tuple[Task, ...], tuple[bool, ...]]:
    """Return the tasks to train on, and of each whether its answers are trained on too."""
    trained = _leave_out(load_sources(data.trained), data.left_out)
    predicted = load_sources(data.predicted)
    refuse_leaks(trained, predicted)
    trained = [t for t in trained if t.longest_side(with_answers=True) <= data.max_side]
    hidden = [task.without_answers() for task in within_side(predicted, data.max_side)]
    tasks = tuple(tasks_by_id([*trained, *hidden]).values())
    return tasks, (True,) * len(trained) + (False,) * len(hidden)


def pretrain(settings: Settings, run: Run) -> None:
    """Train the model of ``settings`` until its steps are done or its time is up; resumes."""
    with run.lock():
        _pretrain(settings, run)


def _pretrain(settings: Settings, run: Run) -> None:
    import torch

    from augment.dataset import Dataset, ExampleStream
    from solver.checkpoint import (
        checkpoint_step,
        latest_checkpoint,
        restore_training,
        save_checkpoint,
        set_broken_aside,
    )
    from solver.engine import open_engine
    from solver.model import TRM
    from solver.pace import Pace
    from solver.puzzle_embedding import PuzzleTable
    from solver.train import start_training, train
    from solver.world import leave_world

    engine = open_engine(settings.engine, say)
    world = engine.world
    world.share(settings.train.global_batch)  # an impossible share is found before any work
    built = None
    if world.leads:
        built = build(settings, run)
        set_broken_aside(run.checkpoints, say)
    world.wait()
    dataset = built or Dataset.load(run.dataset)
    model = TRM(settings.model, settings.train.seed)
    table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(model, table, settings.train, engine)
    latest = latest_checkpoint(run.checkpoints)
    if latest is not None:
        deciding = _what_decides_training(settings, engine, checkpoint_step(latest))
        restore_training(latest, training, dataset.index, deciding, world)
    if world.leads:
        run.record("pretrain", asdict(settings))
        cut_metrics(run.metrics, training.step)
        say(
            f"pretrain: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{describe_engine(engine)}, "
            + (f"going on from {latest}" if latest else "from the start")
        )

    def checkpoint() -> None:
        save_checkpoint(
            run.checkpoints,
            training,
            dataset.index,
            dataset.taught,
            _what_decides_training(settings, engine, training.step),
            code_version(),
            world,
            keep=settings.checkpoint.keep,
            save_carry=settings.checkpoint.carry,
        )

    with (
        Stopwatch(settings.train.time_limit_seconds or math.inf) as clock,
        TrainingLog(settings.train, training.step, world, run.metrics) as log,
    ):
        train(
            training,
            ExampleStream(dataset, settings.train.seed),
            settings.train,
            engine,
            Pace(
                settings.train.num_steps,
                engine,
                should_stop=clock.should_stop,
                checkpoint_seconds=settings.checkpoint.every_seconds,
            ),
            on_step=log.on_step,
            on_metrics=log.on_metrics,
            checkpoint_every=settings.checkpoint.every,
            on_checkpoint=checkpoint,
        )
    if world.leads:
        done = training.step >= settings.train.num_steps
        say(
            f"pretrain: step {training.step} of {settings.train.num_steps}, "
            f"{latest_checkpoint(run.checkpoints)}"
            + ("" if done else "; the same command goes on from here")
        )
    leave_world()


def _what_decides_training(settings: Settings, engine: "Engine", step: int) -> dict[str, Any]:
    """Return the settings that must be the same for a run to go on as if never stopped.

    The number of steps may change as long as the learning rates of the next step stay the same.
    """
    from solver.optimizer import rate_factor

    values = {k: v for k, v in asdict(settings).items() if k not in _UNTOUCHED_BY_TRAINING}
    del values["model"]  # compared as the architecture
    for name in _FREE_TO_CHANGE:
        del values["train"][name]
    values["train"]["rate_of_next_step"] = rate_factor(
        step + 1, step / max(1, settings.train.num_steps), settings.train
    )
    return {**values, "dtype": str(engine.dtype)}


def export(run: Run, destination: Path) -> None:
    """Write the run's newest weights, without what only training needs, into ``destination``."""
    from solver.checkpoint import export_weights, latest_checkpoint

    latest = latest_checkpoint(run.checkpoints)
    if latest is None:
        raise InputError(f"{run.checkpoints}: no checkpoint to export")
    export_weights(latest, destination)
    num_bytes = sum(path.stat().st_size for path in destination.iterdir())
    say(f"export: {latest} to {destination}, {num_bytes / 1e6:.1f} MB")


def score(
    submission: Path, challenges: Path, solutions: Path, votes: Path | None, as_json: bool
) -> None:
    """Print the scores of a submission file, with those of all votes where there are any."""
    tasks = read_challenges(challenges, solutions)
    answers = read_submission(submission, tasks)
    by_weights = None if votes is None else read_votes(votes)
    candidates = None
    if by_weights is not None:  # Where nobody looked at demonstrations, this is the order by count.
        candidates = pool_votes(by_weights, by_demonstrations).candidates
    found = score_submission(answers, tasks, candidates)
    ranked = [] if by_weights is None else list(_rank(tasks, by_weights))
    if as_json:
        rankings = [{"votes": v, "ranking": name, **pass_json(one)} for v, name, one in ranked]
        content = {**score_json(found), "rankings": rankings}
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    table = make_table("task", "test", "solved by", "rank in the votes")
    for task in found.tasks:
        for test, attempt in enumerate(task.attempts):
            rank = None if task.votes is None else task.votes[test]
            table.add_row(
                task.task_id,
                str(test),
                "-" if attempt is None else f"attempt {attempt + 1}",
                "-" if rank is None else str(rank + 1),
            )
    print_table(table)
    if ranked:
        table = make_table("votes", "ranking", "pass@1 task", "output", "pass@2 task", "output")
        for which, name, one in ranked:
            shares = [share for k in (1, 2) for share in one.pass_at(k)]
            table.add_row(which, name, *(f"{share:.2%}" for share in shares))
        print_table(table)
    print_score(found)


def report(run: Run) -> None:
    """Write the page of a run, to be opened in a browser."""
    solutions = run.solutions if run.solutions.exists() else None
    tasks = read_challenges(run.challenges, solutions)
    made = run.recorded().get("predict", {}).get("settings", {}).get("predict", {})
    by_weights = read_votes(run.votes) if run.has_votes else {}
    rule = RULES.get(made.get("ranking"), by_demonstrations)
    tally = pool_votes(by_weights, rule, made.get("pool", "newest"))
    answers = read_submission(run.submission, tasks)
    predictions = chain.from_iterable(by_weights.values())
    write_report(run.report, run.folder.name, tasks, answers, tally, predictions)
    say(f"{run.report}: {run.report.stat().st_size / 1e6:.1f} MB")


def _rank(
    tasks: Sequence[Task], by_weights: "Mapping[int, Sequence[Prediction]]"
) -> "Iterator[tuple[str, str, Score]]":
    """Yield which votes, the ranking rule, and the score of the submission they make."""
    chosen: dict[str, tuple[Mapping[int, Sequence[Prediction]], Pool]] = {
        "newest weights first": (by_weights, "newest"),
        "all weights alike": (by_weights, "all"),
    }
    if len(by_weights) == 1:
        del chosen["all weights alike"]
    else:
        for step, predictions in sorted(by_weights.items()):
            chosen[f"after {step} steps alone"] = ({step: predictions}, "all")
    for which, (votes, pool) in chosen.items():
        for name, rule in RULES.items():
            candidates = pool_votes(votes, rule, pool).candidates
            submission, _ = build_submission(tasks, candidates)
            yield which, name, score_submission(submission, tasks, candidates)


def _leave_out(tasks: Sequence[Task], task_ids: Sequence[str]) -> list[Task]:
    unknown = set(task_ids) - {task.task_id for task in tasks}
    if unknown:
        raise InputError(f"data.left_out: {', '.join(sorted(unknown))} not in data.trained")
    return [task for task in tasks if task.task_id not in task_ids]
