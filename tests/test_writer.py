"""Submissions: valid whatever the votes, read back as written, and refused by name."""

import json

import numpy as np
import pytest
from conftest import zeros
from hypothesis import given
from hypothesis import strategies as st

from augment.errors import InputError
from submission.fallback import plausible_grids
from submission.vote import Candidate
from submission.writer import (
    Submission,
    build_submission,
    choose_attempts,
    read_submission,
    write_submission,
)


@given(st.data())
def test_any_votes_make_a_valid_submission(arc1, tmp_path_factory, data):
    """Whatever subset of the tests has candidates: all are answered, in order, by two grids."""
    tasks = data.draw(st.lists(st.sampled_from(arc1[:40]), unique_by=id, min_size=1, max_size=6))
    candidates = {}
    for task in tasks:
        for test in range(len(task.test_inputs)):
            count = data.draw(st.integers(0, 3))
            if count:
                candidates[task.task_id, test] = [
                    Candidate(zeros(1, 1 + n), 3 - n, 0.5) for n in range(count)
                ]
    submission, coverage = build_submission(tasks, candidates)
    path = tmp_path_factory.mktemp("submission") / "submission.json"
    write_submission(path, submission, tasks)
    written = json.loads(path.read_text())
    assert list(written) == [task.task_id for task in tasks]
    for task in tasks:
        assert len(written[task.task_id]) == len(task.test_inputs)
        for test, attempts in enumerate(written[task.task_id]):
            first, second = attempts["attempt_1"], attempts["attempt_2"]
            assert first != second
            ranked = candidates.get((task.task_id, test), [])
            expected = [candidate.grid.tolist() for candidate in ranked[:2]]
            assert [first, second][: len(expected)] == expected
    assert coverage.model == len(candidates)


def test_submissions_read_back_are_what_was_written(arc1, tmp_path):
    submission, _ = build_submission(arc1, {})
    write_submission(tmp_path / "s.json", submission, arc1)
    read = read_submission(tmp_path / "s.json", arc1)
    for task_id, tests in submission.attempts.items():
        for ours, theirs in zip(tests, read.attempts[task_id], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s, t: s.pop(t), "expected a list of attempts, got None"),
        (lambda s, t: s[t].append(s[t][0]), "attempts at 2 of 1 tests"),
        (lambda s, t: s[t].clear(), "attempts at 0 of 1 tests"),
        (lambda s, t: s[t][0].pop("attempt_2"), "test 0: expected attempt_1 and attempt_2"),
        (lambda s, t: s[t][0].update(attempt_2=[]), "test 0, attempt_2: the grid is empty"),
        (lambda s, t: s[t][0].update(attempt_1=[[11]]), "test 0, attempt_1: cell (0, 0) is 11"),
        (lambda s, t: s.update(other=s[t]), "'other' is not among the challenges"),
    ],
)
def test_invalid_submissions_are_named(arc1, tmp_path, change, named):
    task = arc1[0]
    path = tmp_path / "submission.json"
    submission, _ = build_submission([task], {})
    write_submission(path, submission, [task])
    content = json.loads(path.read_text())
    change(content, task.task_id)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_submission(path, [task])
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_failed_write_leaves_the_old_submission(arc1, tmp_path):
    path = tmp_path / "submission.json"
    submission, _ = build_submission(arc1[:2], {})
    write_submission(path, submission, arc1[:2])
    before = path.read_bytes()
    invalid = Submission({task.task_id: [(zeros(31, 1), zeros(1, 1))] for task in arc1[:2]})
    with pytest.raises(InputError):
        write_submission(path, invalid, arc1[:2])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_single_candidate_is_joined_by_another_grid(arc1):
    task = arc1[0]
    guess = next(plausible_grids(task, 0))
    first, second = choose_attempts(task, 0, [Candidate(guess, 1, 0.1)])
    assert np.array_equal(first, guess)
    assert first.shape != second.shape or not np.array_equal(first, second)
