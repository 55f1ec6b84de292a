"""The stage evaluate: predict Sudoku puzzles or mazes, and score the predictions.

Predictions are kept in parts below ``evaluation/`` in the run's folder. The same command goes on
from those that the same weights and code made of the same puzzles.

Shapes: K numbers of supervision steps, N puzzles, S side of the grids.
"""

import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from augment.arrays import read_arrays
from augment.errors import InputError
from augment.files import write_atomic, write_json
from augment.puzzle_set import PuzzleSet, encode_questions
from augment.tokens import FIRST_COLOR
from pipeline.console import ProgressBar, say, say_anywhere, say_table, warn
from pipeline.deadline import Deadline
from pipeline.fingerprint import fingerprint, fingerprint_code
from pipeline.inputs import find_weights
from pipeline.puzzle_sources import load_puzzles
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.version import code_version
from solver.by_step import predict_by_step
from solver.engine import Engine, open_engine
from solver.process_group import leave_process_group
from solver.weights import Weights
from submission.puzzle_page import write_puzzle_page
from submission.puzzle_score import Means, score_puzzles

_PUZZLES_OF_A_PART = 64
_MARGIN = 1.3  # a part may take so many times as long as the longest before


class _Part(NamedTuple):
    """The predictions of some puzzles, and what they took."""

    predicted_KNSS: NDArray[np.uint8]
    flop: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Predictions:
    """The predictions of a set of puzzles, part by part, on disk."""

    folder: Path
    """Of these weights and puzzles alone."""
    puzzles: PuzzleSet
    num_steps: int

    @property
    def parts(self) -> range:
        """The number of the first puzzle of each part."""
        return range(0, len(self.puzzles.questions), _PUZZLES_OF_A_PART)

    def puzzles_of(self, part: int) -> PuzzleSet:
        """Return the puzzles of a part."""
        return self.puzzles.take(slice(part, part + _PUZZLES_OF_A_PART))

    def write(self, part: int, predicted: "_Part") -> None:
        """Keep the predictions of a part, and what they took."""
        buffer = io.BytesIO()
        cost = np.array([predicted.flop, predicted.seconds])
        np.savez_compressed(buffer, predicted=predicted.predicted_KNSS, cost=cost)
        write_atomic(self._path(part), buffer.getvalue())

    def read(self, part: int) -> "_Part | None":
        """Return the predictions of a part; None where they are missing or damaged."""
        path = self._path(part)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path, {"predicted": (np.uint8, 4), "cost": (np.float64, 1)})
        except InputError as error:
            warn(f"{error}; predicted again")
            return None
        shape = (self.num_steps, *self.puzzles_of(part).answers.shape)
        if (arrays["predicted"].shape, arrays["cost"].shape) != (shape, (2,)):
            return None
        return _Part(arrays["predicted"], *arrays["cost"].tolist())

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:08}.npz"


def evaluate(settings: Settings, run: Run) -> None:
    """Predict the puzzles of ``data.predicted``, and write and print how good that is.

    When the time is over, those predicted until then are scored.
    """
    seconds = settings.predict.time_limit_seconds or math.inf
    with run.lock(), Deadline(seconds) as deadline:
        puzzles = load_puzzles(settings, "predicted")
        engine = open_engine(settings.engine, say_anywhere)
        _, weights = find_weights(settings, run, engine.group)
        _require_fit(puzzles, weights, settings)
        digest = fingerprint(
            fingerprint_code(), str(engine.dtype), weights.digest, settings.puzzles.steps,
            puzzles.digest,
        )  # fmt: skip
        predictions = _Predictions(
            run.evaluation / digest[:16], puzzles, len(settings.puzzles.steps)
        )
        say(
            f"evaluate: {len(puzzles.questions):,} puzzles with {weights.source}, "
            f"{engine.describe()}"
        )
        if engine.group.is_rank0:
            for other in run.evaluation.glob("*/"):
                if other != predictions.folder:  # by other weights
                    rmtree(other)
        _predict(predictions, weights, settings, engine, deadline)
        engine.group.barrier()
        if engine.group.is_rank0:
            _score(predictions, weights, settings, run)
        engine.group.barrier()
        leave_process_group()
    if deadline.has_signal:
        warn("evaluate: stopped; the same command goes on from here")
        raise KeyboardInterrupt


