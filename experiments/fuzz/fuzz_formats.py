"""The formats of checkpoints, votes and data sets for ``make fuzz``, read and written by own code.

Reading is strict, and writing can make a header claim something else than what follows it.
"""

import hashlib
import io
import json
import math
import random
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from fuzz_inputs import dump, mutate_tree
from fuzz_oracle import Doubts, Invalid, check, read_content, strict_json
from numpy.lib import format as npy
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

NUM_VIEWS = 8 * math.factorial(9)

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I8": "<i1",
          "U8": "<u1", "BOOL": "?", "U16": "<u2", "I16": "<i2", "U32": "<u4",
          "U64": "<u8"}  # fmt: skip
"""The types of safetensors that numpy has too."""
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def digest_of(description: Mapping[str, object]) -> str:
    """Return the digest that a description carries of the rest of it."""
    rest = {key: value for key, value in description.items() if key != "digest"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def rows_digest_of(puzzles: Mapping[str, Any], codes: NDArray[Any]) -> str:
    """Return the digest of a puzzle index, which is everything that decides what a row means."""
    state = hashlib.sha256(puzzles["rows_per"].encode())
    state.update(orjson.dumps([puzzles["task_ids"], puzzles["task_digests"]]))
    state.update(np.cumsum([0, *puzzles["num_views"]], dtype="<i8").tobytes())
    state.update(codes.astype("<u4").tobytes())
    return state.hexdigest()


def whole(raw: Any, least: int, most: int = 2**63 - 1) -> int:
    """Return a JSON value that is a whole number in a range."""
    check(type(raw) is int and least <= raw <= most, f"no whole number of {least}..{most}")
    return raw


def texts(raw: Any) -> list[str]:
    """Return a JSON value that is a list of texts."""
    check(isinstance(raw, list) and all(isinstance(text, str) for text in raw), "no texts")
    check(not any(re.search("[\ud800-\udfff]", text) for text in raw), "no Unicode")
    return raw


class Store:
    """A folder whose description names every file with its hash."""

    def __init__(self, folder: Path, name: str, version: int, needed: set[str], doubts: Doubts):
        """Read the description, and the files that it names."""
        self.doubts = doubts
        raw = strict_json(read_content(folder / name), doubts)
        check(isinstance(raw, dict), "no description")
        check(type(raw.get("format")) is int and raw["format"] == version, "another format")
        try:
            digest = digest_of(raw)
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"no digest ({error})") from None
        check(raw.get("digest") == digest, "not its digest")
        files = raw.get("files")
        check(isinstance(files, dict) and needed <= files.keys(), "files are missing")
        self.description = raw
        self.files = {file: read_content(folder / file) for file in files}
        for file, content in self.files.items():
            check(files[file] == hashlib.sha256(content).hexdigest(), f"{file}: not its hash")
            if "/" in file:
                doubts.append("a file elsewhere")

    def get(self, key: str, kind: type) -> Any:
        """Return a value of the description, which must be of a type."""
        check(type(self.description.get(key)) is kind, f"{key} is no {kind.__name__}")
        return self.description[key]

    def array(self, content: bytes) -> NDArray[Any]:
        """Return the array of an .npy file, which must be as long as its header says."""
        buffer = io.BytesIO(content)
        try:
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, fortran, dtype = read_header[npy.read_magic(buffer)](buffer)
        except Exception as error:
            raise Invalid(f"no array ({error!r})") from None
        check(not dtype.hasobject and min(shape, default=0) >= 0, "no array of numbers")
        size = math.prod(shape) * dtype.itemsize
        left = content[buffer.tell() :]
        check(size <= len(left), "an array that is cut short")
        if size < len(left) or dtype.byteorder == ">":
            self.doubts.append("an array of another kind")
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.frombuffer(left[:size], dtype).reshape(shape, order=order)

    def arrays(self, file: str, types: Mapping[str, str]) -> Arrays:
        """Return the arrays of an .npz file, by name; a reader may insist on their types."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.files[file])) as archive:
                members = archive.namelist()
                content = {name.removesuffix(".npy"): archive.read(name) for name in members}
        except Exception as error:
            raise Invalid(f"{file}: no archive ({error!r})") from None
        check(types.keys() <= content.keys(), f"{file}: arrays are missing")
        if content.keys() - types.keys():
            self.doubts.append("more arrays than needed")
        arrays = {name: self.array(content[name]) for name in types}
        if any(array.dtype != types[name] for name, array in arrays.items()):
            self.doubts.append("another type")
        return arrays

    def tensors(self, file: str) -> Arrays:
        """Return the tensors of a safetensors file."""
        content = self.files[file]
        start = 8 + int.from_bytes(content[:8], "little")
        check(8 < start <= len(content), f"{file}: no header")
        try:
            header = json.loads(content[8:start].decode())
            strict_json(content[8:start], self.doubts)
        except Invalid as error:  # the library's own reader may be less strict
            self.doubts.append(str(error))
        except (ValueError, RecursionError):
            raise Invalid(f"{file}: no header") from None
        if re.search(rb"-0\D", content[8:start]):  # which the library reads as a float
            self.doubts.append("minus zero")
        check(isinstance(header, dict), f"{file}: no header")
        if header.pop("__metadata__", None) is not None:
            self.doubts.append("more than tensors")
        tensors, end = {}, start
        try:
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                if entry.keys() != {"dtype", "shape", "data_offsets"}:
                    self.doubts.append("more than a tensor")
                dtype = np.dtype(DTYPES[entry["dtype"]])
                shape = [whole(n, 0) for n in entry["shape"]]
                first, stop = (start + whole(n, 0) for n in entry["data_offsets"])
                size = math.prod(shape) * dtype.itemsize
                check(first == end, f"{file}: a gap")
                check(stop == first + size <= len(content), f"{file}: not its size")
                tensors[name] = np.frombuffer(content[first:stop], dtype).reshape(shape)
                end = stop
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Invalid(f"{file}: no tensors ({error!r})") from None
        check(end == len(content), f"{file}: not its size")
        return tensors

    def index(self) -> list[Any]:
        """Return rows per what, ids, digests, numbers of views and view codes of a puzzle index."""
        raw = strict_json(self.files["puzzles.json"], self.doubts)
        codes = self.array(self.files["views.npy"])
        check(isinstance(raw, dict) and raw.get("rows_per") in ("view", "task"), "no puzzle index")
        ids, digests = texts(raw.get("task_ids")), texts(raw.get("task_digests"))
        views = raw.get("num_views")
        check(isinstance(views, list) and len(ids) == len(digests) == len(views), "other lengths")
        check(codes.ndim == 1 and codes.dtype == np.uint32, "no view codes")
        check(all(type(n) is int and 0 <= n <= len(codes) for n in views), "no numbers of views")
        check(sum(views) == len(codes) and (codes < NUM_VIEWS).all(), "other views")
        starts = np.cumsum([0, *views])[:-1]
        if 0 in views or (codes[starts] != 0).any() or len(set(ids)) < len(ids):
            self.doubts.append("views without the identity, or a task twice")
        if not all(text.isprintable() for text in ids + digests) or raw.keys() != {
            "rows_per", "task_ids", "task_digests", "num_views"
        }:  # fmt: skip
            self.doubts.append("an unusual puzzle index")
        return [raw["rows_per"], ids, digests, views, codes.tolist()]


def restore_weights(
    tensors: Arrays, shapes: Mapping[str, tuple[int, ...]], doubts: Doubts
) -> Arrays:
    """Return the tensors, which must have these shapes, as float32; rounded ones made whole."""
    restored = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}:scale")
        if name.endswith(":scale"):
            if name.removesuffix(":scale") not in tensors:
                doubts.append("surplus scales")
            continue
        if tensor.dtype == np.int8:
            check(scale is not None and scale.dtype.kind == "f", f"{name}: no scales")
            check(scale.shape == (*tensor.shape[:1], 1), f"{name}: other scales")
            tensor = tensor * scale.astype(np.float32)
        elif scale is not None or tensor.dtype == np.float64:
            doubts.append("surplus scales, or double precision")
        check(tensor.dtype.kind == "f", f"{name} is no float")
        with np.errstate(all="ignore"):
            restored[name] = tensor.astype(np.float32)
        check(np.isfinite(restored[name]).all(), f"{name} is not finite")
    check(restored.keys() == shapes.keys(), "other tensors")
    for name, shape in shapes.items():
        check(restored[name].shape == shape, f"{name} is of another shape")
    return restored


def decode(name: str, content: bytes) -> Any:
    """Return what a file of an intact store holds: a JSON value, or arrays by name."""
    if name.endswith(".json"):
        return json.loads(content)
    if name.endswith(".npy"):
        return {"": np.load(io.BytesIO(content))}
    if name.endswith(".npz"):
        return dict(np.load(io.BytesIO(content)))
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for key, entry in json.loads(content[8:start]).items():
        first, stop = (start + offset for offset in entry["data_offsets"])
        array = np.frombuffer(content[first:stop], DTYPES[entry["dtype"]])
        tensors[key] = array.reshape(entry["shape"])
    return tensors


def encode(rng: random.Random, name: str, value: Any, *, hostile: bool) -> bytes:
    """Return the content of a file; with a header that claims something else if ``hostile``."""
    if name.endswith(".json"):
        return dump(value)
    if name.endswith(".safetensors"):
        header: dict[str, Any] = {}
        data = b""
        for key, array in value.items():
            array = array if array.dtype in _NAMES else np.zeros(array.shape, np.float32)
            part = array.tobytes()
            header[key] = {
                "dtype": _NAMES[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [len(data), len(data) + len(part)],
            }
            data += part
        if hostile:
            mutate_tree(rng, header)
        text = dump(header)
        size = len(text)
        if hostile and rng.random() < 0.2:
            size = rng.choice((0, 2**31, 2**63, 2**64 - 1))
        return size.to_bytes(8, "little") + text + data
    chosen = rng.choice(sorted(value)) if hostile and value else None
    arrays = {k: _array_content(rng, array, hostile=k == chosen) for k, array in value.items()}
    if name.endswith(".npy"):
        return arrays.get("", b"")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content)
    return buffer.getvalue()


def _array_content(rng: random.Random, array: NDArray[Any], *, hostile: bool) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    if hostile:
        header, data = content[:128], content[128:]
        old = repr(array.shape)
        new = rng.choice(
            ("(10000000000000,)", "(-1,)", "(2,)", "(1000000,)", "(3, 0)", "x", "(1e3,)")
        )
        header = header.rstrip().replace(old.encode(), new.encode())[:127].ljust(127) + b"\n"
        content = header + data
    return content
