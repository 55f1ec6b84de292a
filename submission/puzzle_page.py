"""The page of an evaluation on Sudoku puzzles or mazes: tables, and puzzles to be looked at.

One file that needs no network and runs no script.

Shapes: K numbers of supervision steps, N puzzles, S side of the grids.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augment.drawing import Labelled, draw_columns
from augment.files import read_bytes, write_atomic
from augment.puzzle_set import PuzzleSet
from submission.puzzle_score import Means, PuzzleScore

_SHOWN = 12  # solved puzzles, and as many that are not
_STYLE = Path(__file__).with_name("report.css")
_NAMES = {
    "steps": "supervision steps", "from": "rated from", "to": "to", "puzzles": "puzzles",
    "exact": "solved", "cells": "cells right", "shortest": "a shortest path",
}  # fmt: skip
_SHARES = ("exact", "cells", "shortest")


def write_puzzle_page(
    path: Path,
    name: str,
    puzzles: PuzzleSet,
    predicted_KNSS: NDArray[np.uint8],
    score: PuzzleScore,
) -> None:
    """Replace ``path`` by the page of the evaluation of a run called ``name``."""
    solved = np.flatnonzero(score.exact_KN[-1])
    unsolved = np.flatnonzero(~score.exact_KN[-1])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(name)}</title><style>{read_bytes(_STYLE).decode()}</style></head><body>",
        f"<header><h1>{escape(name)}</h1></header><main>",
        f"<p>{len(puzzles.questions):,} puzzles of the kind {puzzles.kind}, "
        f"{len(solved):,} of them solved after {score.steps[-1]} supervision steps.</p>",
        '<div class="tables">',
        _table("By supervision steps", score.by_step()),
        _table("By rating, after the last step", score.by_rating(puzzles.ratings)),
        "</div>",
    ]
    for title, members in (("Not solved", unsolved), ("Solved", solved)):
        shown = members[:_SHOWN]
        parts.append(f"<h2>{title}: {len(members):,}</h2>")
        parts.append(f"<p>The first {len(shown)}. Wrong cells are red or crossed out.</p>")
        parts.extend(_draw(puzzles, predicted_KNSS, score.steps, number) for number in shown)
    parts.append("</main></body></html>")
    write_atomic(path, "\n".join(parts).encode())


def _table(title: str, lines: Iterable[Means]) -> str:
    lines = list(lines)
    columns = [key for key in lines[0] if any(line[key] is not None for line in lines)]
    head = "".join(f"<th>{_NAMES[key]}</th>" for key in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_show(key, line[key])}</td>' for key in columns)}</tr>"
        for line in lines
    )
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead>{rows}</table>"


def _show(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if key in _SHARES else f"{value:,.6g}"


def _draw(
    puzzles: PuzzleSet, predicted_KNSS: NDArray[np.uint8], steps: Sequence[int], number: int
) -> str:
    """Return a picture of a puzzle: question, prediction after each number of steps, answer."""
    question, answer = puzzles.questions[number], puzzles.answers[number]
    columns = [
        [Labelled("question", question)],
        *(
            [Labelled(f"step {step}", grids[number], answer)]
            for step, grids in zip(steps, predicted_KNSS, strict=True)
        ),
        [Labelled("answer", answer)],
    ]
    title = f"puzzle {number}, rated {puzzles.ratings[number]:g}"
    return draw_columns(title, columns, digits=puzzles.kind == "sudoku").svg
