"""Predictions drawn at random, and votes as plain values."""

import math

import numpy as np
from hypothesis import strategies as st

from augment.prediction import Prediction


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
    unique_by=lambda p: (p.task_id, p.test, p.view),
)


def flat(tally):
    return {
        test: [(c.grid.tolist(), c.votes, c.mean_q) for c in candidates]
        for test, candidates in tally.candidates.items()
    }
