"""The folder of a run, where stages leave what later stages need."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.files import parse_json, read_bytes, write_atomic
from pipeline.console import warn
from pipeline.version import ROOT, code_version
from submission.rounds import round_folders


@dataclass(frozen=True, slots=True)
class Run:
    """``runs/NAME`` and the places in it."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Run":
        """Return the run of this name below the present folder."""
        if not name or name != Path(name).name or name.startswith("."):
            raise InputError(f"run {name!r}: a run's name is one folder name")
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
        """What a stage that trains has measured, a line per interval."""
        return self.folder / ("metrics.jsonl" if stage == "pretrain" else f"{stage}_metrics.jsonl")

    @property
    def adapted(self) -> Path:
        """The checkpoints of test-time training."""
        return self.folder / "adapted"

    @property
    def votes(self) -> Path:
        """The predictions of every round."""
        return self.folder / "votes"

    @property
    def has_votes(self) -> bool:
        """Whether any round has been answered."""
        return bool(round_folders(self.votes))

    @property
    def submission(self) -> Path:
        """The answers."""
        return self.folder / "submission.json"

    @property
    def challenges(self) -> Path:
        """The tasks answered, in Kaggle's form."""
        return self.folder / "challenges.json"

    @property
    def solutions(self) -> Path:
        """Their answers, where they are known."""
        return self.folder / "solutions.json"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.folder / "report" / "index.html"

    def record(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Note in ``config.json`` with which settings and code ``stage`` runs."""
        try:
            stages = self.recorded()
        except InputError as error:  # it is only a note
            warn(f"{error}; written anew")
            stages = {}
        stages[stage] = {"settings": settings, "code_version": code_version()}
        path = self.folder / "config.json"
        try:
            write_atomic(path, orjson.dumps(stages, option=orjson.OPT_INDENT_2))
        except OSError as error:
            warn(f"{path}: stays as it was ({error})")

    def recorded(self) -> dict[str, Any]:
        """Return what :meth:`record` noted, by stage."""
        path = self.folder / "config.json"
        if not path.exists():
            return {}
        stages = parse_json(read_bytes(path), path)
        if not isinstance(stages, dict) or not all(
            isinstance(made, dict) and isinstance(made.get("settings"), dict)
            for made in stages.values()
        ):
            raise InputError(f"{path}: not the settings of a run")
        return stages

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process and those it leads; refused when others have it.

        The lock goes with the process, however that ends.
        """
        import fcntl

        if not leads():
            yield
            return

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.folder}: another process is at work in it") from None
            yield


def leads() -> bool:
    """Return whether this process writes the files: the only one, or the first under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def digest(*parts: object) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


@cache
def code_digest() -> str:
    """Return a digest of the code that decides what a model answers."""
    hashed = hashlib.sha256()
    for folder in ("augment", "solver"):
        for path in sorted((ROOT / folder).glob("*.py")):
            hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()
