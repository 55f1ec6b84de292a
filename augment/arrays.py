"""Arrays read from files whose headers are compared with what is expected before any is read."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from augment.errors import InputError

# Bytes of an array that is compressed; more than any that this program writes, and no file of a few
# MB can ask for all of the memory.
_LARGEST = 2**30
_LONGEST_REASON = 200  # characters; zipfile shows names that a damaged file may have made long
_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array(path: Path, dtype: DTypeLike, num_axes: int = 1) -> NDArray[Any]:
    """Return the array in a ``.npy`` file.

    Raises :class:`InputError` where the file is no array, or one of another type or number of axes.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, dtype, num_axes)
    except Exception as error:  # whatever numpy says of a file that is no array
        raise InputError(f"{path}: not the array that was written ({_reason(error)})") from None


def read_arrays(path: Path, kinds: Mapping[str, tuple[DTypeLike, int]]) -> dict[str, NDArray[Any]]:
    """Return the arrays in an ``.npz`` file of which ``kinds`` names type and number of axes.

    Raises :class:`InputError`, naming the array, if one is missing, too large or of another kind.
    """
    arrays, name = {}, "all"
    try:
        with zipfile.ZipFile(path) as archive:
            for name, (dtype, num_axes) in kinds.items():
                size = archive.getinfo(f"{name}.npy").file_size
                if size > max(_LARGEST, path.stat().st_size):
                    raise InputError(f"{size:,} bytes are too many")
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = _read(file, size, dtype, num_axes)
    except Exception as error:  # whatever zipfile, zlib and numpy say of a damaged file
        reason = _reason(error)
        raise InputError(f"{path}: {name}: not the array that was written ({reason})") from None
    return arrays


def _read(file: IO[bytes], size: int, dtype: DTypeLike, num_axes: int) -> NDArray[Any]:
    """Return the array that is all of a file of ``size`` bytes."""
    shape, _, found = _READ_HEADER[npy.read_magic(file)](file)
    if found != np.dtype(dtype) or len(shape) != num_axes:
        raise InputError(f"{found} of {len(shape)} axes, not {np.dtype(dtype)} of {num_axes}")
    if file.tell() + math.prod(shape) * found.itemsize != size:
        raise InputError(f"the shape {shape} is not that of {size:,} bytes")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _reason(error: Exception) -> str:
    """Return what is wrong in one line."""
    reason = " ".join((str(error) or repr(error)).split())
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
