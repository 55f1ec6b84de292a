"""The stages: each goes from files to files, can be run again alone, and resumes.

Torch is imported only by the stages that compute with it, and what draws tables and progress bars
only where one is drawn, so that a command answers at once.
"""

import hashlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from augment.errors import InputError
from augment.files import write_atomic
from augment.leaks import give_away
from augment.puzzles import tasks_by_id
from augment.task import Task, read_challenges, write_challenges, write_solutions
from pipeline.clock import Stopwatch
from pipeline.recipes import DataSettings, Settings
from pipeline.runs import ROOT, Run, code_version
from pipeline.sources import (
    BUNDLED,
    fingerprint_sources,
    load_source,
    load_sources,
    refuse_leaks,
)
from solver.settings import PredictSettings, TrainSettings
from submission.score import ORACLE_KS, Score, score_json, score_submission
from submission.vote import count_votes, read_tally, write_tally
from submission.writer import build_submission, read_submission, write_submission

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from augment.dataset import Dataset
    from augment.predictions import Prediction
    from solver.checkpoint import Weights
    from solver.engine import Engine
    from solver.train import Metrics
    from solver.world import World

_UNTOUCHED_BY_TRAINING = ("checkpoint", "adapt", "predict", "weights", "shipped_weights", "engine")
_ROUND_GROWTH = 4  # a round brings every test to this many times the views it had
_FREE_TO_CHANGE = ("num_steps", "time_limit_seconds", "log_every")


def data(names: Sequence[str] = BUNDLED) -> None:
    """Print what each source of tasks holds; fetch what is not here yet."""
    table = _table("source", "tasks", "demonstrations", "test outputs", "answers", "largest side")
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
    _print(table)
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
            _say(f"build: {run.dataset} is whole and built from the same: kept")
            return dataset
        except InputError as error:
            _say(f"build: {error}; building it anew")
    tasks, with_answers = _choose_tasks(settings.data)
    index = PuzzleIndex.of(
        tasks, settings.data.views_per_task, settings.data.seed, settings.model.rows_per
    )
    dataset = Dataset(tasks, index, with_answers, settings.model.canvas_side)
    dataset.save(run.dataset, built_from)
    run.record("build", asdict(settings))
    num_bytes = sum(path.stat().st_size for path in run.dataset.iterdir())
    table = _table("tasks", "pairs", "views", "rows", "fewest views", "MB", "seconds")
    table.add_row(
        f"{len(tasks):,}",
        f"{dataset.num_pairs:,}",
        f"{len(index.codes):,}",
        f"{index.num_rows:,}",
        str(index.num_views.min()),
        f"{num_bytes / 1e6:.1f}",
        f"{time.monotonic() - start:.1f}",
    )
    _print(table)
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
    import torch

    from augment.dataset import Dataset, ExampleStream
    from solver.checkpoint import latest_checkpoint, restore_training, save_checkpoint
    from solver.engine import open_engine
    from solver.model import TRM
    from solver.puzzle_embedding import PuzzleTable
    from solver.train import start_training, train
    from solver.world import leave_world

    engine = open_engine(settings.engine, _say)
    world = engine.world
    world.share(settings.train.global_batch)  # an impossible share is found before any work
    built = build(settings, run) if world.leads else None
    world.wait()
    dataset = built or Dataset.load(run.dataset)
    model = TRM(settings.model, settings.train.seed)
    table = PuzzleTable(dataset.index.num_rows, torch.zeros(settings.model.dim))
    training = start_training(model, table, settings.train, engine)
    deciding = _what_decides_training(settings, engine)
    latest = latest_checkpoint(run.checkpoints)
    if latest is not None:
        restore_training(latest, training, dataset.index, deciding, world)
    if world.leads:
        run.record("pretrain", asdict(settings))
        _cut_metrics(run.metrics, training.step)
        _say(
            f"pretrain: {_count(model)} parameters, {_name(engine)}, "
            + (f"going on from {latest}" if latest else "from the start")
        )

    def checkpoint() -> None:
        save_checkpoint(
            run.checkpoints,
            training,
            dataset,
            deciding,
            code_version(),
            world,
            keep=settings.checkpoint.keep,
            save_carry=settings.checkpoint.carry,
        )

    with (
        Stopwatch(settings.train.time_limit_seconds) as clock,
        _TrainingLog(settings.train, training.step, world, run.metrics) as log,
    ):
        train(
            training,
            ExampleStream(dataset, settings.train.seed),
            settings.train,
            engine,
            should_stop=clock.should_stop,
            on_step=log.on_step,
            on_metrics=log.on_metrics,
            checkpoint_every=settings.checkpoint.every,
            on_checkpoint=checkpoint,
        )
    if world.leads:
        done = training.step >= settings.train.num_steps
        _say(
            f"pretrain: step {training.step} of {settings.train.num_steps}, "
            f"{latest_checkpoint(run.checkpoints)}"
            + ("" if done else "; the same command goes on from here")
        )
    leave_world()


