"""The stage build: write the data set of a run, tasks and the plan of their views."""

import shutil
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from augment.dataset import Dataset
from augment.errors import InputError
from augment.puzzle_index import PuzzleIndex
from pipeline.console import ProgressBar, say, say_table, warn
from pipeline.fingerprint import fingerprint
from pipeline.inputs import choose_trained_tasks
from pipeline.puzzle_sources import are_puzzles, load_puzzles
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import fingerprint_sources

if TYPE_CHECKING:  # it imports numba, which tasks do without
    from augment.puzzle_set import PuzzleSet


def build(settings: Settings, run: Run) -> "Dataset | PuzzleSet":
    """Return the data set of ``settings``, which is in the run afterwards.

    An intact one with the same fingerprint is kept.
    """
    with run.lock():
        return keep_dataset(settings, run)


def load_dataset(settings: Settings, run: Run, digest: str | None = None) -> "Dataset | PuzzleSet":
    """Return the data set in the run, with the fingerprint ``digest`` if one is given."""
    if are_puzzles(settings.data.trained):
        from augment.puzzle_set import PuzzleSet

        return PuzzleSet.load(run.dataset, digest)
    return Dataset.load(run.dataset, digest)


def keep_dataset(settings: Settings, run: Run) -> "Dataset | PuzzleSet":
    """Do what :func:`build` does, for a command that has the lock of the run."""
    for unfinished in run.folder.glob(f".{run.dataset.name}.*.tmp"):  # of a killed process
        shutil.rmtree(unfinished, ignore_errors=True)
    start = time.monotonic()
    digest = _fingerprint(settings)
    if run.dataset.exists():
        try:
            kept = load_dataset(settings, run, digest)
            say(f"build: {run.dataset} is intact and built from the same: kept")
            return kept
        except InputError as error:
            warn(f"build: {error}; building it anew")
    dataset: Dataset | PuzzleSet
    if are_puzzles(settings.data.trained):
        dataset = load_puzzles(settings, "trained")
        _require_fit(dataset, settings)
    else:
        dataset = make_dataset(settings)
    dataset.save(run.dataset, digest)
    run.record("build", asdict(settings))
    num_bytes = sum(path.stat().st_size for path in run.dataset.iterdir())
    seconds = time.monotonic() - start
    if not isinstance(dataset, Dataset):
        columns = {"kind": "", "puzzles": ",", "lowest rating": "g", "median": "g", "highest": "g",
                   "MB": ".1f", "seconds": ".1f"}  # fmt: skip
        ratings = np.quantile(dataset.ratings, (0, 0.5, 1))
        row = (dataset.kind, len(dataset.questions), *ratings, num_bytes / 1e6, seconds)
        say_table("build", columns, [row])
        return dataset
    tasks, index = dataset.tasks, dataset.index
    columns = {"tasks": ",", "pairs": ",", "views": ",", "rows": ",", "fewest views": ",",
               "MB": ".1f", "seconds": ".1f"}  # fmt: skip
    say_table("build", columns, [(
        len(tasks),
        dataset.num_pairs,
        len(index.codes),
        index.num_rows,
        int(index.num_views.min()),
        num_bytes / 1e6,
        seconds,
    )])  # fmt: skip
    return dataset


def _require_fit(puzzles: "PuzzleSet", settings: Settings) -> None:
    """Raise :class:`InputError` where the model is for grids of another size, or for views."""
    side, model = puzzles.canvas_side, settings.model
    if (model.canvas_side, model.rows_per) != (side, "view"):
        raise InputError(
            f"model.canvas_side is {model.canvas_side} and model.rows_per {model.rows_per}; these "
            f"puzzles need {side} and view"
        )


def make_dataset(settings: Settings) -> Dataset:
    """Return the tasks that ``settings`` train on, and the plan of their views.

    Fresh pairs are added last: views are distinct by what a task has without them.
    """
    data = settings.data
    tasks, with_solutions, fresh = choose_trained_tasks(data)
    with ProgressBar("build", "task", len(tasks), settings.log) as bar:
        index = PuzzleIndex.of(
            tasks,
            data.views_per_task,
            data.seed,
            settings.model.rows_per,
            data.color_maps,
            bar.update,
        )
    dataset = Dataset(tasks, index, with_solutions, settings.model.canvas_side)
    return dataset.with_fresh_pairs(fresh)


def _fingerprint(settings: Settings) -> str:
    """Return a fingerprint of all that decides which data set ``settings`` give."""
    data, model = settings.data, settings.model
    if are_puzzles(data.trained):
        files = fingerprint_sources(data.trained)
        return fingerprint(
            data.trained, data.seed, settings.puzzles.num_trained, model.canvas_side, files
        )
    files = fingerprint_sources((*data.trained, *data.fresh, *data.predicted, *data.evaluated))
    return fingerprint(asdict(data), model.rows_per, model.canvas_side, files)
