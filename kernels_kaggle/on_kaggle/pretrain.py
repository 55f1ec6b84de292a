"""What ``pretrain.ipynb`` does: train, going on from what the notebook left the last time."""

import glob
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from kernels_kaggle.exchange import Report, read_digest
from kernels_kaggle.on_kaggle.process import run_stage
from kernels_kaggle.on_kaggle.report import write_report
from kernels_kaggle.on_kaggle.session import Session
from pipeline.console import say
from solver.checkpoint_files import (
    can_resume,
    checkpoint_step,
    find_checkpoints,
    latest_checkpoint,
)

_SECONDS_TO_SAVE = 300.0  # left for the start of the program and for its last checkpoint
_TASKS = "tasks"  # the folder with the tasks of this run


def pretrain(session: Session, inputs: Path) -> None:
    """Train until done or until the session's time is over.

    Training goes on from this run's newest checkpoint below ``inputs``, where Kaggle mounts the
    output that this notebook left before. A failure is no error if there is a newer checkpoint
    afterwards: that output is worth keeping.
    """
    run = session.run
    earlier = _find_newest_checkpoint(inputs, session)
    if earlier is not None:
        say(f"going on from {earlier}")
        _copy(earlier.iterdir(), run.checkpoints / earlier.name)
        _copy(earlier.parents[1].glob(run.metrics_of("pretrain").name), run.folder)
    changes = []
    for split, name in (("training", "trained"), ("evaluation", "predicted")):
        files = list(session.package.glob(f"arc-agi_{split}_*.json"))
        # Copies, as their path is a part of the settings, and mounts move.
        _copy(files, session.working / _TASKS)
        changes.append(f"data.{name}=" + (f"kaggle/{split}:{_TASKS}" if files else ""))
    end = session.end(0)
    least, to_stop = 1.0, end - _SECONDS_TO_SAVE
    if limit := session.settings.train.time_limit_seconds:
        to_stop = min(to_stop, time.time() + limit)

    def with_limit() -> list[str]:
        return [*changes, f"train.time_limit_seconds={max(least, to_stop - time.time())}"]

    try:
        run_stage("pretrain", session, with_limit, end)
    except RuntimeError as error:
        newest = latest_checkpoint(run.checkpoints)
        if newest is None or (
            earlier is not None and checkpoint_step(newest) <= checkpoint_step(earlier)
        ):
            raise
        say(f"{error}; {newest.name} is kept, and the next run goes on from there")
    for folder in (run.dataset, session.working / _TASKS):  # both are made in seconds
        shutil.rmtree(folder, ignore_errors=True)
    write_report(session, Report(read_digest(session.package)))


def _find_newest_checkpoint(inputs: Path, session: Session) -> Path | None:
    """Return the run's newest checkpoint that training can resume, wherever inputs are mounted."""
    folder = session.run.checkpoints.relative_to(session.working)
    # Unlike Path.glob this follows links to folders.
    folders = glob.glob(f"{inputs}/**/{glob.escape(str(folder))}", recursive=True)
    checkpoints = [path for name in folders for path in find_checkpoints(Path(name))]
    return max(filter(can_resume, checkpoints), key=checkpoint_step, default=None)


def _copy(paths: Iterable[Path], folder: Path) -> None:
    """Copy files into a folder, but not their modes: what is mounted may be read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)
