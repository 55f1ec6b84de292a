"""Rounded weights come back within half a step, whatever the rows hold."""

import pytest
import torch
from conftest import seeded

from augment.errors import InputError
from solver.rounding import restore_tensors, round_tensors


def test_int8_is_within_half_a_step_of_each_row():
    matrix = torch.randn(70, 100, generator=seeded(0)) * torch.logspace(-6, 3, 70)[:, None]
    matrix[3] = 0
    others = {"bias": torch.tensor([0.1, -3.0]), "numbers": torch.tensor([7, 9])}
    rounded = round_tensors({"matrix": matrix, **others}, "int8")
    assert rounded["matrix"].dtype == torch.int8
    assert rounded["bias"].dtype == torch.float16
    restored = restore_tensors(rounded)
    assert set(restored) == {"matrix", *others}
    steps = matrix.abs().amax(1, keepdim=True) / 127
    assert ((restored["matrix"] - matrix).abs() <= 0.501 * steps).all()
    assert torch.equal(restored["numbers"], others["numbers"])
    assert torch.equal(restored["bias"], others["bias"].half().float())


def test_what_is_rounded_again_stays():
    tensors = {"matrix": torch.randn(64, 64, generator=seeded(1))}
    once = restore_tensors(round_tensors(tensors, "int8"))
    assert torch.allclose(restore_tensors(round_tensors(once, "int8"))["matrix"], once["matrix"])
    assert torch.equal(restore_tensors(round_tensors(tensors, "float32"))["matrix"],
                       tensors["matrix"])  # fmt: skip


def test_a_matrix_without_scales_of_its_rows_is_an_error():
    whole = round_tensors({"matrix": torch.ones(64, 64)}, "int8")
    for scales in ({}, {"matrix:scale": torch.ones(1, 2**20)}, {"matrix:scale": torch.ones(63, 1)}):
        with pytest.raises(InputError, match="'matrix': no scales of its rows"):
            restore_tensors({"matrix": whole["matrix"], **scales})
