"""Pictures of grids as SVG, in ARC's ten colors; notebooks show them by themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import numpy as np

from augment.grid import Grid

COLORS = (
    "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00",
    "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25",
)  # fmt: skip
WITH_LIGHT_INK = (0, 1, 9)
"""Colors on which white is read better than black."""

_LINES = "#555555"
_WRONG = "#D00000"
_TEXT = "#808080"  # on light and on dark
_SIDE = 150.0  # of the square that each grid fits into, in pixels
_GAP = 14.0
_LINE = 16.0


@dataclass(frozen=True, slots=True)
class Picture:
    """SVG, which a notebook shows as a picture."""

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg


class Labelled(NamedTuple):
    """A grid with what stands above it; None is no grid."""

    label: str
    grid: Grid | None
    solution: Grid | None = None
    """Cells that differ from this one are crossed out, where the sizes are the same."""


def draw_grid(grid: Grid) -> Picture:
    """Return a picture of one grid."""
    return draw_columns("", [[Labelled("", grid)]])


def draw_columns(
    title: str, columns: Sequence[Sequence[Labelled]], *, digits: bool = False
) -> Picture:
    """Return a picture of labelled grids in columns, the first one leftmost.

    With ``digits`` cells hold the numbers of their colors, 0 being a blank, and wrong ones are red.
    """
    width = len(columns) * (_SIDE + _GAP) + _GAP
    height = _LINE + max(map(len, columns)) * (_SIDE + _LINE + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12" '
        f'fill="{_TEXT}"><title>{escape(title)}</title>',
        _text(title, _GAP, _LINE),
    ]
    for number, column in enumerate(columns):
        left = _GAP + number * (_SIDE + _GAP)
        for row, shown in enumerate(column):
            top = _LINE + _GAP + row * (_SIDE + _LINE + _GAP)
            parts.append(_text(shown.label, left, top + _LINE - 4))
            parts.extend(_draw(shown, left, top + _LINE, digits))
    return Picture("".join([*parts, "</svg>"]))


def _text(text: str, left: float, bottom: float) -> str:
    return f'<text x="{left:g}" y="{bottom:g}">{escape(text)}</text>'


def _draw(shown: Labelled, left: float, top: float, digits: bool) -> Iterator[str]:
    grid = shown.grid
    if grid is None:
        return
    height, width = grid.shape
    cell = _SIDE / max(height, width)
    position = f"translate({left:g} {top:g}) scale({cell:g})"
    yield f'<g transform="{position}" shape-rendering="crispEdges">'
    yield from _draw_digits(grid, shown.solution) if digits else _draw_colors(grid)
    lines = [f"M{x} 0V{height}" for x in range(width + 1)]
    lines += [f"M0 {y}H{width}" for y in range(height + 1)]
    yield f'<path d="{"".join(lines)}" stroke="{_LINES}" stroke-width=".04" fill="none"/>'
    if shown.solution is not None and shown.solution.shape == grid.shape and not digits:
        for y, x in np.argwhere(grid != shown.solution).tolist():
            ink = "#FFFFFF" if grid[y, x] in WITH_LIGHT_INK else "#000000"
            cross = f"M{x + 0.2:g} {y + 0.2:g}l.6 .6m0 -.6l-.6 .6"
            yield f'<path d="{cross}" stroke="{ink}" stroke-width=".12"/>'
    yield "</g>"


def _draw_digits(grid: Grid, solution: Grid | None) -> Iterator[str]:
    for (y, x), digit in np.ndenumerate(grid):
        if digit:
            is_wrong = solution is not None and solution[y, x] != digit
            fill = f' fill="{_WRONG}"' if is_wrong else ""
            place = f'x="{x + 0.5}" y="{y + 0.8}" font-size=".8" text-anchor="middle"'
            yield f"<text {place}{fill}>{digit}</text>"


def _draw_colors(grid: Grid) -> Iterator[str]:
    """Yield the cells of a grid, equal neighbours of a row in one."""
    width = grid.shape[1]
    for y, row in enumerate(grid.tolist()):
        start = 0
        for x in range(1, width + 1):
            if x == width or row[x] != row[start]:
                yield (
                    f'<rect x="{start}" y="{y}" width="{x - start}" height="1" '
                    f'fill="{COLORS[row[start]]}"/>'
                )
                start = x
