"""Which solutions training gives away: compared by content, under every view.

Training on a task, solutions included, teaches its pairs, and its demonstrations as a whole. A
scored task is given away when its demonstrations were trained on as a whole (then its tests were
too, or easily could be), or when one of its tests was: the same input with the same output or,
where the solution is hidden, with any output. As training shows views, *the same* means: equal
after one of the eight dihedral transforms and a permutation of the colors 1 to 9. What is the same
has one *leak key*, a number of 64 bits.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.grid import NUM_COLORS, Grid, grid_key
from augment.task import Pair, Task
from augment.view import NUM_DIHEDRALS, transform

_COLORS = range(1, NUM_COLORS)  # 0 keeps its place in every view
_CELLS_OF_CHANCE = 9
_NAMED = 5  # leaks that an error names; it counts the others
_DIHEDRALS = (
    "", "turned a quarter counter-clockwise", "turned by half", "turned a quarter clockwise",
    "mirrored left to right", "mirrored top to bottom", "transposed", "anti-transposed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What can be taught or given away: a task's demonstrations as a whole, a pair, an input."""

    task_id: str
    name: str
    """Such as ``test 0``, for the person who reads the log."""
    kind: Literal["demonstrations", "pair", "input"]
    units: tuple[tuple[Grid, ...], ...]
    """Pairs, in any order, or the one pair or input; all are shown under the same view."""

    @property
    def key(self) -> int:
        """The leak key: equal for the same content under any view.

        An input of up to nine cells is compared as it stands, as unrelated tasks often have such
        inputs that are the same under some view.
        """
        if self.kind == "input" and self.units[0][0].size <= _CELLS_OF_CHANCE:
            content = grid_key(self.units[0][0])
        else:
            content = min(map(self._under, range(NUM_DIHEDRALS)))
        digest = hashlib.sha256(self.kind.encode() + content).digest()
        return int.from_bytes(digest[:8], "little")

    def view_to(self, other: "Part") -> str:
        """Return in words the view under which this part is ``other``, which has the same key."""
        wanted = other._under(0)
        dihedral = next(d for d in range(NUM_DIHEDRALS) if self._under(d) == wanted)
        colors = dict(_form(unit, dihedral) for unit in self.units)
        renamed = {
            (before, after)
            for cells, others in (_form(unit, 0) for unit in other.units)
            for before, after in zip(colors[cells], others, strict=True)
            if before != after
        }
        recolored = ", ".join(f"{before}->{after}" for before, after in sorted(renamed))
        words = _DIHEDRALS[dihedral], recolored and f"with colors {recolored}"
        return " ".join(filter(None, words))

    def _under(self, dihedral: int) -> bytes:
        return _join(_form(unit, dihedral) for unit in self.units)

    def __str__(self) -> str:
        return f"{self.name} of {self.task_id}"


class _Form(NamedTuple):
    """Grids under a dihedral, with colors numbered as they come; ``colors`` had the numbers 1..."""

    cells: bytes
    colors: tuple[int, ...]


def _form(unit: Sequence[Grid], dihedral: int) -> _Form:
    turned = [transform(grid, dihedral) for grid in unit]
    cells = b"".join(grid.tobytes() for grid in turned)
    colors = tuple(sorted((c for c in _COLORS if c in cells), key=cells.index))
    numbers = bytearray(range(NUM_COLORS))
    for number, color in enumerate(colors, start=1):
        numbers[color] = number
    shapes = b"".join(bytes(grid.shape) for grid in turned)
    return _Form(shapes + cells.translate(numbers.ljust(256)), colors)


def _join(forms: Iterable[_Form]) -> bytes:
    """Return the same bytes for the same units in any order, recolored together in any way.

    Beside the forms these are, for each color, the numbers it has in them, without its name.
    """
    distinct = sorted(set(forms))
    if len(distinct) == 1:
        return distinct[0].cells
    numbers: dict[int, list[tuple[bytes, int]]] = {color: [] for color in _COLORS}
    for form in distinct:
        for number, color in enumerate(form.colors, start=1):
            numbers[color].append((form.cells, number))
    ranks = {cells: rank for rank, cells in enumerate(sorted({f.cells for f in distinct}))}
    of_colors = sorted(
        sorted((ranks[cells], number) for cells, number in named) for named in numbers.values()
    )
    return b"".join(form.cells for form in distinct) + repr(of_colors).encode()


def training_keys(task: Task) -> list[int]:
    """Return the leak keys of all that training on the task teaches, solutions included."""
    return [part.key for part in _trained_parts(task)]


