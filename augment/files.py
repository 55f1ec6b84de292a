"""JSON with clear errors, files and folders replaced atomically, and files checked by hash."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError


def read_bytes(path: Path) -> bytes:
    """Return the content of ``path``; raise :class:`InputError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(content: bytes, path: Path) -> object:
    """Return the JSON value in ``content``; ``path`` names it in the error."""
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    return value


def parse_unique_json(content: bytes, path: Path) -> object:
    """Like :func:`parse_json`, but a repeated key is an error instead of a silent overwrite."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{path}: duplicate key {repeated!r}")
        return values

    try:
        value: object = json.loads(content, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    return value


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces ``folder`` only if no error is raised."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk has no room for it


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``; a reader sees all of the old file or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers of one path from sharing a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``."""
    value = parse_json(read_bytes(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value``, for people to read."""
    write_atomic(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of the file's content; :class:`InputError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def write_description(path: Path, description: Mapping[str, object]) -> None:
    """Write what :func:`read_description` reads: JSON with ``format``, ``files`` and its digest."""
    content = {**description, "digest": _digest(description)}
    write_json(path, content)


def read_description(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Return the description of a folder whose every file has the SHA-256 it should have."""
    description = parse_json(read_bytes(path), path)
    if not isinstance(description, dict) or description.get("format") != version:
        raise InputError(f"{path}: not a {kind} of format {version}")
    if description.pop("digest", None) != _digest(description):
        raise InputError(f"{path}: differs from what was written")
    for name, expected in description["files"].items():
        file = path.parent / name
        if hash_file(file) != expected:
            raise InputError(f"{file}: differs from what {path.name} says was written")
    return description


def _digest(description: Mapping[str, object]) -> str:
    content = orjson.dumps(description, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()
