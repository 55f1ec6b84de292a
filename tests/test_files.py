"""Files: JSON with readable errors (`errors`), atomic writes, and folders that know their hash."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from commands import ROOT

from augment import files
from augment.errors import InputError
from augment.files import (
    parse_json,
    read_bytes,
    read_description,
    read_object,
    replace_folder,
    split_object,
    write_atomic,
    write_description,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr("augment.files.os.fsync", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def fill(folder, content):
    with replace_folder(folder) as temporary:
        (temporary / "file").write_text(content)
        assert content != "broken", "made to fail"


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "folder"
    fill(folder, "first")
    (folder / "another").touch()
    fill(folder, "second")
    with pytest.raises(AssertionError, match="made to fail"):
        fill(folder, "broken")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [folder]


def test_two_writers_of_a_folder_do_not_meet(tmp_path):
    with replace_folder(tmp_path / "folder") as first:
        (first / "file").write_text("first")
        fill(tmp_path / "folder", "second")
        assert (tmp_path / "folder" / "file").read_text() == "second"
    assert (tmp_path / "folder" / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_description_finds_every_change_of_its_folder(tmp_path):
    (tmp_path / "file").write_text("content")
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    path = tmp_path / "about.json"
    write_description(path, {"format": 3, "files": {"file": digest}, "more": "x"})
    assert read_description(path, "thing", 3)["more"] == "x"
    with pytest.raises(InputError, match="not a thing of format 4"):
        read_description(path, "thing", 4)
    (tmp_path / "file").write_text("content!")
    with pytest.raises(InputError, match=r"file: differs from what about\.json says"):
        read_description(path, "thing", 3)
    path.write_text(path.read_text().replace('"x"', '"y"'))
    with pytest.raises(InputError, match=r"about\.json: differs from what was written"):
        read_description(path, "thing", 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"files": {}}, "file is not among its files"),
        ({"files": None}, "files is None, not a dict"),
        ({"files": {"../file": "x"}}, "'../file' is no file of its folder"),
        ({"files": {"/etc/passwd": "x"}}, "'/etc/passwd' is no file of its folder"),
        ({"files": {"a\n\0": "x"}}, "is no file of its folder"),
        ({"files": {"x" * 300: "x"}}, "cannot be read"),
        ({"files": {"pipe": "x"}}, "pipe: not a regular file"),
        ({"step": "3"}, "step is '3', not a int"),
        ({"step": -1}, "step is -1, not a int"),
        ({"step": True}, "step is True, not a int"),
        ({"deep": json.loads("[" * 900 + "]" * 900)}, "differs from what was written"),
    ],
)
def test_a_description_that_cannot_have_been_written_is_one_line(tmp_path, changes, reason):
    path, description = tmp_path / "about.json", {"format": 3, "step": 1, "files": {"file": "x"}}
    os.mkfifo(tmp_path / "pipe")
    try:
        write_description(path, {**description, **changes})
    except TypeError:
        path.write_text(json.dumps({**description, **changes, "digest": "x"}))
    required = ("file",) if changes.get("files") == {} else ()
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        read_description(path, "thing", 3, required, step=int)
    assert len(str(caught.value).splitlines()) == 1


def test_folders_beside_one_that_is_replaced_stay(tmp_path):
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "mine").touch()
    fill(tmp_path / "folder", "first")
    assert (tmp_path / ".folder.tmp" / "mine").exists()


def test_what_is_no_object_of_json_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "x.json"
    for content, reason in (("{", "not JSON"), ("[1]", "expected a JSON object")):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{path}: {reason}") as caught:
            read_object(path)
        assert "\n" not in str(caught.value)
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xef\xbb\xbf[1]", "Unexpected UTF-8 BOM"),
        ("[1]".encode("utf-16"), "can't decode byte"),
        (b'["\xff"]', "can't decode byte 0xff"),
        (b"[1] 2", "Extra data"),
        (b"[NaN]", "'NaN' is no finite number"),
        (b"[-Infinity]", "'-Infinity' is no finite number"),
        (b"[1e999]", "'1e999' is no finite number"),
        (b"[1" + 5000 * b"0" + b"]", "integer"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"b": [{"a": 1, "a": 2}]}', "duplicate key 'a'"),
        (b'{"\\n": 1, "\\u000a": 2}', r"duplicate key '\n'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_that_others_read_otherwise_is_refused_in_one_line(content, reason):
    with pytest.raises(InputError) as caught:
        parse_json(content, "here")
    assert str(caught.value).startswith("here: not JSON (")
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_json_is_read():
    value = {"a": [1, "\U0001f600", 1000.0, None, True], "b": {"a": 10**30}}
    content = rb'{"a": [1, "\ud83d\ude00", 1e3, null, true], "b": {"a": 1' + 30 * b"0" + b"}}"
    assert parse_json(content, "here") == value


READ = """
import sys
from pathlib import Path
from augment.errors import InputError
from augment.files import hash_file, read_bytes, read_object
for read in (read_object, read_bytes, hash_file):
    try:
        read(Path(sys.argv[1]))
    except InputError as error:
        print(error)
