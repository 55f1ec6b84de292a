"""Every form of task file gives the same tasks, and every bad file is named in one line."""

import json
import os
from functools import partial

import pytest
from commands import task_json, write_task_folder

from augment.errors import InputError
from augment.task_files import (
    list_task_files,
    parse_task,
    read_challenges,
    read_task_file,
    read_task_folder,
    write_challenges,
    write_solutions,
    write_task_file,
)
from submission.writer import read_submission

PAIR = {"input": [[1, 2]], "output": [[3]]}
TASK = {"train": [PAIR], "test": [PAIR]}


def dump(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def as_json(task):
    return (
        task.task_id,
        [(p.input.tolist(), p.output.tolist()) for p in task.train],
        [grid.tolist() for grid in task.test_inputs],
        task.solutions and [grid.tolist() for grid in task.solutions],
    )


def test_every_form_gives_the_same_tasks(arc1, tmp_path):
    tasks = arc1[:20]
    dump(tmp_path / "all.json", {task.task_id: task_json(task) for task in tasks})
    write_challenges(tmp_path / "challenges.json", tasks)
    write_solutions(tmp_path / "solutions.json", tasks)
    write_task_folder(tmp_path / "one", tasks)
    for number, task in enumerate([tasks[0], tasks[1].without_solutions()]):
        write_task_file(tmp_path / f"{number}.json", task)
        raw = json.loads((tmp_path / f"{number}.json").read_text())
        assert raw == task_json(task)
    expected = [as_json(task) for task in tasks]
    two_files = read_challenges(tmp_path / "challenges.json", tmp_path / "solutions.json")
    assert [as_json(task) for task in two_files] == expected
    assert [as_json(task) for task in read_challenges(tmp_path / "all.json")] == expected
    assert [as_json(task) for task in read_task_folder(tmp_path / "one")] == sorted(expected)
    hidden = read_challenges(tmp_path / "challenges.json")
    assert [as_json(task)[:3] for task in hidden] == [task[:3] for task in expected]
    assert all(task.solutions is None and task.test_pairs == () for task in hidden)


def test_null_output_is_hidden():
    task = parse_task("t", {"train": [PAIR], "test": [{"input": [[1]], "output": None}]}, "f")
    assert task.solutions is None


def grid_task(grid):
    return {"train": [PAIR, {"input": [[0]], "output": grid}], "test": [PAIR]}


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ([], "task 'x': a task is an object"),
        ({"train": [PAIR]}, "task 'x': key 'test' is missing"),
        ({"test": [PAIR]}, "task 'x': key 'train' is missing"),
        ({"train": [], "test": [PAIR]}, "no demonstrations"),
        ({"train": [PAIR], "test": []}, "no test inputs"),
        ({"train": [PAIR, 3], "test": [PAIR]}, "train pair 1: a pair is an object, got 3"),
        ({"train": [{"input": [[1]]}], "test": [PAIR]}, "train pair 0: key 'output' is missing"),
        ({"train": [PAIR], "test": [{"output": [[1]]}]}, "test pair 0: key 'input' is missing"),
        ({"train": [PAIR], "test": [PAIR, {"input": [[1]]}]}, "test pair 1: has no output while"),
        (grid_task([[1], [1, 2]]), "train pair 1, output: row 1 has 2 cells, row 0 has 1"),
        (grid_task([]), "train pair 1, output: the grid is empty"),
        (grid_task([[]]), "train pair 1, output: the grid is empty"),
        (grid_task("ab"), "train pair 1, output: a grid is a list of rows, got 'ab'"),
        (grid_task([[1] * 31]), "train pair 1, output: the grid is 1x31, larger than 30x30"),
        (grid_task([[1]] * 31), "train pair 1, output: the grid is 31x1, larger than 30x30"),
        (grid_task([[1, 10]]), "train pair 1, output: cell (0, 1) is 10, not an integer 0..9"),
        (grid_task([[1], [-1]]), "train pair 1, output: cell (1, 0) is -1, not"),
        (grid_task([[1.0]]), "train pair 1, output: cell (0, 0) is 1.0, not"),
        (grid_task([[True]]), "train pair 1, output: cell (0, 0) is True, not"),
        (grid_task([["1"]]), "train pair 1, output: cell (0, 0) is '1', not"),
        (grid_task([[None]]), "train pair 1, output: cell (0, 0) is None, not"),
        (grid_task([[[1]]]), "train pair 1, output: cell (0, 0) is [1], not"),
        (grid_task([[10**400]]), "train pair 1, output: cell (0, 0) is 1000"),
    ],
)
def test_bad_tasks_are_named(tmp_path, task, named):
    path = dump(tmp_path / "all.json", {"good": TASK, "x": task})
    with pytest.raises(InputError) as caught:
        read_challenges(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: task 'x'")
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object of tasks"),
        ("{}", "expected an object of tasks"),
        (f'{{"a": {json.dumps(TASK)}, "a": {json.dumps(TASK)}}}', "duplicate key 'a'"),
    ],
)
def test_bad_files_are_named(tmp_path, content, named):
    path = dump(tmp_path / "all.json", content)
    with pytest.raises(InputError) as caught:
        read_challenges(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("solutions", "named"),
    [
        ({}, "task 'a': no list of solutions"),
        ({"a": []}, "task 'a': 0 solutions for 1 test inputs"),
        ({"a": [[[1]], [[1]]]}, "task 'a': 2 solutions for 1 test inputs"),
        ({"a": [[[1]]], "b": [[[1]]]}, "task 'b' is not among the challenges"),
        ({"a": [[[1], [1, 2]]]}, "task 'a', test pair 0, output: row 1 has 2 cells"),
        ({"a": [[[9]]]}, "task 'a', test pair 0: not the output in the challenges"),
    ],
)
def test_solutions_that_do_not_match_are_named(tmp_path, solutions, named):
    challenges = dump(tmp_path / "challenges.json", {"a": TASK})
    path = dump(tmp_path / "solutions.json", solutions)
    with pytest.raises(InputError) as caught:
        read_challenges(challenges, path)
    assert str(caught.value).startswith(str(path))
    assert named in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_task_file(tmp_path / "missing.json")
    with pytest.raises(InputError, match="not a folder"):
        read_task_folder(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no \.json file"):
        read_task_folder(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not JSON"):
        read_challenges(tmp_path / "bytes.json")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        dump(tmp_path / folder / "same.json", TASK)
    (tmp_path / "bytes.json").unlink()
    with pytest.raises(InputError, match="'same' is also in"):
        read_task_folder(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"a": {"train": [], "train": []}}',
        '{"a": [NaN]}',
        f'{{"a": {"[" * 100_000}',
        '{"a": "\\udc80"}',
        '{"a": 1} {}',
    ],
)
def test_the_same_files_are_refused_in_the_same_words_wherever_they_stand(tmp_path, content):
    challenges = dump(tmp_path / "challenges.json", {"a": TASK})
    path = dump(tmp_path / "bad.json", content)
    refused = set()
    for read in (
        read_task_file,
        read_challenges,
        partial(read_challenges, challenges),
        partial(read_submission, tasks=read_challenges(challenges)),
    ):
        with pytest.raises(InputError) as caught:
            read(path)
        refused.add(str(caught.value))
    assert len(refused) == 1
    assert refused.pop().startswith(f"{path}: not JSON (")


