"""Arrays in files are read where their headers say what is expected, before memory is taken."""

import pickle
import zipfile
from io import BytesIO

import numpy as np
import pytest

from augment.arrays import read_array, read_arrays
from augment.errors import InputError


def npy(dtype, shape, content=b""):
    """A file whose header asks for an array of this type and shape."""
    file = BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


ODD = {
    "huge": npy("<u4", (2**40,)),
    "negative": npy("<u4", (-1,)),
    "two axes": npy("<u4", (1, 1), bytes(4)),
    "floats": npy("<f4", (1,), bytes(4)),
    "objects": npy("|O", (1,), pickle.dumps([print])),
    "cut": npy("<u4", (2,), bytes(4)),
    "longer": npy("<u4", (1,), bytes(8)),
    "nested": npy("<u4", ((1,),), bytes(4)),
    "no array": b"PK",
    "empty": b"",
    "no header": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
    "later format": b"\x93NUMPY\x09\x00",
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_another_array_is_one_line(tmp_path, name):
    path = tmp_path / "x.npy"
    path.write_bytes(ODD[name])
    packed = tmp_path / "x.npz"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", ODD[name])
    for read in (
        lambda: read_array(path, np.uint32),
        lambda: read_arrays(packed, {"x": (np.uint32, 1)}),
    ):
        with pytest.raises(InputError, match="not the array that was written") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 1000


def test_what_a_compressed_file_asks_for_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("augment.arrays._LARGEST", 10_000)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(9000, np.uint8), y=np.zeros(10_000, np.uint8))
    assert len(read_arrays(path, {"x": (np.uint8, 1)})["x"]) == 9000
    with pytest.raises(InputError, match=r"x\.npz: y: .*10,128 bytes are too many"):
        read_arrays(path, {"y": (np.uint8, 1)})
    np.savez(path, y=np.zeros(10_000, np.uint8))  # no larger than its file
    assert len(read_arrays(path, {"y": (np.uint8, 1)})["y"]) == 10_000
    with pytest.raises(InputError, match=r"x\.npz: z: "):
        read_arrays(path, {"z": (np.uint8, 1)})


def test_a_long_name_in_a_damaged_file_is_cut(tmp_path):
    """zipfile shows the name that a damaged header gives a file, of up to 65,535 characters."""
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(1000, dtype=np.int64))
    content = bytearray(path.read_bytes())
    content[26:28] = (5000).to_bytes(2, "little")  # the length of the first name
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: ") as caught:
        read_arrays(path, {"x": (np.int64, 1)})
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("part", ["header", "middle", "directory"])
def test_a_damaged_file_of_arrays_is_one_line(tmp_path, part):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(1000, dtype=np.int64))
    content = bytearray(path.read_bytes())
    at = {"header": 40, "middle": len(content) // 2, "directory": len(content) - 40}[part]
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: "):
        read_arrays(path, {"x": (np.int64, 1)})
