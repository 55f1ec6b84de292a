"""The size of an output is inferred where all demonstrations agree on a rule."""

import pytest
from conftest import zeros

from augment.sizes import infer_output_size
from augment.task import Pair, Task


def task_of_sizes(*pairs, test):
    train = tuple(Pair(zeros(*before), zeros(*after)) for before, after in pairs)
    return Task("t", train, (zeros(*test),), None)


@pytest.mark.parametrize(
    ("pairs", "test", "expected"),
    [
        ([((2, 3), (2, 3)), ((4, 4), (4, 4))], (5, 6), (5, 6)),
        ([((2, 3), (3, 2)), ((4, 5), (5, 4))], (5, 6), (6, 5)),
        ([((2, 3), (1, 1)), ((4, 4), (1, 1))], (5, 6), (1, 1)),
        ([((2, 3), (4, 9)), ((4, 4), (8, 12))], (5, 6), (10, 18)),
        ([((4, 4), (2, 2)), ((8, 6), (4, 3))], (5, 6), None),
        ([((2, 2), (6, 6)), ((3, 3), (9, 9))], (20, 20), None),
        ([((2, 3), (4, 9)), ((4, 4), (7, 7))], (5, 6), None),
    ],
)
def test_sizes_follow_the_demonstrations(pairs, test, expected):
    assert infer_output_size(task_of_sizes(*pairs, test=test), 0) == expected
