import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.errors import InputError
from augment.predictions import Prediction
from submission.rounds import Round, by_step, read_round, read_votes, write_round
from submission.vote import RULES, Candidate, count_votes, pool_votes


def grid(value):
    return np.full((1 + value % 2, 1), value % 10, dtype=np.uint8)


predictions = st.lists(
    st.builds(
        Prediction,
        st.sampled_from(["a", "b"]),
        st.integers(0, 1),
        st.one_of(st.none(), st.integers(0, 4).map(grid)),
        st.floats(0, 1),
        st.integers(0, 9),
        st.one_of(st.just(math.nan), st.floats(0, 1)),
    ),
    max_size=40,
)


def flat(tally):
    return {
        test: [(c.grid.tolist(), c.votes, c.mean_q) for c in candidates]
        for test, candidates in tally.candidates.items()
    }


@given(predictions, st.randoms(use_true_random=False))
def test_order_plays_no_part(votes, random):
    shuffled = list(votes)
    random.shuffle(shuffled)
    assert flat(count_votes(votes)) == flat(count_votes(shuffled))


@given(predictions)
def test_every_grid_votes_once_and_empty_ones_never(votes):
    tally = count_votes(votes)
    counted = sum(c.votes for found in tally.candidates.values() for c in found)
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


@given(predictions)
def test_written_and_read_votes_are_the_same(tmp_path_factory, votes):
    folder = tmp_path_factory.mktemp("votes") / "round_0001"
    write_round(folder, Round("x", 7, ("a", "b"), 0, 2, True, votes))
    found = read_round(folder)
    assert flat(count_votes(found.predictions)) == flat(count_votes(votes))
    assert count_votes(found.predictions).num_empty == count_votes(votes).num_empty
    assert [p.view for p in found.predictions] == [p.view for p in votes]
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


def best(candidates, rule):
    return max(candidates, key=rule).votes


def test_rules_rank_by_what_they_say():
    candidates = [
        Candidate(grid(1), votes=4, mean_q=0.1, mean_reproduced=0.5),
        Candidate(grid(2), votes=3, mean_q=0.2, mean_reproduced=0.5),
        Candidate(grid(3), votes=2, mean_q=0.2, mean_reproduced=1.1),
    ]
    assert [best(candidates, RULES[name]) for name in RULES] == [4, 3, 2]
    assert list(RULES) == ["count", "q", "demonstrations"]


def test_demonstrations_that_nobody_looked_at_do_not_speak_for_a_view():
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


def test_a_view_votes_once_where_rounds_overlap():
    first, second = (
        [Prediction("a", 0, grid(number), 0.5, view) for view in views]
        for number, views in ((1, (0, 1, 2)), (2, (2, 3)))
    )
    rounds = [Round("x", 5, ("a",), 0, 3, False, first), Round("x", 5, ("a",), 2, 4, True, second)]
    found = by_step([*rounds, Round("x", 9, ("a",), 0, 1, True, second[:1])])
    assert [(p.view, p.grid[0, 0]) for p in found[5]] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert len(found[9]) == 1
