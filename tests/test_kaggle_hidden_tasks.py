"""Hidden tasks that are not valid cost no other: in the notebook's cell and in what it calls."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from commands import ROOT, task_json

from augment.errors import InputError
from kernels_kaggle.on_kaggle import predict

NOTEBOOK = ROOT / "kernels_kaggle" / "on_kaggle" / "predict.ipynb"
HIDDEN = "arc-agi_test_challenges.json"
GUESS = {"attempt_1": [[1]], "attempt_2": [[0]]}
PAIR = {"input": [[1]], "output": [[2]]}


@pytest.fixture
def kaggle(tmp_path):
    (tmp_path / "input" / "competition").mkdir(parents=True)
    (tmp_path / "working").mkdir()
    return tmp_path


def guess(kaggle, content):
    """Return the submission that the first cells write for the hidden tasks in ``content``."""
    (kaggle / "input" / "competition" / HIDDEN).write_bytes(content)
    first, second = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"][
        :2
    ]
    exec(first.replace("/kaggle", str(kaggle)) + "\n" + second, {})
    return json.loads((kaggle / "working" / "submission.json").read_text())


def read_valid(kaggle):
    """Return the ids of the tasks that are predicted."""
    tasks = predict._read_valid(kaggle / "input" / "competition" / HIDDEN)
    return [task.task_id for task in tasks]


def test_valid_tasks_are_all_guessed_and_read(kaggle, arc1):
    content = json.dumps({task.task_id: task_json(task.without_solutions()) for task in arc1})
    expected = {task.task_id: [GUESS] * len(task.test_inputs) for task in arc1}
    assert guess(kaggle, content.encode()) == expected
    assert read_valid(kaggle) == list(expected)


GOOD = f'"good": {json.dumps({"train": [PAIR], "test": [{"input": [[1]]}, {"input": [[2]]}]})}'
ONE = json.dumps({"input": [[1]]})
DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("task", "count"),
    [
        (f'"x": {DEEP}', 1),
        (f'"x": {{"train": {DEEP}, "test": [{ONE}, {ONE}]}}', 2),
        (f'"x": {{"train": [], "train": [], "test": [{ONE}, {ONE}]}}', 2),
        (f'"x": {{"test": [{ONE}, {ONE}], "train": [], "test": [{ONE}]}}', 1),
        (f'"x": {{"train": [{json.dumps(PAIR)}]}}', 1),
        ('"x": {"train": 3, "test": {"input": 5}}', 1),
        ('"x": {"train": [], "test": ["}", "]"]}', 1),
        ('"x": [1, null]', 1),
        ('"x": "\\"test: {"', 1),
        (f'"x": {{"train": [NaN, 07, {"9" * 5000}], "test": [{ONE}]}}', 1),
        (f'"x": {{"train": [], "test": [{ONE}, {{"input": [[[]]]}}, {DEEP}]}}', 3),
        (f'"x": {{"train": [], "test": [{ONE}]}}, "x": {{"test": [{ONE}, {ONE}]}}', 2),
        ('"x": ', 1),
        (f'"x": {{"train": [], "te\\u0073t": [{ONE}, {ONE}]}}', 2),
    ],
)
def test_one_bad_task_costs_itself_alone(kaggle, capsys, task, count):
    other = GOOD.replace("good", "other")
    content = f"{{{GOOD}, {task}, {other}}}".encode()
    assert guess(kaggle, content) == {
        "good": [GUESS] * 2,
        "x": [GUESS] * count,
        "other": [GUESS] * 2,
    }
    capsys.readouterr()
    assert read_valid(kaggle) == ["good", "other"]
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("task 'x'" in line and line.endswith("it keeps its guess") for line in lines)


def test_a_string_that_nobody_closes_costs_no_hours(kaggle):
    """However many quotes are in it."""
    program = (
        "import sys; from pathlib import Path; from test_kaggle_hidden_tasks import *\n"
        "kaggle, content = Path(sys.argv[1]), b'{\"' + b'\\\\\"' * 400_000\n"
        "guess(kaggle, content)\n"
        "with pytest.raises(InputError, match='no valid task'): read_valid(kaggle)\n"
    )
    command = [sys.executable, "-c", program, kaggle]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run(command, env=environment, timeout=120, check=True)


def test_a_task_that_comes_twice_keeps_its_guess(kaggle, capsys):
    guesses = guess(kaggle, f"{{{GOOD}, {GOOD.replace('good', 'other')}, {GOOD}}}".encode())
    assert guesses == {"good": [GUESS] * 2, "other": [GUESS] * 2}
    assert read_valid(kaggle) == ["other"]
    assert "task 'good' comes 2 times; it keeps its guess" in capsys.readouterr().out


def test_a_file_that_is_cut_leaves_what_can_be_guessed(kaggle):
    assert guess(kaggle, f'{{{GOOD}, "x": {{"test": [{ONE}, {{"inp'.encode()) == {
        "good": [GUESS] * 2,
        "x": [GUESS] * 2,
    }
    assert read_valid(kaggle) == ["good"]
    for content in (b"", b"[]", f"[{{{GOOD}}}]".encode()):
        guess(kaggle, content)
        with pytest.raises(InputError, match="no valid task"):
            read_valid(kaggle)


def test_ids_that_are_no_text_cost_themselves_alone(kaggle):
    """The submission stays one that every reader takes."""
    names = [b"\xff", rb"\ud800", rb"\q", rb"\u0061"]
    bad = b", ".join(b'"%s": {}' % name for name in names)
    guesses = guess(kaggle, b"\xef\xbb\xbf{" + bad + b", " + GOOD.encode() + b"}")
    assert list(guesses) == ["\ufffd", "?", r"\q", "a", "good"]
    assert read_valid(kaggle) == ["good"]
