"""The page of a run, to be looked at: its score, every task with its votes, and its training.

One file that needs no network: :data:`_PAGE` holds style and script, the run's data stands in it
as JSON. Source of the published scores: the papers and the ARC Prize leaderboard of 2025.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
import orjson

from augment.drawing import COLORS, WITH_LIGHT_INK
from augment.files import read_bytes, write_atomic
from augment.grid import Grid
from augment.predictions import Prediction
from augment.task import Task
from submission.score import OUTCOMES, score_json, score_submission
from submission.vote import Candidate, TestKey, measure_support
from submission.writer import Submission

_PAGE = Path(__file__).with_name("report.html")
_CANDIDATES = 8  # drawn for each test
_POINTS = 400  # of each curve
_CURVES = ("loss", "exact_accuracy", "supervision_steps", "examples_per_second", "lr")
# Percent of all evaluation tasks, in two attempts unless said: ARC-AGI-1, ARC-AGI-2.
_PUBLISHED = (
    ("TRM, 7M parameters, 3 days of 4 H100", "44.6", "7.8"),
    ("TRM trained again by others", "40 to 43", "3 to 6"),
    ("TRM with 6 latent steps, one run", "52.75", ""),
    ("HRM", "40.3", "5.0"),
    ("URM, in one attempt", "53.8", "16.0"),
    ("VARC", "54.5", "6 to 10"),
    ("mdlARC, 2 hours of one RTX 5090", "44", "7"),
)


def write_report(
    path: Path,
    name: str,
    versions: Mapping[str, object],
    answers: Mapping[str, object] | None,
    training: Sequence[Mapping[str, object]],
) -> None:
    """Replace ``path`` by the page of a run called ``name``.

    ``versions`` of the code by stage; ``answers`` is of :func:`describe_answers`, each of
    ``training`` of :func:`describe_training`.
    """
    data = {
        "name": name,
        "versions": versions,
        "colors": COLORS,
        "with_light_ink": WITH_LIGHT_INK,
        "published": _PUBLISHED,
        "outcomes": OUTCOMES,
        "answers": answers,
        "training": training,
    }
    # No markup can begin in the data, whatever a task is called.
    content = orjson.dumps(data).replace(b"<", b"\\u003c")
    write_atomic(path, read_bytes(_PAGE).replace(b'"DATA"', content))


def describe_answers(
    tasks: Sequence[Task],
    submission: Submission,
    candidates: Mapping[TestKey, Sequence[Candidate]] | None,
    predictions: Iterable[Prediction],
    canvas_side: int | None,
    benchmark: str | None,
) -> dict[str, object]:
    """Return what the page shows of the answers to ``tasks``.

    ``candidates`` stand as the submission chose them, made from ``predictions``, of which the
    empty ones are named; None without votes to look at. ``canvas_side`` is that of the weights,
    ``benchmark`` the one whose published scores compare; None where that is not known.
    """
    score = None
    if all(task.answers is not None for task in tasks):
        score = score_submission(submission, tasks, candidates)
    ranked = candidates or {}
    empty: Mapping[TestKey, set[int]] = defaultdict(set)
    for prediction in predictions:
        if prediction.grid is None:
            empty[prediction.task_id, prediction.test].add(prediction.view)
    of_task = {found.task_id: found for found in score.tasks} if score else {}
    described = []
    for task in tasks:
        found = of_task.get(task.task_id)
        tests = [
            {
                **_describe_test(task, test, submission, ranked),
                "outcome": None if found is None else found.outcomes[test],
                "rank": None if found is None or found.votes is None else found.votes[test],
                "dropped": sorted(empty.get((task.task_id, test), ())),
            }
            for test in range(len(task.test_inputs))
        ]
        described.append({
            "id": task.task_id,
            "outcome": None if found is None else found.outcome,
            "cells": max(prod(grid.shape) for grid in task.visible_grids),
            "longest_side": task.longest_side(),
            **asdict(measure_support(task, ranked)),
            "train": [[_encode(pair.input), _encode(pair.output)] for pair in task.train],
            "tests": tests,
        })  # fmt: skip
    return {
        "score": None if score is None else score_json(score),
        "benchmark": benchmark,
        "canvas_side": canvas_side,
        "tasks": described,
    }


def _describe_test(
    task: Task, test: int, submission: Submission, candidates: Mapping[TestKey, Sequence[Candidate]]
) -> dict[str, object]:
    found = candidates.get((task.task_id, test), ())
    return {
        "input": _encode(task.test_inputs[test]),
        "answer": None if task.answers is None else _encode(task.answers[test]),
        "attempts": [_encode(grid) for grid in submission.attempts[task.task_id][test]],
        "votes": sum(candidate.votes for candidate in found if not candidate.is_older),
        "num_candidates": sum(not candidate.is_older for candidate in found),
        "num_older": sum(candidate.is_older for candidate in found),
        "candidates": [
            {
                "grid": _encode(candidate.grid),
                "votes": candidate.votes,
                "q": round(candidate.mean_q, 4),
                "reproduced": candidate.mean_reproduced,
                "is_older": candidate.is_older,
            }
            for candidate in found[:_CANDIDATES]
        ],
    }


def describe_training(
    name: str, stage: str, lines: Sequence[Mapping[str, float | None]]
) -> dict[str, object]:
    """Return the curves of a stage of the run called ``name``, from the lines of its metrics.

    Where there are more points than a picture can show, means of neighbours take their place.
    """
    parts = [part for part in np.array_split(np.arange(len(lines)), _POINTS) if len(part)]
    flop = np.cumsum([line.get("flop") or 0.0 for line in lines])
    return {
        "name": f"{name}, {stage}",
        "step": [lines[part[-1]]["step"] for part in parts],
        "flop": [float(flop[part[-1]]) for part in parts],
        **{
            curve: [_mean(lines[n].get(curve) for n in part) for part in parts] for curve in _CURVES
        },
        "last": {curve: lines[-1].get(curve) if lines else None for curve in _CURVES},
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{sum(known) / len(known):.6g}") if known else None


def _encode(grid: Grid) -> str:
    """Return a grid as its rows of digits, with a bar between them."""
    return "|".join("".join(map(str, row)) for row in grid.tolist())
