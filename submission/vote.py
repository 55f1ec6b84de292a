"""Votes: equal predictions of a test are counted, and candidates ranked."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from augment.errors import InputError
from augment.files import parse_json, read_bytes, write_atomic
from augment.grid import Grid, check_grid, grid_key
from augment.predictions import Prediction

TestKey = tuple[str, int]
"""Task id and number of the test."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A grid that views voted for."""

    grid: Grid
    votes: int
    mean_q: float


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The ranked candidates of every test that has any, and the number of empty predictions."""

    candidates: Mapping[TestKey, list[Candidate]]
    num_empty: int


def by_count_then_q(candidate: Candidate) -> tuple[float, ...]:
    """Rank by number of votes, then by mean q, as the TRM reference does."""
    return (-candidate.votes, -candidate.mean_q)


def count_votes(predictions: Iterable[Prediction]) -> Tally:
    """Return the votes; they do not depend on the order in which predictions come.

    Sums are exact and ties are broken by the grids themselves. Empty predictions do not vote.
    """
    grids: dict[bytes, Grid] = {}
    votes: dict[TestKey, dict[bytes, list[float]]] = defaultdict(lambda: defaultdict(list))
    num_empty = 0
    for prediction in predictions:
        if prediction.grid is None:
            num_empty += 1
            continue
        key = grid_key(prediction.grid)
        grids.setdefault(key, prediction.grid)
        votes[prediction.task_id, prediction.test][key].append(prediction.q)
    ranked = {
        test: sorted(
            (Candidate(grids[key], len(qs), math.fsum(qs) / len(qs)) for key, qs in found.items()),
            key=lambda candidate: (by_count_then_q(candidate), grid_key(candidate.grid)),
        )
        for test, found in votes.items()
    }
    return Tally(ranked, num_empty)


def write_tally(path: Path, tally: Tally) -> None:
    """Write the candidates of every test, best first."""
    tests = [
        {
            "task": task_id,
            "test": test,
            "candidates": [
                {"grid": c.grid.tolist(), "votes": c.votes, "mean_q": c.mean_q} for c in candidates
            ],
        }
        for (task_id, test), candidates in sorted(tally.candidates.items())
    ]
    write_atomic(path, orjson.dumps({"num_empty": tally.num_empty, "tests": tests}))


def read_tally(path: Path) -> Tally:
    """Read what :func:`write_tally` wrote."""
    raw = parse_json(read_bytes(path), path)
    try:
        assert isinstance(raw, dict)
        candidates = {
            (str(entry["task"]), int(entry["test"])): [
                Candidate(
                    check_grid(c["grid"], f"{path}: task {entry['task']!r}"),
                    int(c["votes"]),
                    float(c["mean_q"]),
                )
                for c in entry["candidates"]
            ]
            for entry in raw["tests"]
        }
        return Tally(candidates, int(raw["num_empty"]))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a file of votes ({error!r})") from None
