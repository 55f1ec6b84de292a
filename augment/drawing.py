"""Pictures of grids and tasks as SVG, in ARC's ten colors."""

from collections.abc import Iterator, Sequence
from html import escape

from augment.grid import Grid
from augment.task import Task

COLORS = (
    "#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00",
    "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25",
)  # fmt: skip
_LINES = "#555555"
_TEXT = "#808080"  # on light and on dark
_SIDE = 150.0  # of the square that each grid fits into, in pixels
_GAP = 14.0
_LINE = 16.0


def draw_task(task: Task, attempts: Sequence[tuple[Grid, Grid]] = ()) -> str:
    """Return the task as SVG: its demonstrations, then its tests with the attempts at each.

    Answers stand beside them where they are known.
    """
    columns: list[list[tuple[str, Grid]]] = [
        [(f"demonstration {number}", pair.input), ("output", pair.output)]
        for number, pair in enumerate(task.train)
    ]
    for test, grid in enumerate(task.test_inputs):
        column: list[tuple[str, Grid]] = [(f"test {test}", grid)]
        if attempts:
            column += [(f"attempt {n}", found) for n, found in enumerate(attempts[test], start=1)]
        if task.answers is not None:
            column.append(("answer", task.answers[test]))
        columns.append(column)
    rows = max(len(column) for column in columns)
    width = len(columns) * (_SIDE + _GAP) + _GAP
    height = _LINE + rows * (_SIDE + _LINE + _GAP) + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12" '
        f'fill="{_TEXT}"><title>task {escape(task.task_id)}</title>',
        _text(escape(task.task_id), _GAP, _LINE),
    ]
    for number, column in enumerate(columns):
        left = _GAP + number * (_SIDE + _GAP)
        for row, (label, shown) in enumerate(column):
            top = _LINE + _GAP + row * (_SIDE + _LINE + _GAP)
            parts.append(_text(label, left, top + _LINE - 4))
            parts.extend(_draw_grid(shown, left, top + _LINE))
    return "".join([*parts, "</svg>"])


def _text(text: str, left: float, bottom: float) -> str:
    return f'<text x="{left:g}" y="{bottom:g}">{text}</text>'


def _draw_grid(grid: Grid, left: float, top: float) -> Iterator[str]:
    """Yield the cells of a grid, equal neighbours of a row in one."""
    height, width = grid.shape
    cell = _SIDE / max(height, width)
    place = f"translate({left:g} {top:g}) scale({cell:g})"
    yield f'<g transform="{place}" shape-rendering="crispEdges">'
    for y, row in enumerate(grid.tolist()):
        start = 0
        for x in range(1, width + 1):
            if x == width or row[x] != row[start]:
                yield (
                    f'<rect x="{start}" y="{y}" width="{x - start}" height="1" '
                    f'fill="{COLORS[row[start]]}"/>'
                )
                start = x
    lines = [f"M{x} 0V{height}" for x in range(width + 1)]
    lines += [f"M0 {y}H{width}" for y in range(height + 1)]
    yield f'<path d="{"".join(lines)}" stroke="{_LINES}" stroke-width=".04" fill="none"/></g>'
