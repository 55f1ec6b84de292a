"""The page of a run, to be looked at: its score, every task with its votes, and its training.

One file that needs no network: ``report.html`` with style and scripts in it, and the
run's data as JSON.
"""

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import numpy as np
import orjson

from augment.drawing import COLORS, WITH_LIGHT_INK
from augment.files import read_bytes, write_atomic
from augment.grid import Grid
from augment.prediction import Prediction
from augment.task import Task
from submission.score import OUTCOMES, score_json, score_submission
from submission.vote import Candidate, TestKey, measure_support
from submission.writer import Submission

_PAGE = Path(__file__).with_name("report.html")
_CANDIDATES = 8  # drawn for each test
_POINTS = 400  # of each curve
_LARGEST = 1e100  # number of a curve; sums and differences of such ones are numbers, too
_CURVES = (
    "loss", "exact_accuracy", "eval_loss", "eval_exact_accuracy", "eval_pass@2",
    "supervision_steps", "examples_per_second", "lr",
)  # fmt: skip
# Published scores: percent of all evaluation tasks, in two attempts unless said, with their source.
_PUBLISHED = Path(__file__).with_name("published.json")


def write_report(
    path: Path,
    name: str,
    versions: Mapping[str, object],
    predictions: Mapping[str, object] | None,
    training: Sequence[Mapping[str, object]],
) -> None:
    """Replace ``path`` by the page of a run called ``name``.

    ``versions`` of the code by stage; ``predictions`` is of :func:`describe_predictions`, each of
    ``training`` of :func:`describe_training`.
    """
    data = {
        "name": name,
        "versions": versions,
        "colors": COLORS,
        "with_light_ink": WITH_LIGHT_INK,
        "published": orjson.loads(read_bytes(_PUBLISHED)),
        "outcomes": OUTCOMES,
        "predictions": predictions,
        "training": training,
    }
    # No markup can begin in the data, whatever a task is called.
    content = orjson.dumps(data).replace(b"<", b"\\u003c")
    page = read_bytes(_PAGE).replace(b"/* STYLE */", read_bytes(_PAGE.with_suffix(".css")))
    of_training = read_bytes(_PAGE.with_name("report_training.js"))
    script = read_bytes(_PAGE.with_suffix(".js")).replace(b"/* TRAINING */", of_training)
    # The one script that a browser runs: none that got into the page in some other way.
    page = page.replace(b"HASH", base64.b64encode(hashlib.sha256(script).digest()))
    page = page.replace(b"/* SCRIPT */", script)
    write_atomic(path, page.replace(b'"DATA"', content))


def describe_predictions(
    tasks: Sequence[Task],
    submission: Submission,
    candidates: Mapping[TestKey, Sequence[Candidate]] | None,
    predictions: Iterable[Prediction],
    canvas_side: int | None,
    benchmark: str | None,
) -> dict[str, object]:
    """Return what the page shows of the predictions of ``tasks``.

    ``candidates`` stand as the submission chose them, made from ``predictions``, of which the
    empty ones are named; None without votes to look at. ``canvas_side`` is that of the weights,
    ``benchmark`` the one whose published scores compare; None where that is not known.
    """
    score = None
    if all(task.solutions is not None for task in tasks):
        score = score_submission(submission, tasks, candidates)
    ranked = candidates or {}
    empty: Mapping[TestKey, set[int]] = defaultdict(set)
    for prediction in predictions:
        if prediction.grid is None:
            empty[prediction.task_id, prediction.test].add(prediction.view)
    scores = {of_task.task_id: of_task for of_task in score.tasks} if score else {}
    described = []
    for task in tasks:
        of_task = scores.get(task.task_id)
        tests = [
            {
                **_describe_test(task, test, submission, ranked),
                "outcome": None if of_task is None else of_task.outcomes[test],
                "rank": None if of_task is None or of_task.votes is None else of_task.votes[test],
                "dropped": sorted(empty.get((task.task_id, test), ())),
            }
            for test in range(len(task.test_inputs))
        ]
        described.append({
            "id": task.task_id,
            "outcome": None if of_task is None else of_task.outcome,
            "cells": max(math.prod(grid.shape) for grid in task.visible_grids),
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
    ranked = candidates.get((task.task_id, test), ())
    return {
        "input": _encode(task.test_inputs[test]),
        "solution": None if task.solutions is None else _encode(task.solutions[test]),
        "attempts": [_encode(grid) for grid in submission.attempts[task.task_id][test]],
        "votes": sum(candidate.votes for candidate in ranked if not candidate.is_older),
        "num_candidates": sum(not candidate.is_older for candidate in ranked),
        "num_older": sum(candidate.is_older for candidate in ranked),
        "candidates": [
            {
                "grid": _encode(candidate.grid),
                "votes": candidate.votes,
                "q": round(candidate.mean_q, 4),
                "reproduced": candidate.mean_reproduced,
                "is_older": candidate.is_older,
            }
            for candidate in ranked[:_CANDIDATES]
        ],
    }


def describe_training(
    name: str, stage: str, lines: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Return the curves of a stage of the run called ``name``, from the lines of its metrics.

    Where there are more points than a picture can show, means of neighbours take their place. What
    is no finite number counts as not measured, and a line without a step is left out.
    """
    measured = [
        {key: _number(line.get(key)) for key in ("step", "flop", *_CURVES)} for line in lines
    ]
    measured = [line for line in measured if line["step"] is not None]
    parts = [part for part in np.array_split(np.arange(len(measured)), _POINTS) if len(part)]
    flop = list(accumulate(line["flop"] or 0.0 for line in measured))
    return {
        "name": f"{name}, {stage}",
        "step": [measured[part[-1]]["step"] for part in parts],
        "flop": [_number(flop[part[-1]]) for part in parts],
        **{curve: [_mean(measured[n][curve] for n in part) for part in parts] for curve in _CURVES},
        "last": {curve: _last(line[curve] for line in measured) for curve in _CURVES},
    }


def _number(value: object) -> float | None:
    """Return a number that a chart can show, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) <= _LARGEST else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{sum(known) / len(known):.6g}") if known else None


def _last(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None


def _encode(grid: Grid) -> str:
    """Return a grid as its rows of digits, with a bar between them."""
    return "|".join("".join(map(str, row)) for row in grid.tolist())