def content_keys(task: Task) -> list[int]:
    """Return the leak keys of the demonstrations as a whole, and of every pair."""
    return [part.key for part in (_demonstrations(task), *_pairs(task))]


def scoring_keys(task: Task) -> list[int]:
    """Return the leak keys of which none may have been trained on where the task is scored."""
    return [part.key for part in scored_parts(task)]


def pair_keys(pair: Pair) -> tuple[int, int]:
    """Return the leak keys of a pair, and of its input with any output."""
    whole = Part("", "", "pair", ((pair.input, pair.output),))
    with_output, alone = _with_inputs([whole])
    return with_output.key, alone.key


def collect_training_keys(tasks: Iterable[Task]) -> NDArray[np.uint64]:
    """Return the sorted leak keys of training on the tasks, for a checkpoint to remember."""
    keys = (key for task in tasks for key in training_keys(task))
    return np.unique(np.fromiter(keys, dtype=np.uint64))


@dataclass(frozen=True, slots=True)
class Leak:
    """A part of a scored task that training on a part of another task gives away."""

    scored: Part
    trained: Part

    def __str__(self) -> str:
        verb = "are" if self.scored.kind == "demonstrations" else "is"
        names = f"{self.scored} {verb} {self.trained}"
        if self.scored.kind == "input":
            names = f"{self.scored} has the input of {self.trained}"
        return f"{names} {self.trained.view_to(self.scored)}".rstrip()


def find_leaks(trained_with_solutions: Iterable[Task], predicted: Iterable[Task]) -> list[Leak]:
    """Return what training gives away of the solutions that are to be predicted."""
    trained = (part for task in trained_with_solutions for part in _trained_parts(task))
    return _find_equals(trained, (part for task in predicted for part in scored_parts(task)))


def find_given_away_tests(tasks: Sequence[Task]) -> list[Leak]:
    """Return the tests that the demonstrations of another of the tasks give away."""
    shown = (part for task in tasks for part in _with_inputs(_pairs(task.without_solutions())))
    tests = (part for task in tasks for part in _tests(task))
    equals = _find_equals(shown, tests)
    return [leak for leak in equals if leak.scored.task_id != leak.trained.task_id]


def refuse_leaks(trained_with_solutions: Iterable[Task], predicted: Iterable[Task]) -> None:
    """Raise :class:`InputError` when training gives away solutions that are to be predicted."""
    leaks = find_leaks(trained_with_solutions, predicted)
    by_task = {leak.scored.task_id: leak for leak in reversed(leaks)}
    if by_task:
        raise InputError(
            f"training would see solutions of {len(by_task)} tasks it is to be scored on: "
            f"{join_some([str(leak) for leak in reversed(by_task.values())])}"
        )


def join_some(names: Sequence[str]) -> str:
    """Return the first names in a line, and how many more there are."""
    more = [f"and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return "; ".join([*names[:_NAMED], *more])


def without_twins(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks of known solutions that training on all the others would not give away."""
    counts = Counter(key for task in tasks for key in set(training_keys(task)))
    return [task for task in tasks if all(counts[key] == 1 for key in scoring_keys(task))]


def _trained_parts(task: Task) -> list[Part]:
    return [_demonstrations(task), *_with_inputs(_pairs(task))]


def scored_parts(task: Task) -> list[Part]:
    """Return the parts of which none may have been trained on where the task is scored."""
    return [_demonstrations(task), *_tests(task)]


def _demonstrations(task: Task) -> Part:
    pairs = tuple((pair.input, pair.output) for pair in task.train)
    return Part(task.task_id, "the demonstrations", "demonstrations", pairs)


def _pairs(task: Task) -> list[Part]:
    named = [
        *((f"demonstration {number}", pair) for number, pair in enumerate(task.train)),
        *((f"test {number}", pair) for number, pair in enumerate(task.test_pairs)),
    ]
    return [Part(task.task_id, name, "pair", ((p.input, p.output),)) for name, p in named]


def _tests(task: Task) -> list[Part]:
    if task.solutions is not None:
        return _pairs(task)[len(task.train) :]
    inputs = enumerate(task.test_inputs)
    return [Part(task.task_id, f"test {number}", "input", ((grid,),)) for number, grid in inputs]


def _with_inputs(pairs: Sequence[Part]) -> list[Part]:
    return [*pairs, *(replace(p, kind="input", units=((p.units[0][0],),)) for p in pairs)]


def _find_equals(trained: Iterable[Part], scored: Iterable[Part]) -> list[Leak]:
    by_key: dict[int, list[Part]] = defaultdict(list)
    for part in trained:
        by_key[part.key].append(part)
    return [Leak(part, equal) for part in scored for equal in by_key.get(part.key, ())]
