"""Output sizes that the demonstrations alone give away."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from augment.grid import MAX_SIDE
from augment.task import Pair, Task

Size = tuple[int, int]
SizeRule = Callable[[Size], Size | None]


def size_rules(train: Sequence[Pair]) -> Iterator[SizeRule]:
    """Yield the rules, from input size to output size, that hold on every demonstration.

    In order: same, transposed, constant, and a constant ratio per axis. A rule gives None where
    it leads to no whole or legal size.
    """
    sizes = [(pair.input.shape, pair.output.shape) for pair in train]
    first_input, first_output = sizes[0]
    ratios = tuple(Fraction(o, i) for i, o in zip(first_input, first_output, strict=True))

    def scale(size: Size) -> Size | None:
        height, width = (side * ratio for side, ratio in zip(size, ratios, strict=True))
        whole = height.denominator == width.denominator == 1
        return (int(height), int(width)) if whole and max(height, width) <= MAX_SIDE else None

    rules: tuple[SizeRule, ...] = (
        lambda size: size,
        lambda size: (size[1], size[0]),
        lambda _: first_output,
        scale,
    )
    for rule in rules:
        if all(rule(size) == output for size, output in sizes):
            yield rule


def infer_output_size(task: Task, test: int) -> Size | None:
    """Return the output size of a test by the first rule that holds, None when none does."""
    size = task.test_inputs[test].shape
    sizes = (rule(size) for rule in size_rules(task.train))
    return next((size for size in sizes if size is not None), None)


def usual_output_size(task: Task) -> Size:
    """Return the most frequent output size of the demonstrations; the first of equals."""
    return Counter(pair.output.shape for pair in task.train).most_common(1)[0][0]
