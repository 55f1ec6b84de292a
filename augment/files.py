"""JSON with clear errors, files replaced atomically, folders when they are whole, and hashes."""

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from augment.errors import InputError, OtherFormatError
from augment.grid import shorten

_MAX_JSON_BYTES = 50_000_000
"""The largest file of JSON that is read, in bytes: ten times the largest of ARC's."""

_MOST = 2**63
"""Where the whole numbers of a description end."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[][{},]', re.DOTALL)
"""What the structure of JSON is known by; strings, so that brackets in them are none.

A string that nobody closes ends with the file; else all of its quotes would be tried.
"""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file; of pipes and devices nobody knows when, or whether, they end."""

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # else a pipe waits for its other end

    try:
        with open(path, "rb", opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path}: not a regular file")
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read(file: BufferedReader, most: int = -1) -> bytes:
    """Return the content, or the first ``most`` bytes of it; /proc has files of no known size."""
    return file.read(most) or b""  # None where a file of the kernel has nothing to say yet


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; raise :class:`InputError` when it cannot be read."""
    with open_regular(path) as file:
        return _read(file)


def read_json(path: Path) -> object:
    """Return the JSON value in a regular file of at most 50 MB; see :func:`parse_json`."""
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > _MAX_JSON_BYTES:
            raise InputError(
                f"{path}: {num_bytes / 1e6:.0f} MB of JSON, more than {_MAX_JSON_BYTES / 1e6:.0f}"
            )
        content = _read(file, _MAX_JSON_BYTES)
    return parse_json(content, path)


def parse_json(content: bytes, where: Path | str) -> object:
    """Return the JSON value in ``content``; errors open with ``where``.

    Raises :class:`InputError` for what other readers may take: another encoding than UTF-8, a byte
    order mark, a key that comes twice in an object, NaN and infinity, half of a surrogate pair.
    """
    try:
        if _SURROGATE.search(content):
            orjson.loads(content)  # refuses half of a pair, which the reader below does not
        return json.loads(
            content.decode(),
            object_pairs_hook=_as_object,  # orjson keeps the last of two values with one key
            parse_float=_as_float,
            parse_constant=_as_float,
        )
    except RecursionError:
        raise InputError(f"{where}: not JSON (nested too deeply)") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from None


def _as_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {shorten(key)}")
            seen.add(key)
    return values


def _as_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # NaN, Infinity, 1e999
        raise ValueError(f"{shorten(text)} is no finite number")
    return value


def split_object(content: bytes) -> Iterator[bytes]:
    """Yield each member of the JSON object in ``content`` as an object of its own, not parsed.

    So a member that is no JSON costs no other, as long as its brackets are closed.
    """
    depth = begin = 0
    for token in _TOKEN.finditer(content):
        sign = token[0]
        if depth == 0 and sign != b"{":
            return
        if sign in (b"[", b"{"):
            depth += 1
            if depth == 1:
                begin = token.end()
        elif sign in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and sign == b","):
            yield b"{" + content[begin : token.start()] + b"}"
            begin = token.end()
        if depth == 0:
            return
    if depth:
        yield b"{" + content[begin:] + b"}"  # the end is missing


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces ``folder`` only if no error is raised.

    A process that is killed at the moment of replacing leaves no ``folder``. What a killed process
    left of a new one is named ``.NAME.*.tmp``, and stays.
    """
    # No other process has this name, and nothing that lies there can have it.
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.is_dir():  # of a pipe, rmtree would wait for the other end
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
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {shorten(value)}")
    return value


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by the JSON of ``value``, for people to read."""
    write_atomic(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a regular file; :class:`InputError` when it cannot be read."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_description(path: Path, description: Mapping[str, object]) -> None:
    """Write what :func:`read_description` reads: JSON with ``format``, ``files`` and its digest."""
    content = {**description, "digest": _digest(description)}
    write_json(path, content)


def read_description(
    path: Path, kind: str, version: int, files: Iterable[str] = (), **fields: type
) -> dict[str, Any]:
    """Return the description of a folder whose every file has the SHA-256 it should have.

    ``files`` are among them, and the value of each of ``fields`` has its type; whole numbers are
    not negative, and fit into 64 bits. All else is an :class:`InputError`, also where the digest is
    right; an :class:`OtherFormatError` where that is all that is wrong.
    """
    description = read_json(path)
    if not isinstance(description, dict):
        raise InputError(f"{path}: not a {kind} of format {version}")
    try:
        is_whole = description.pop("digest", None) == _digest(description)
    except orjson.JSONEncodeError:  # deeper, or of larger numbers, than what is written
        is_whole = False
    if description.get("format") != version:
        error = OtherFormatError if is_whole else InputError
        raise error(f"{path}: not a {kind} of format {version}")
    if not is_whole:
        raise InputError(f"{path}: differs from what was written")
    for name, expected in {"files": dict, **fields}.items():
        value = description.get(name)
        if type(value) is not expected or (isinstance(value, int) and not 0 <= value < _MOST):
            raise InputError(f"{path}: {name} is {shorten(value)}, not a {expected.__name__}")
    for name in files:
        if name not in description["files"]:
            raise InputError(f"{path}: {name} is not among its files")
    for name, digest in description["files"].items():
        if not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{path}: {shorten(name)} is no file of its folder")
        file = path.parent / name
        if hash_file(file) != digest:
            raise InputError(f"{file}: differs from what {path.name} says was written")
    return description


def _digest(description: Mapping[str, object]) -> str:
    content = orjson.dumps(description, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()
