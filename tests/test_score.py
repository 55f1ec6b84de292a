"""Both metrics, the candidates' scores and the outcomes count what they say."""

import numpy as np
import pytest

from augment.task import Pair, Task
from submission.score import score_json, score_submission
from submission.vote import Candidate
from submission.writer import Submission


def test_both_metrics_count_what_they_say():
    """Two tasks, one with three tests: one solved at once, one in the second attempt."""
    first, second, wrong = (np.full((1, 1), color, dtype=np.uint8) for color in (1, 2, 3))
    train = (Pair(first, first),)
    tasks = [
        Task("a", train, (first,), (first,)),
        Task("b", train, (first,) * 3, (first, second, first)),
    ]
    submission = Submission(
        {"a": [(first, wrong)], "b": [(wrong, first), (wrong, first), (first, second)]}
    )
    candidates = {
        ("a", 0): [Candidate(first, 1, 0.5)],
        ("b", 1): [Candidate(g, 1, 0.5) for g in (wrong, first, second)],
    }
    score = score_submission(submission, tasks, candidates)
    assert score.pass_at(1) == pytest.approx(((1 + 1 / 3) / 2, 2 / 4))
    assert score.pass_at(2) == pytest.approx(((1 + 2 / 3) / 2, 3 / 4))
    assert score.oracle_pass_at(2) == pytest.approx((1 / 2, 1 / 4))
    assert score.oracle_pass_at(5) == pytest.approx(((1 + 1 / 3) / 2, 2 / 4))
    assert (score.num_solved, score.num_solved_by_votes, score.num_outputs) == (3, 1, 4)
    shown = score_json(score)
    assert shown["per_task"]["pass@2"] == score.pass_at(2)[0]
    assert shown["per_output"]["oracle_pass@5"] == score.oracle_pass_at(5)[1]
    assert score_submission(submission, tasks).oracle_pass_at(1) is None