def _require_fit(puzzles: PuzzleSet, weights: Weights, settings: Settings) -> None:
    """Raise :class:`InputError` for puzzles of another size or kind, or that were trained on."""
    side = weights.model.settings.canvas_side
    if side != puzzles.canvas_side:
        raise InputError(
            f"{weights.source}: for grids of {side}x{side}, and these are of "
            f"{puzzles.canvas_side}x{puzzles.canvas_side}"
        )
    if weights.index.position_of(*puzzles.index.key(0)) is None:
        raise InputError(f"{weights.source}: not trained on the kind {puzzles.kind}")
    known = np.intersect1d(weights.trained_on, puzzles.trained_on)
    if len(known):
        line = (
            f"{weights.source}: trained on {len(known):,} of the {len(puzzles.questions):,} "
            "puzzles to evaluate, or on what a symmetry makes of them"
        )
        if settings.predict.refuse_leaks:
            raise InputError(line)
        warn(line)


def _predict(
    predictions: _Predictions,
    weights: Weights,
    settings: Settings,
    engine: Engine,
    deadline: Deadline,
) -> None:
    """Predict what is not predicted yet as long as there is time."""
    group = engine.group
    left = [part for part in predictions.parts if predictions.read(part) is None]
    if done := len(predictions.parts) - len(left):
        say(f"evaluate: going on, {done} of {len(predictions.parts)} parts")
    group.barrier()  # before one of them writes
    mine, longest = left[group.rank :: group.size], 0.0
    with ProgressBar(
        "evaluate", "part", len(mine), settings.log, budget=lambda: deadline.seconds_left
    ) as bar:
        for part in mine:
            if deadline.is_over or longest * _MARGIN > deadline.seconds_left:
                break
            begin = time.monotonic()
            puzzles = predictions.puzzles_of(part)
            questions = encode_questions(puzzles)
            tokens_KNC, flop = predict_by_step(weights, questions, settings.puzzles.steps, engine)
            colors_KNC = np.maximum(tokens_KNC, FIRST_COLOR) - FIRST_COLOR
            seconds = time.monotonic() - begin
            colors_KNSS = colors_KNC.reshape(-1, *puzzles.questions.shape)
            predictions.write(part, _Part(colors_KNSS, flop, seconds))
            longest = max(longest, seconds)
            bar.update()


def _score(predictions: _Predictions, weights: Weights, settings: Settings, run: Run) -> None:
    """Score what is predicted: a table, ``evaluation.json`` and the page."""
    read = [(part, predictions.read(part)) for part in predictions.parts]
    predicted = [(first, part) for first, part in read if part is not None]
    if not predicted:
        raise InputError("evaluate: the time was over before any puzzle was predicted")
    members = np.concatenate([
        np.arange(first, first + part.predicted_KNSS.shape[1]) for first, part in predicted
    ])  # fmt: skip
    puzzles = predictions.puzzles.take(members)
    predicted_KNSS = np.concatenate([part.predicted_KNSS for _, part in predicted], axis=1)
    score = score_puzzles(puzzles, predicted_KNSS, settings.puzzles.steps)
    by_step, by_rating = list(score.by_step()), list(score.by_rating(puzzles.ratings))
    content = {
        "kind": puzzles.kind,
        "puzzles": len(predictions.puzzles.questions),
        "predicted": len(members),
        "weights": weights.source,
        "code_version": code_version(),
        "flop": sum(part.flop for _, part in predicted),
        "process_seconds": sum(part.seconds for _, part in predicted),
        "by_step": by_step,
        "by_rating": by_rating,
        "settings": asdict(replace(settings, model=weights.model.settings)),
    }
    write_json(run.evaluation / "evaluation.json", content)
    page = run.evaluation / "index.html"
    write_puzzle_page(page, run.folder.name, puzzles, predicted_KNSS, score)
    _say(puzzles, by_step, by_rating)
    if len(members) < len(predictions.puzzles.questions):
        say(
            f"evaluate: {len(members):,} of {len(predictions.puzzles.questions):,} puzzles are "
            "predicted; the same command goes on from here"
        )
    say(f"{page}: {page.stat().st_size / 1e3:,.0f} kB, to be opened in a browser")


def _say(puzzles: PuzzleSet, by_step: Sequence[Means], by_rating: Sequence[Means]) -> None:
    """Print both tables."""
    shares = {"exact": ".2%", "cells": ".2%"}
    if puzzles.kind == "maze":
        shares["shortest"] = ".2%"
    for name, leading, lines in (
        ("by_step", {"steps": ""}, by_step),
        ("by_rating", {"from": "g", "to": "g", "puzzles": ","}, by_rating),
    ):
        columns = {**leading, **shares}
        say_table(name, columns, [[line[column] for column in columns] for line in lines])
