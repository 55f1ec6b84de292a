"""Cards are known by name, and this machine's processor is measured."""

import pytest
from commands import call

from solver.cards import CARDS, choose_card, measure_cpu


def test_cards_by_name():
    assert choose_card("h100") is not None
    assert (choose_card("l4x4").count, choose_card("t4x2").count) == (4, 2)
    assert choose_card("4090x8").label == "4090x8"


@pytest.mark.parametrize("gpu", ["a100", "h100x0", "x4", "", "l4x4x4", "cpux2"])
def test_an_unknown_card_is_one_line_that_lists_the_choices(gpu, capsys):
    assert call("plan", "--gpu", gpu) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(name in error for name in (*CARDS, "cpu"))


def test_this_machine_is_measured():
    for dtype in ("float32", "float16"):
        card = measure_cpu(128, 512, dtype)
        assert card.dtype == dtype
        assert card.product_tflops > 0
        assert card.memory_gb > 0.1
