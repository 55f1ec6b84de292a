"""The two files that home and Kaggle exchange: ``manifest.json`` goes, ``arc_trm.json`` returns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from augment.errors import InputError
from augment.files import read_description, read_object, write_description
from augment.grid import shorten

Stage = Literal["predict", "pretrain"]
"""What a notebook does; notebooks and packages are named by it."""

MANIFEST = "manifest.json"
REPORT = "arc_trm.json"
_MANIFEST_FORMAT = 1
_REPORT_FORMAT = 1
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package is made of and how its notebook shall run it."""

    stage: Stage
    run: str
    recipe: str
    changes: tuple[str, ...]
    machine_shape: str
    licence: str
    code_version: str
    files: Mapping[str, str]
    """The SHA-256 of every file, by its name."""
    sizes: Mapping[str, int]
    """The number of bytes of every file, by its name."""

    def write(self, folder: Path) -> None:
        """Write the manifest into the folder of the package, with a digest of its own content."""
        write_description(folder / MANIFEST, {"format": _MANIFEST_FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a package of which every file still has its SHA-256."""
        path = folder / MANIFEST
        return parse_record(cls, read_description(path, "package", _MANIFEST_FORMAT), path)


@dataclass(frozen=True, slots=True)
class Report:
    """What a notebook did; the counts are None where the notebook does not count them."""

    package: str
    """The digest of the manifest of the package that ran."""
    answered_by_model: int | None = None
    answered_by_fallback: int | None = None
    steps: int | None = None
    """How many steps of test-time training the newest votes come after."""
    solved_outputs: int | None = None
    outputs: int | None = None

    def write(self, folder: Path, files: Mapping[str, str]) -> None:
        """Write the report, with the SHA-256 of ``files`` named relative to ``folder``."""
        counts = {name: value for name, value in asdict(self).items() if value is not None}
        write_description(folder / REPORT, {"format": _REPORT_FORMAT, **counts, "files": files})

    @classmethod
    def read(cls, folder: Path) -> "Report":
        """Return the report of a notebook whose every file has come with its SHA-256."""
        path = folder / REPORT
        return parse_record(cls, read_description(path, "report", _REPORT_FORMAT), path)


def read_digest(package: Path) -> str:
    """Return the digest of a package's manifest: by it the notebook knows its package."""
    path = package / MANIFEST
    digest = read_object(path).get("digest")
    if not isinstance(digest, str):
        raise InputError(f"{path}: no digest, got {shorten(digest)}")
    return digest


def parse_record(record: type[_Record], raw: object, path: Path) -> _Record:
    """Return the dataclass ``record`` made of the JSON object ``raw`` that was read from ``path``.

    It is an InputError when a field is missing or has another type; the line names file and field.
    """
    try:
        return TypeAdapter(record).validate_python(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        reason = f"{problem['msg']}, got {shorten(problem['input'])}"
        raise InputError(f"{path}: {field}: {reason}") from None
