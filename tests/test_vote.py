"""Votes are counted whatever their order, and candidates ranked by each rule."""

from typing import get_args, get_type_hints

import pytest
from ballots import flat, grid, predictions
from hypothesis import given
from hypothesis import strategies as st

from augment.prediction import Prediction
from pipeline.settings import PredictSettings
from submission.vote import RULES, Candidate, count_votes, pool_votes


@given(predictions, st.randoms(use_true_random=False))
def test_order_plays_no_part(votes, random):
    shuffled = list(votes)
    random.shuffle(shuffled)
    assert flat(count_votes(votes)) == flat(count_votes(shuffled))


@given(predictions)
def test_every_grid_votes_once_and_empty_ones_never(votes):
    tally = count_votes(votes)
    counted = sum(c.votes for ranked in tally.candidates.values() for c in ranked)
    assert counted + tally.num_empty == len(votes)
    assert tally.num_empty == sum(vote.grid is None for vote in votes)


def test_count_goes_before_q_and_q_before_content():
    votes = [
        Prediction("a", 0, grid(1), 0.9),
        Prediction("a", 0, grid(2), 0.1),
        Prediction("a", 0, grid(2), 0.2),
        Prediction("a", 0, grid(4), 0.3),
        Prediction("a", 0, grid(6), 0.3),
    ]
    ranked = flat(count_votes(votes))["a", 0]
    assert [(shown[0][0], count) for shown, count, _ in ranked] == [(2, 2), (1, 1), (4, 1), (6, 1)]
    assert ranked[0][2] == pytest.approx(0.15)


def best(candidates, rule):
    return max(candidates, key=rule).votes


def test_rules_rank_by_what_they_say():
    candidates = [
        Candidate(grid(1), votes=4, mean_q=0.1, mean_reproduced=0.5),
        Candidate(grid(2), votes=3, mean_q=0.2, mean_reproduced=0.5),
        Candidate(grid(3), votes=2, mean_q=0.2, mean_reproduced=1.1),
    ]
    assert [best(candidates, RULES[name]) for name in RULES] == [4, 3, 2]
    assert tuple(RULES) == get_args(get_type_hints(PredictSettings)["ranking"])


def test_demonstrations_that_were_not_predicted_do_not_speak_for_a_view():
    votes = [Prediction("a", 0, grid(1), 0.5, 0, 0.25), Prediction("a", 0, grid(1), 0.5, 1)]
    (candidate,) = count_votes(votes).candidates["a", 0]
    assert candidate.mean_reproduced == 0.125


def test_newer_weights_go_first_and_older_ones_fill_up():
    old = [Prediction("a", 0, grid(1), 0.5, view) for view in range(5)]
    old.append(Prediction("b", 0, grid(3), 0.5))
    new = [Prediction("a", 0, grid(2), 0.5)]
    newest = pool_votes({8: new, 0: old}).candidates
    assert [c.votes for c in newest["a", 0]] == [1, 5]
    assert [c.votes for c in newest["b", 0]] == [1]
    together = pool_votes({8: new, 0: old}, pool="all").candidates
    assert [c.votes for c in together["a", 0]] == [5, 1]
