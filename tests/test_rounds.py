"""Rounds of votes are read as they were written, or refused."""

import shutil

import numpy as np
import pytest
from ballots import flat, grid, predictions
from conftest import rewrite_description
from hypothesis import given

from augment.errors import InputError
from augment.prediction import Prediction
from submission.rounds import Round, by_step, check_tests, read_round, read_votes, write_round
from submission.vote import count_votes


@given(predictions)
def test_written_and_read_votes_are_the_same(tmp_path_factory, votes):
    folder = tmp_path_factory.mktemp("votes") / "round_0001"
    write_round(folder, Round("x", 7, ("a", "b"), 0, 10, True, votes))
    read_back = read_round(folder)
    assert flat(count_votes(read_back.predictions)) == flat(count_votes(votes))
    assert count_votes(read_back.predictions).num_empty == count_votes(votes).num_empty
    assert [p.view for p in read_back.predictions] == [p.view for p in votes]
    assert read_votes(folder.parent).keys() == {7}


@pytest.mark.parametrize("name", ["round.json", "predictions.npz"])
def test_a_damaged_round_is_refused(tmp_path, name):
    folder = tmp_path / "round_0001"
    write_round(folder, Round("x", 0, ("a",), 0, 1, True, [Prediction("a", 0, grid(1), 0.5)]))
    content = bytearray((folder / name).read_bytes())
    for damaged in (
        content[:-1],
        bytearray(b""),
        content[:9] + bytes([content[9] ^ 1]) + content[10:],
    ):
        (folder / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{folder}/"):
            read_round(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no rounds of votes"):
        read_votes(tmp_path)


COLUMNS = {
    "task": [lambda a: a + 2, lambda a: a - 1, lambda a: a[1:], lambda a: a.astype(np.int64)],
    "test": [lambda a: a - 9, lambda a: a.astype(object)],
    "view": [lambda a: a + 1, lambda a: a - 1, lambda a: a * 0],
    "q": [lambda a: a * np.nan, lambda a: a + 1, lambda a: -a, lambda a: a.astype(complex)],
    "reproduced": [lambda a: a + 2, lambda a: a - np.inf],
    "shape": [lambda a: a + 30, lambda a: a * 0, lambda a: a + np.arange(2), lambda a: a[:, :1]],
    "cells": [lambda a: a + 9, lambda a: a[1:], lambda a: a[:, None]],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_are_no_votes_are_one_line(tmp_path, name):
    """Although every hash is right."""
    votes = [Prediction("a", 0, grid(n), 0.5, n, 1.0) for n in (1, 2)]
    path = tmp_path / "predictions.npz"
    for change in COLUMNS[name]:
        write_round(tmp_path, Round("x", 0, ("a", "b"), 1, 3, True, votes))
        columns = dict(np.load(path))
        changed = change(columns[name])
        kept = changed if changed.dtype.kind in "Oc" else changed.astype(columns[name].dtype)
        np.savez(path, **{**columns, name: changed if name == "task" else kept})
        rewrite_description(tmp_path / "round.json")
        with pytest.raises(InputError, match=r"predictions\.npz: ") as caught:
            read_round(tmp_path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}}, {"task_ids": "ab"}, {"task_ids": [1, 2]}, {"first": -1}, {"stop": "3"},
        {"step": None}, {"complete": 1}, {"fingerprint": []}, {"stop": 2}, {"first": 2**62},
        {"task_ids": []},
    ],
)  # fmt: skip
def test_a_description_that_is_no_rounds_is_one_line(tmp_path, changes):
    votes = [Prediction("b", 0, grid(n), 0.5, n) for n in (1, 2)]
    write_round(tmp_path, Round("x", 0, ("a", "b"), 1, 3, True, votes))
    rewrite_description(tmp_path / "round.json", **changes)
    with pytest.raises(InputError, match=f"{tmp_path}/"):
        read_round(tmp_path)


def test_votes_for_other_tests_are_one_line(arc1, tmp_path):
    task = arc1[0]
    for vote in (Prediction("b", 0, None, 0.5), Prediction(task.task_id, 9, None, 0.5)):
        with pytest.raises(InputError, match=f"test {vote.test} of task '{vote.task_id}'"):
            check_tests([vote], [task], tmp_path)
    check_tests([Prediction(task.task_id, 0, None, 0.5)], [task], tmp_path)


def test_a_view_votes_once_where_rounds_overlap():
    first, second = (
        [Prediction("a", 0, grid(number), 0.5, view) for view in views]
        for number, views in ((1, (0, 1, 2)), (2, (2, 3)))
    )
    rounds = [Round("x", 5, ("a",), 0, 3, False, first), Round("x", 5, ("a",), 2, 4, True, second)]
    read_back = by_step([*rounds, Round("x", 9, ("a",), 0, 1, True, second[:1])])
    assert [(p.view, p.grid[0, 0]) for p in read_back[5]] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert len(read_back[9]) == 1
