"""Views and tokens of one grid at a time, in plain numpy; and grids and views drawn at random."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from augment.grid import NUM_COLORS, Grid
from augment.tokens import END, FIRST_COLOR, NUM_TOKENS, PAD, Canvas
from augment.view import COMPOSED_DIHEDRAL, INVERSE_DIHEDRAL, NUM_COLOR_MAPS, color_maps, transform


@dataclass(frozen=True, slots=True)
class View:
    """A dihedral transform after a color map; entry i of ``colors`` is the new color of i.

    Black (0) keeps its color.
    """

    dihedral: int
    colors: tuple[int, ...]

    def apply(self, grid: Grid) -> Grid:
        """Return the grid as this view shows it."""
        return transform(np.array(self.colors, dtype=np.uint8)[grid], self.dihedral)

    def invert(self) -> "View":
        """Return the view that undoes this one."""
        return View(
            INVERSE_DIHEDRAL[self.dihedral],
            tuple(self.colors.index(color) for color in range(NUM_COLORS)),
        )

    def compose(self, before: "View") -> "View":
        """Return the view that equals ``before`` followed by this one."""
        return View(
            int(COMPOSED_DIHEDRAL[self.dihedral, before.dihedral]),
            tuple(self.colors[color] for color in before.colors),
        )

    @property
    def code(self) -> int:
        """The number of this view, see :data:`ViewCodes`."""
        rank = 0
        rest = list(range(1, NUM_COLORS))
        for color in self.colors[1:]:
            position = rest.index(color)
            rank = rank * len(rest) + position
            rest.pop(position)
        return self.dihedral * NUM_COLOR_MAPS + rank

    @classmethod
    def from_code(cls, code: int) -> "View":
        """Return the view with this number."""
        dihedral, rank = divmod(int(code), NUM_COLOR_MAPS)
        return cls(dihedral, tuple(int(color) for color in color_maps()[rank]))


def encode_grid(grid: Grid, canvas_side: int, offset: tuple[int, int] = (0, 0)) -> Canvas:
    """Return a square canvas with the grid at ``offset``; it must fit."""
    height, width = grid.shape
    top, left = offset
    bottom, right = top + height, left + width
    assert max(bottom, right) <= canvas_side
    canvas = np.full((canvas_side, canvas_side), PAD, dtype=np.uint8)
    canvas[top:bottom, left:right] = grid + FIRST_COLOR
    canvas[bottom : bottom + 1, left:right] = END
    canvas[top:bottom, right : right + 1] = END
    return canvas


def decode_grid(canvas: Canvas) -> Grid | None:
    """Return the largest rectangle of colors at the top left, the lowest of equals; or None."""
    is_color = (canvas >= FIRST_COLOR) & (canvas < NUM_TOKENS)
    sizes = [
        (height, width)
        for height in range(1, len(canvas) + 1)
        for width in range(1, canvas.shape[1] + 1)
        if is_color[:height, :width].all()
    ]
    if not sizes:
        return None
    height, width = max(sizes, key=lambda size: (size[0] * size[1], -size[0]))
    return canvas[:height, :width] - FIRST_COLOR


permutations = st.permutations(range(1, 10)).map(lambda colors: (0, *colors))
views = st.builds(View, st.integers(0, 7), permutations)


@st.composite
def grids(draw, max_side=30):
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    seed = draw(st.integers(0, 2**32 - 1))
    num_colors = draw(st.integers(1, 10))
    return np.random.default_rng(seed).integers(num_colors, size=shape).astype(np.uint8)