@pytest.mark.parametrize("depth", [500, 900, 980, 1020, 5000])
def test_a_task_nested_deeply_is_refused_in_a_line(tmp_path, depth):
    """Whether or not it is too deep for the reader, which depends on the version of Python."""
    path = dump(tmp_path / "deep.json", f'{{"train": {"[" * depth + "]" * depth}, "test": 1}}')
    with pytest.raises(
        InputError, match=r"pair is an object, got \[\[\[|nested too deeply"
    ) as caught:
        read_task_file(path)
    assert str(caught.value).isprintable()


def test_every_task_below_a_folder_is_read(tmp_path):
    """Those in linked folders too, each folder once; and names in any case."""
    folder, elsewhere = tmp_path / "tasks", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    (elsewhere / "deep").mkdir(parents=True)
    for path in (folder / "b.json", folder / "sub" / "A.JSON", elsewhere / "deep" / "c.Json"):
        dump(path, TASK)
    dump(folder / "notes.txt", "")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "deep" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "sub" / "again").symlink_to(elsewhere / "deep", target_is_directory=True)
    assert [task.task_id for task in read_task_folder(folder)] == ["A", "b", "c"]
    assert list_task_files(folder) == sorted(list_task_files(folder))
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(InputError, match=r"pipe\.json: not a regular file"):
        read_task_folder(folder)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    dump(tmp_path / "a.json", TASK)
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def scan(path):
        """As for a person who may not read it; the superuser may."""
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=r"closed: cannot be read \(Permission denied\)"):
        read_task_folder(tmp_path)


def test_ids_that_cannot_be_shown_are_refused():
    for task_id in ("a\nb", "\ud800"):
        with pytest.raises(InputError, match="printable"):
            parse_task(task_id, TASK, "file")