def _what_decides_training(settings: Settings, engine: "Engine") -> dict[str, Any]:
    """Return the settings that must be the same for a run to go on as if never stopped."""
    values = {k: v for k, v in asdict(settings).items() if k not in _UNTOUCHED_BY_TRAINING}
    del values["model"]  # compared as the architecture
    for name in _FREE_TO_CHANGE:
        del values["train"][name]
    return {**values, "dtype": str(engine.dtype)}


class _TrainingLog:
    """The progress bar of a training run and, with a path, its metrics file."""

    def __init__(
        self, settings: TrainSettings, first_step: int, world: "World", path: Path | None = None
    ) -> None:
        from tqdm import tqdm

        self._path = path
        self._leads = world.leads
        self._batch = settings.global_batch
        self._mark = (time.monotonic(), first_step)
        self._bar = tqdm(
            total=settings.num_steps,
            initial=first_step,
            desc="train",
            unit="step",
            disable=None if world.leads else True,  # None: no bar in a file
            file=sys.stderr,
        )

    def __enter__(self) -> "_TrainingLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def on_step(self) -> None:
        self._bar.update()

    def on_metrics(self, metrics: "Metrics") -> None:
        if not self._leads:
            return
        now = time.monotonic()
        rate = (metrics.step - self._mark[1]) * self._batch / (now - self._mark[0])
        self._mark = (now, metrics.step)
        self._bar.set_postfix(
            loss=f"{metrics.values['loss']:.3f}",
            exact=f"{metrics.values['exact_accuracy']:.3f}",
            examples_per_second=f"{rate:.0f}",
        )
        if self._path is not None:
            line = {
                "step": metrics.step,
                **metrics.values,
                "examples_per_second": round(rate, 1),
                "flop": metrics.flop,
            }
            with self._path.open("ab") as file:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``: the run is going to write them again."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        kept = [ln for ln in lines if ln.endswith(b"\n") and orjson.loads(ln)["step"] <= step]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not the metrics of a run") from None
    write_atomic(path, b"".join(kept))


def predict(settings: Settings, run: Run) -> None:
    """Answer the tasks of ``settings``: train on those never seen, predict views, vote, write."""
    from solver.engine import open_engine
    from solver.world import leave_world

    engine = open_engine(settings.engine, _say)
    world = engine.world
    tasks = within_side(load_sources(settings.data.predicted), settings.data.max_side)
    if not tasks:
        raise InputError("no task to predict: data.predicted is empty or data.max_side too small")
    weights = _find_weights(settings, run)
    _refuse_taught(tasks, weights)
    if world.leads:
        # The architecture travels in the checkpoint, whatever the recipe says.
        run.record("predict", asdict(replace(settings, model=weights.model.settings)))
        _say(f"predict: {len(tasks)} tasks with {weights.source}, {_name(engine)}")
    visible = [task.without_answers() for task in tasks]
    predictions = _solve(visible, weights, settings, engine)
    if world.leads:
        _write_answers(tasks, predictions, run)
    world.wait()
    leave_world()


def export(run: Run, destination: Path) -> None:
    """Write the run's newest weights, without what only training needs, into ``destination``."""
    from solver.checkpoint import export_weights, latest_checkpoint

    latest = latest_checkpoint(run.checkpoints)
    if latest is None:
        raise InputError(f"{run.checkpoints}: no checkpoint to export")
    export_weights(latest, destination)
    num_bytes = sum(path.stat().st_size for path in destination.iterdir())
    _say(f"export: {latest} to {destination}, {num_bytes / 1e6:.1f} MB")


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


def _solve(
    tasks: Sequence[Task],
    weights: "Weights",
    settings: Settings,
    engine: "Engine",
) -> "list[Prediction]":
    """Return predictions for all tasks that fit the canvas, those never seen after training."""
    side = weights.model.settings.canvas_side
    fitting = within_side(tasks, side)
    world = engine.world
    if len(fitting) < len(tasks) and world.leads:
        _say(
            f"predict: {len(tasks) - len(fitting)} tasks do not fit the {side}x{side} canvas of "
            "these weights and get a fallback answer"
        )
    known = [task for task in fitting if weights.index.find(task) is not None]
    if settings.predict.adapt == "all":
        known = []
    unseen = [task for task in fitting if task not in known]
    groups = [(known, weights)]
    adapted = _adapt(unseen, weights, settings, engine) if unseen else None
    if adapted is not None:
        groups.append((unseen, adapted))
    predictions = []
    for group, group_weights in groups:
        if group:
            share = settings.predict.time_limit_seconds * len(group) / len(fitting)
            limited = replace(settings.predict, time_limit_seconds=share)
            predictions += _answer_in_rounds(group, group_weights, limited, engine)
    return predictions


