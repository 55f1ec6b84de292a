"""Grids for tests without votes are plausible and differ."""

from submission.fallback import plausible_grids


def test_guesses_are_plausible(arc1):
    for task in arc1:
        for test in range(len(task.test_inputs)):
            guesses = list(plausible_grids(task, test))
            assert len({(g.shape, g.tobytes()) for g in guesses}) >= 10
            assert len({g.shape for g in guesses}) == 1
