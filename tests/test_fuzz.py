"""Hostile inputs, a short version of ``make fuzz``; its oracle, and what is planted for it."""

import copy
import os
import subprocess
import sys

import fuzz_oracle as oracle
import numpy as np
import pytest
from commands import ROOT
from fuzz import FOUND, KINDS, make_input, try_input
from fuzz_inputs import VALUES, Input, dump, mark
from fuzz_settings import judge_settings
from fuzz_stores import intact

INPUTS_FOUND = sorted((ROOT / "tests" / "found").glob("*.json"))
GRID = "[[0]]"
PAIR = f'{{"input": {GRID}, "output": {GRID}}}'


def test_hostile_inputs_are_read_right_or_refused_in_a_line():
    """In processes of their own, so that a hang or an end of the process is found too."""
    command = [sys.executable, "experiments/fuzz/fuzz.py", "--inputs", "1500", "--seed", "1"]
    done = subprocess.run(
        [*command, "--seconds", "60"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"\n{kind} " in done.stdout for kind in KINDS)


@pytest.mark.parametrize("path", INPUTS_FOUND, ids=lambda path: path.stem)
def test_inputs_found_once_stay_solved(path, tmp_path):
    outcome, text = try_input(Input.from_json(path.read_text()), tmp_path)
    assert outcome not in FOUND, text


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_is_the_same_again_and_after_it_was_kept(kind):
    for number in range(20):
        first = make_input(7, number, [kind])
        assert first == make_input(7, number, [kind])
        assert first == Input.from_json(first.to_json())


@pytest.mark.parametrize("kind", ["checkpoints", "votes", "data sets"])
def test_what_the_program_writes_is_valid_and_read_right(kind, tmp_path):
    places = {"checkpoints": "checkpoint", "votes": "votes/round_0001", "data sets": "dataset"}
    files = {f"{places[kind]}/{name}": content for name, content in intact(kind).items()}
    doubts = []
    untouched = Input(kind, (), files, ())
    untouched.write(tmp_path / "a")
    assert KINDS[kind].judge(tmp_path / "a", (), doubts) is not None
    assert doubts == []
    assert try_input(untouched, tmp_path / "b") == ("read right", "")


VALID = [
    '{"train": [PAIR], "test": [PAIR]}',
    '\n{"train": [PAIR, PAIR], "test": [{"input": GRID}], "name": [1.5, null]}\t',
    '{"train": [PAIR], "test": [{"input": GRID, "output": null}]}',
]
INVALID = [
    "",
    "[]",
    "null",
    '{"train": [PAIR]}',
    '{"train": [], "test": [PAIR]}',
    '{"train": [{"input": GRID}], "test": [PAIR]}',
    '{"train": [PAIR], "test": [PAIR]} x',
    '\ufeff{"train": [PAIR], "test": [PAIR]}',
    '{"train": [PAIR], "test": [PAIR], "test": [PAIR]}',
    '{"train": [PAIR], "test": [PAIR], "x": {"a": 1, "a": 1}}',
    '{"train": [PAIR], "test": [PAIR], "x": NaN}',
    '{"train": [PAIR], "test": [PAIR, {"input": GRID}]}',
]
INVALID_GRIDS = [
    "[]", "[[]]", "[0]", "[[0], [0, 0]]", "[[-1]]", "[[10]]", "[[1.0]]", "[[true]]", '[["1"]]',
    "[[null]]", str([[0]] * 31), str([[0] * 31]), "[" * 2000 + "]" * 2000,
]  # fmt: skip


def judge_text(text, doubts):
    content = text.replace("PAIR", PAIR).replace("GRID", GRID).encode()
    return oracle.task("a", oracle.strict_json(content, doubts), doubts)


@pytest.mark.parametrize("text", VALID)
def test_the_oracle_takes_valid_tasks(text):
    doubts = []
    task_id, train, tests, solutions = judge_text(text, doubts)
    assert (task_id, tests, doubts) == ("a", [[[0]]], [])
    assert train[0] == ([[0]], [[0]])
    assert solutions in (None, [[[0]]])


def test_the_oracle_refuses_invalid_tasks():
    texts = [f'{{"train": [PAIR], "test": [{{"input": {grid}}}]}}' for grid in INVALID_GRIDS]
    for text in INVALID + texts:
        with pytest.raises(oracle.Invalid):
            judge_text(text, [])


def test_the_oracle_scores_as_a_person_counts():
    one, two = [[1]], [[2]]
    tasks = [("a", [], [one, one], [one, two]), ("b", [], [one], [two])]
    attempts = {"a": [[one, two], [one, one]], "b": [[one, two]]}
    assert oracle.score(attempts, tasks) == {
        "per_task": {"pass@1": 0.25, "pass@2": 0.75},
        "per_output": {"pass@1": round(1 / 3, 12), "pass@2": round(2 / 3, 12)},
    }


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("train.lr=3e-4", "0.0003"),
        ("model.dim=64", "64"),
        ("data.trained=", "()"),
        ("train.betas=0.8,0.9", "(0.8, 0.9)"),
        ("engine.recompute=true", "True"),
    ],
)
def test_the_oracle_reads_settings(change, value, tmp_path):
    doubts = []
    settings = judge_settings(tmp_path, ("arc1", change), doubts)
    assert settings[change.partition("=")[0]] == value
    assert doubts == []


