"""Files: JSON with readable errors (`errors`), atomic writes, and folders that know their hash."""

import pytest

from augment.errors import InputError
from augment.files import (
    parse_unique_json,
    read_description,
    read_object,
    replace_folder,
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


def test_what_is_no_object_of_json_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "x.json"
    for content, reason in (("{", "not JSON"), ("[1]", "expected a JSON object")):
        path.write_text(content)
        with pytest.raises(InputError, match=f"{path}: {reason}") as caught:
            read_object(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="duplicate key 'a'"):
        parse_unique_json(b'{"b": {"a": 1, "a": 2}}', path)
    assert issubclass(InputError, ValueError)
