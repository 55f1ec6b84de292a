"""Votes: equal predictions of a test are counted, and candidates ranked.

A rule is a function from a candidate to numbers; the candidate with the largest comes first.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from augment.drawing import Labelled, draw_columns
from augment.grid import Grid, grid_key
from augment.prediction import Prediction
from augment.task import Task

TestKey = tuple[str, int]
"""Task id and number of the test."""

Pool = Literal["newest", "all"]
"""Which votes count for a test: those of the newest weights (older ones come after), or all."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A grid that views voted for."""

    grid: Grid
    votes: int
    mean_q: float
    mean_reproduced: float | None = None
    """The mean share of demonstrations that its views reproduce, 0 for those not measured; None if
    none was."""
    is_older: bool = False
    """True if no vote for it comes from the newest weights for this test."""

    def _repr_svg_(self) -> str:
        label = f"{self.votes} vote{'' if self.votes == 1 else 's'}, q {self.mean_q:.2f}"
        return draw_columns("", [[Labelled(label, self.grid)]]).svg


Rule = Callable[[Candidate], tuple[float, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The ranked candidates of every test that has any, and the number of empty predictions."""

    candidates: Mapping[TestKey, list[Candidate]]
    num_empty: int


@dataclass(frozen=True, slots=True)
class Support:
    """How the views voted on a task, over all its tests; older weights are left out."""

    votes: int
    agreement: float
    """The mean over tests of the share of votes that the first candidate has; 0 for none."""
    mean_q: float
    """The mean over tests of the first candidate's mean q; 0 for none."""


def by_count(candidate: Candidate) -> tuple[float, ...]:
    """Rank by number of votes, then by mean q, as the TRM reference does."""
    return candidate.votes, candidate.mean_q


def by_q(candidate: Candidate) -> tuple[float, ...]:
    """Rank by the sum of q over the votes, which is votes x mean q, then by votes."""
    return candidate.votes * candidate.mean_q, candidate.votes


def by_demonstrations(candidate: Candidate) -> tuple[float, ...]:
    """Rank by votes weighted by the share of demonstrations that their views reproduce."""
    reproduced = candidate.mean_reproduced or 0.0
    return candidate.votes * reproduced, candidate.votes, candidate.mean_q


RULES: Mapping[str, Rule] = {"count": by_count, "q": by_q, "demonstrations": by_demonstrations}


def count_votes(predictions: Iterable[Prediction], rule: Rule = by_count) -> Tally:
    """Return the votes; they do not depend on the order in which predictions come.

    Sums are exact and ties are broken by the grids themselves. Empty predictions do not vote.
    """
    grids: dict[bytes, Grid] = {}
    votes: dict[TestKey, dict[bytes, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    num_empty = 0
    for prediction in predictions:
        if prediction.grid is None:
            num_empty += 1
            continue
        key = grid_key(prediction.grid)
        grids.setdefault(key, prediction.grid)
        votes[prediction.task_id, prediction.test][key].append(prediction)
    ranked = {}
    for test, voters_by_grid in votes.items():
        candidates = [_candidate(grids[k], voters) for k, voters in sorted(voters_by_grid.items())]
        ranked[test] = sorted(candidates, key=rule, reverse=True)  # stable, so ties stay in order
    return Tally(ranked, num_empty)


def pool_votes(
    by_step: Mapping[int, Iterable[Prediction]], rule: Rule = by_count, pool: Pool = "newest"
) -> Tally:
    """Return the votes of several weights, which are numbered by their training steps.

    ``newest``: of each test the candidates of the newest weights come first, then those that only
    older ones voted for. ``all``: every vote counts alike.
    """
    if pool == "all":
        return count_votes((p for predictions in by_step.values() for p in predictions), rule)
    merged: dict[TestKey, dict[bytes, Candidate]] = defaultdict(dict)
    num_empty = 0
    for _, predictions in sorted(by_step.items(), reverse=True):
        tally = count_votes(predictions, rule)
        num_empty += tally.num_empty
        for test, candidates in tally.candidates.items():
            is_older = test in merged
            for candidate in candidates:
                key = grid_key(candidate.grid)
                merged[test].setdefault(key, replace(candidate, is_older=is_older))
    return Tally({test: list(ranked.values()) for test, ranked in merged.items()}, num_empty)


def measure_support(task: Task, candidates: Mapping[TestKey, Sequence[Candidate]]) -> Support:
    """Return how the views voted on ``task``."""
    ranked_by_test = [
        [c for c in candidates.get((task.task_id, test), ()) if not c.is_older]
        for test in range(len(task.test_inputs))
    ]
    votes = [sum(candidate.votes for candidate in ranked) for ranked in ranked_by_test]
    firsts = [
        (ranked[0], count) for ranked, count in zip(ranked_by_test, votes, strict=True) if ranked
    ]
    return Support(
        sum(votes),
        math.fsum(first.votes / count for first, count in firsts) / len(ranked_by_test),
        math.fsum(first.mean_q for first, _ in firsts) / len(ranked_by_test),
    )


def _candidate(grid: Grid, voters: list[Prediction]) -> Candidate:
    reproduced = [p.reproduced for p in voters if not math.isnan(p.reproduced)]
    return Candidate(
        grid,
        len(voters),
        math.fsum(p.q for p in voters) / len(voters),
        math.fsum(reproduced) / len(voters) if reproduced else None,
    )
