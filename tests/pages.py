"""What the page of a run shows, as read from the elements of its browser."""

import shutil

import pytest

from augment.drawing import COLORS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def cells(table):
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tr").all()]


def percent(share):
    return f"{100 * share:.2f}\u00a0%"


def listed(page):
    """The tasks of the list: id, outcome and figures."""
    return [text.split("\n") for text in page.locator("#list button").all_inner_texts()]


def drawn(svg):
    """The grid that a picture shows."""
    cells = {}
    for rect in svg.locator("rect").all():
        x, y, width = (int(rect.get_attribute(name)) for name in ("x", "y", "width"))
        color = COLORS.index(rect.get_attribute("fill"))
        cells |= {(y, column): color for column in range(x, x + width)}
    rows, columns = (1 + max(place) for place in zip(*cells, strict=True))
    return [[cells[y, x] for x in range(columns)] for y in range(rows)]