"""


def read_in_a_process(path):
    """Return the errors of three ways to read a file; one that hangs fails after minutes."""
    done = subprocess.run(
        [sys.executable, "-c", READ, path], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_files_that_may_never_end_are_not_read(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        assert read_in_a_process(path) == [f"{path}: not a regular file"] * 3
    assert read_in_a_process(tmp_path) == [f"{tmp_path}: cannot be read (Is a directory)"] * 3


class Silent(io.BytesIO):
    """A file that has nothing to say yet, as /proc/kmsg."""

    def read(self, size=-1, /):
        return None


def test_a_file_that_has_nothing_to_say_is_empty(tmp_path, monkeypatch):
    @contextmanager
    def open_silent(path):
        with path.open("rb") as file, Silent() as silent:
            silent.fileno = file.fileno
            yield silent

    path = tmp_path / "silent.json"
    path.write_bytes(b"")
    monkeypatch.setattr(files, "open_regular", open_silent)
    assert read_bytes(path) == b""
    with pytest.raises(InputError, match=r"silent\.json: not JSON"):
        read_object(path)


REPLACE = """
import sys
from pathlib import Path
from augment.files import replace_folder
try:
    with replace_folder(Path(sys.argv[1])):
        pass
except OSError as error:
    print(error.strerror)
"""


def test_a_pipe_in_the_place_of_a_folder_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", REPLACE, pipe]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout == "Not a directory\n", done.stderr
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_repeated_key_among_many_is_found_at_once(tmp_path):
    """To count every key in all of them would take hours."""
    path = tmp_path / "keys.json"
    keys = [f'"{number}": 0' for number in (*range(400_000), 399_999)]
    path.write_text(f"{{{', '.join(keys)}}}")
    assert read_in_a_process(path) == [f"{path}: not JSON (duplicate key '399999')"]


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(120_000_000)
    with pytest.raises(InputError, match=r"large\.json: 120 MB of JSON, more than 50"):
        read_object(path)


def test_members_of_an_object_are_found_whatever_they_hold():
    members = [b'"a": [1, {"b": "}{,]["}]', rb' "\",{" : 1', b'"a": [NaN, 07, [[[]]]]', b'"c": x ']
    assert list(split_object(b" {" + b",".join(members) + b"} {3}")) == [
        b"{" + member + b"}" for member in members
    ]
    assert list(split_object(b'{"a": 1, "b": [')) == [b'{"a": 1}', b'{ "b": [}']
    assert list(split_object(b"{}")) == [b"{}"]
    assert list(split_object(b'\xef\xbb\xbf{"a": 1}')) == [b'{"a": 1}']
    for content in (b"", b'["a", 1]', b'"{"', b"1"):
        assert list(split_object(content)) == []
