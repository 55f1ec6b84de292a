"""The folder of a run, where each stage leaves what later stages read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.files import read_object, write_atomic
from augment.grid import shorten
from pipeline.console import is_rank0, warn
from pipeline.version import code_version
from submission.rounds import round_folders


@dataclass(frozen=True, slots=True)
class Run:
    """The folder ``runs/NAME`` and the paths in it."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Run":
        """Return the run of this name below the present folder."""
        if not name or name != Path(name).name or name.startswith("."):
            raise InputError(f"run {name!r}: a run's name is one folder name")
        if not name.isprintable():
            raise InputError(f"run {name!r}: a run's name is made of printable characters")
        return cls(Path("runs") / name)

    @property
    def dataset(self) -> Path:
        """The data set of ``build``."""
        return self.folder / "dataset"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of ``pretrain``."""
        return self.folder / "checkpoints"

    def metrics_of(self, stage: str) -> Path:
        """The metrics of a stage that trains, a line for each interval."""
        return self.folder / ("metrics.jsonl" if stage == "pretrain" else f"{stage}_metrics.jsonl")

    @property
    def best(self) -> Path:
        """The checkpoint of the best evaluation during ``pretrain``."""
        return self.folder / "best"

    @property
    def adapted(self) -> Path:
        """The checkpoints of test-time training."""
        return self.folder / "adapted"

    @property
    def votes(self) -> Path:
        """The predictions of every round, which vote."""
        return self.folder / "votes"

    @property
    def has_votes(self) -> bool:
        """Whether there is any round of predictions."""
        return bool(round_folders(self.votes))

    @property
    def evaluation(self) -> Path:
        """What a model answered to the puzzles of ``evaluate``, and how good that is."""
        return self.folder / "evaluation"

    @property
    def submission(self) -> Path:
        """The two attempts at every test."""
        return self.folder / "submission.json"

    @property
    def challenges(self) -> Path:
        """The predicted tasks, in Kaggle's form."""
        return self.folder / "challenges.json"

    @property
    def solutions(self) -> Path:
        """Their solutions, where they are known."""
        return self.folder / "solutions.json"

    @property
    def report(self) -> Path:
        """The page of the run, for a browser."""
        return self.folder / "report" / "index.html"

    def record(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Write the settings and the code version of ``stage`` into ``config.json``."""
        stages = self.recorded()
        stages[stage] = {"settings": settings, "code_version": code_version()}
        path = self.folder / "config.json"
        try:
            write_atomic(path, orjson.dumps(stages, option=orjson.OPT_INDENT_2))
        except OSError as error:
            warn(f"{path}: stays as it was ({error})")

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Return what :meth:`record` wrote, by stage; nothing depends on these notes.

        What is no such record is left out, with a warning.
        """
        path = self.folder / "config.json"
        if not path.exists():
            return {}
        try:
            stages = read_object(path)
            orjson.dumps(stages)  # which takes less depth, and smaller numbers, than JSON has
        except InputError as error:
            warn(f"{error}; these notes are left out")
            return {}
        except orjson.JSONEncodeError as error:
            warn(f"{path}: not the settings of a run ({error}); these notes are left out")
            return {}
        whole = {
            stage: record
            for stage, record in stages.items()
            if isinstance(record, dict)
            and isinstance(record.get("settings"), dict)
            and isinstance(record.get("code_version"), str)
        }
        if others := stages.keys() - whole.keys():
            warn(f"{path}: not the settings of stages: {shorten(sorted(others))}; left out")
        return whole

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for the processes of this command; raise where another one has the lock.

        The lock ends with the process, however that ends.
        """
        import fcntl

        if not is_rank0():
            yield
            return

        self.folder.mkdir(parents=True, exist_ok=True)
        # Of a pipe nobody waits for the other end.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
        with os.fdopen(os.open(self.folder / ".lock", flags, 0o666), "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.folder}: another process is at work in it") from None
            yield