def _answer_in_rounds(
    tasks: Sequence[Task], weights: "Weights", settings: PredictSettings, engine: "Engine"
) -> "list[Prediction]":
    """Return the predictions of one view of every test, then of ever more, while there is time."""
    from tqdm import tqdm

    from solver.predict import plan_work, predict

    world, device = engine.world, engine.device
    work = plan_work(weights, tasks, settings.num_views)
    predictions: list[Prediction] = []
    num_views, flop, start = 0, 0.0, time.monotonic()
    shown = None if world.leads else True
    with tqdm(total=len(work.codes), desc="predict", unit="view", disable=shown) as bar:

        def on_views(count: int, spent: float) -> None:
            nonlocal flop
            bar.update(count)
            flop += spent

        while num_views < int(work.views.max()) + 1:
            stop = max(1, num_views * _ROUND_GROWTH)
            if settings.time_limit_seconds and num_views:
                passed = time.monotonic() - start
                left = settings.time_limit_seconds - passed
                stop = min(stop, num_views + int(num_views * left / passed))
            stop = world.lead(stop, device)
            if stop <= num_views:
                break
            part = work.between(num_views, stop)
            predictions += predict(weights, tasks, part, settings, engine, on_views)
            num_views = stop
    flop = world.sum(flop, device)
    if world.leads:
        _say(
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
        _say(f"adapt: {len(tasks)} tasks, {settings.adapt.num_steps} steps")
    with (
        Stopwatch(settings.adapt.time_limit_seconds) as clock,
        _TrainingLog(settings.adapt, 0, engine.world) as log,
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
                _say(f"adapt: {error}; these tasks get a fallback answer")
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
    _say(f"{run.submission}: {coverage}; {tally.num_empty} empty predictions dropped")
    if all(task.answers is not None for task in tasks):
        write_solutions(run.solutions, tasks)
        _print_score(score_submission(submission, tasks, tally.candidates))
    else:
        run.solutions.unlink(missing_ok=True)
        hidden = sum(task.answers is None for task in tasks)
        _say(f"no score: the answers of {hidden} of {len(tasks)} tasks are not known")


def score(
    submission: Path, challenges: Path, solutions: Path, votes: Path | None, as_json: bool
) -> None:
    """Print the scores of a submission file, with those of all votes where there are any."""
    tasks = read_challenges(challenges, solutions)
    answers = read_submission(submission, tasks)
    candidates = None if votes is None else read_tally(votes).candidates
    found = score_submission(answers, tasks, candidates)
    if as_json:
        print(orjson.dumps(score_json(found), option=orjson.OPT_INDENT_2).decode())
        return
    table = _table("task", "test", "solved by", "rank in the votes")
    for task in found.tasks:
        for test, attempt in enumerate(task.attempts):
            rank = None if task.votes is None else task.votes[test]
            table.add_row(
                task.task_id,
                str(test),
                "-" if attempt is None else f"attempt {attempt + 1}",
                "-" if rank is None else str(rank + 1),
            )
    _print(table)
    _print_score(found)


def _print_score(found: Score) -> None:
    table = _table("metric", "per task", "per output")
    named = [(f"pass@{k}", found.pass_at(k)) for k in (1, 2)]
    for k in ORACLE_KS:
        oracle = found.oracle_pass_at(k)
        if oracle is not None:
            named.append((f"oracle pass@{k}", oracle))
    for name, (per_task, per_output) in named:
        table.add_row(name, f"{per_task:.2%}", f"{per_output:.2%}")
    _print(table)
    line = f"{found.num_solved} of {found.num_outputs} test outputs solved in two attempts"
    if found.oracle_pass_at(1) is not None:
        line += f", {found.num_solved_by_votes} of them by votes of the model"
    _say(line)


def _leave_out(tasks: Sequence[Task], task_ids: Sequence[str]) -> list[Task]:
    unknown = set(task_ids) - {task.task_id for task in tasks}
    if unknown:
        raise InputError(f"data.left_out: {', '.join(sorted(unknown))} not in data.trained")
    return [task for task in tasks if task.task_id not in task_ids]


def within_side(tasks: Iterable[Task], side: int) -> list[Task]:
    """Return the tasks whose visible grids are no larger; answers play no part."""
    return [task for task in tasks if task.longest_side() <= side]


def _name(engine: "Engine") -> str:
    processes = f", {engine.world.size} processes" if engine.world.size > 1 else ""
    return f"{engine.device}, {str(engine.dtype).removeprefix('torch.')}{processes}"


def _count(model: "torch.nn.Module") -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(soft_wrap=True, markup=False, emoji=False).print(table)


def _say(line: str) -> None:
    print(line, flush=True)
