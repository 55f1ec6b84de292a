import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.errors import InputError
from augment.sizes import infer_output_size
from augment.task import Pair, Task
from submission.fallback import plausible_grids
from submission.score import score_json, score_submission
from submission.vote import Candidate
from submission.writer import (
    Submission,
    build_submission,
    choose_attempts,
    read_submission,
    write_submission,
)


def zeros(height, width):
    return np.zeros((height, width), dtype=np.uint8)


def task_of_sizes(*pairs, test):
    train = tuple(Pair(zeros(*before), zeros(*after)) for before, after in pairs)
    return Task("t", train, (zeros(*test),), None)


@pytest.mark.parametrize(
    ("pairs", "test", "expected"),
    [
        ([((2, 3), (2, 3)), ((4, 4), (4, 4))], (5, 6), (5, 6)),
        ([((2, 3), (3, 2)), ((4, 5), (5, 4))], (5, 6), (6, 5)),
        ([((2, 3), (1, 1)), ((4, 4), (1, 1))], (5, 6), (1, 1)),
        ([((2, 3), (4, 9)), ((4, 4), (8, 12))], (5, 6), (10, 18)),
        ([((4, 4), (2, 2)), ((8, 6), (4, 3))], (5, 6), None),
        ([((2, 2), (6, 6)), ((3, 3), (9, 9))], (20, 20), None),
        ([((2, 3), (4, 9)), ((4, 4), (7, 7))], (5, 6), None),
    ],
)
def test_sizes_follow_the_demonstrations(pairs, test, expected):
    assert infer_output_size(task_of_sizes(*pairs, test=test), 0) == expected


def test_guesses_are_plausible(arc1):
    for task in arc1:
        for test in range(len(task.test_inputs)):
            guesses = list(plausible_grids(task, test))
            assert len({(g.shape, g.tobytes()) for g in guesses}) >= 10
            assert len({g.shape for g in guesses}) == 1


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
            found = candidates.get((task.task_id, test), [])
            expected = [candidate.grid.tolist() for candidate in found[:2]]
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
        (lambda s, t: s[t].append(s[t][0]), "2 answers for 1 tests"),
        (lambda s, t: s[t].clear(), "0 answers for 1 tests"),
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


def test_both_metrics_count_what_they_say():
    """Two tasks, one with three tests: one solved at once, one in the second attempt."""
    one, two, wrong = (np.full((1, 1), color, dtype=np.uint8) for color in (1, 2, 3))
    train = (Pair(one, one),)
    tasks = [Task("a", train, (one,), (one,)), Task("b", train, (one,) * 3, (one, two, one))]
    submission = Submission({"a": [(one, wrong)], "b": [(wrong, one), (wrong, one), (one, two)]})
    candidates = {
        ("a", 0): [Candidate(one, 1, 0.5)],
        ("b", 1): [Candidate(g, 1, 0.5) for g in (wrong, one, two)],
    }
    score = score_submission(submission, tasks, candidates)
    assert score.pass_at(1) == pytest.approx(((1 + 1 / 3) / 2, 2 / 4))
    assert score.pass_at(2) == pytest.approx(((1 + 2 / 3) / 2, 3 / 4))
    assert score.oracle_pass_at(2) == pytest.approx((1 / 2, 1 / 4))
    assert score.oracle_pass_at(5) == pytest.approx(((1 + 1 / 3) / 2, 2 / 4))
    assert (score.num_solved, score.num_solved_by_votes, score.num_outputs) == (3, 1, 4)
    found = score_json(score)
    assert found["per_task"]["pass@2"] == score.pass_at(2)[0]
    assert found["per_output"]["oracle_pass@5"] == score.oracle_pass_at(5)[1]
    assert score_submission(submission, tasks).oracle_pass_at(1) is None


def test_a_single_candidate_is_joined_by_another_grid(arc1):
    task = arc1[0]
    guess = next(plausible_grids(task, 0))
    first, second = choose_attempts(task, 0, [Candidate(guess, 1, 0.1)])
    assert np.array_equal(first, guess)
    assert first.shape != second.shape or not np.array_equal(first, second)
