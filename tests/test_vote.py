import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.errors import InputError
from augment.predictions import Prediction
from submission.vote import count_votes, read_tally, write_tally


def grid(value):
    return np.full((1 + value % 2, 1), value % 10, dtype=np.uint8)


predictions = st.lists(
    st.builds(
        Prediction,
        st.sampled_from(["a", "b"]),
        st.integers(0, 1),
        st.one_of(st.none(), st.integers(0, 4).map(grid)),
        st.floats(0, 1),
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
    path = tmp_path_factory.mktemp("votes") / "candidates.json"
    tally = count_votes(votes)
    write_tally(path, tally)
    assert flat(read_tally(path)) == flat(tally)
    assert read_tally(path).num_empty == tally.num_empty


def test_what_is_no_file_of_votes_is_refused(tmp_path):
    path = tmp_path / "candidates.json"
    for content in ("[]", "{}", '{"tests": [{"task": 1}], "num_empty": 0}'):
        path.write_text(content)
        with pytest.raises(InputError, match="not a file of votes"):
            read_tally(path)