@pytest.mark.parametrize(
    "change",
    ["train", "train=1", "train.lr", "train.lr=", "train.lr=nan", "train.lr=-1", "model.dim=1.5",
     "model.dim=3", "model.dim=1000000000", "model.rotary=x", "train.betas=0.9", "x=1"],
)  # fmt: skip
def test_the_oracle_refuses_settings(change, tmp_path):
    with pytest.raises(oracle.Invalid):
        judge_settings(tmp_path, ("arc1", change), [])


def test_marked_text_is_written_as_it_is():
    tree = {"a": mark("NaN"), mark('"a" '): [mark("")]}
    assert dump(tree) == b'{"a":NaN,"a" :[]}'


def outcomes(kind, tmp_path, count=300):
    """What comes of inputs that are read in this process: no file of theirs can be waited for."""
    for number in range(count):
        tried = make_input(3, number, [kind])
        if all(isinstance(content, bytes) for content in tried.files.values()):
            yield try_input(tried, tmp_path / str(number))


def test_a_planted_reader_that_takes_a_color_of_ten_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("augment.grid._COLORS", frozenset(range(11)))
    texts = [text for outcome, text in outcomes("tasks", tmp_path) if outcome == "wrong"]
    assert any("accepted what is invalid: " in text and "integer 0..9" in text for text in texts)


def test_a_planted_reader_that_turns_grids_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("submission.writer.check_grid", lambda raw, where: np.array(raw).T)
    texts = [text for _, text in outcomes("submissions", tmp_path, 50)]
    assert "read as something else" in texts


def test_planted_hangs_and_ends_of_the_process_are_found():
    """With each, the inputs after it are tried too."""
    program = """if True:
        import dataclasses, os, time
        import fuzz
        def read(folder, arguments):
            number = int(folder.name)
            time.sleep(3600 if number == 1 else 0)
            os._exit(1) if number == 2 else None
            1 / 0 if number == 3 else None
            return settings.read(folder, arguments)
        settings = fuzz.KINDS["settings"]
        fuzz.KINDS["settings"] = dataclasses.replace(settings, read=read)
        results = list(fuzz.fuzz(1, range(5), ["settings"], 2, 10))
        print(sorted((r.number, r.outcome) for r in results if 0 < r.number < 4), len(results))
    """
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments' / 'fuzz'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    found = [(1, "hang"), (2, "traceback"), (3, "traceback")]
    assert done.stdout == f"{found} 5\n"


def test_an_input_does_not_depend_on_those_made_before():
    """What a mutation puts into a tree is changed by the next one, and must be a copy."""
    before = copy.deepcopy(VALUES)
    for number in range(1000):
        make_input(11, number, ["tasks", "submissions"])
    assert before == VALUES
