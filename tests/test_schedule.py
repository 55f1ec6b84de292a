"""The learning-rate multiplier over a run, and the rate of the moving average."""

from dataclasses import replace

import pytest

from solver.schedule import ema_rate, lr_multiplier
from solver.settings import TrainSettings


def test_rates_rise_from_the_first_step_and_reach_zero_after_the_last():
    constant = TrainSettings(num_steps=1000, warmup_steps=100)
    assert multiplier(1, constant) == 1 / 100
    assert multiplier(100, constant) == multiplier(1000, constant) == 1
    assert multiplier(1, replace(constant, warmup_steps=0)) == 1
    wsd = replace(constant, schedule="wsd", decay_share=0.2)
    assert multiplier(50, wsd) == 1 / 2
    assert multiplier(801, wsd) == pytest.approx(1)
    assert multiplier(901, wsd) == pytest.approx(1 / 2)
    assert multiplier(1000, wsd) == pytest.approx(1 / 200)
    # In time that is short, the warm-up takes a tenth of it.
    assert lr_multiplier(7, 0.05, constant) == pytest.approx(0.5)
    assert lr_multiplier(7, 0.1, constant) == 1


def multiplier(step, settings):
    """The multiplier of a run that is measured in its steps."""
    return lr_multiplier(step, (step - 1) / settings.num_steps, settings)


def test_the_average_spans_a_share_of_the_steps_up_to_its_rate():
    settings = TrainSettings(ema_rate=0.99)
    assert {ema_rate(step, settings) for step in (1, 10, 10**6)} == {0.99}
    settings = replace(settings, ema_share=0.1)
    spans = [1 / (1 - ema_rate(step, settings)) for step in (1, 10, 100, 10**6)]
    assert spans == pytest.approx([1.1, 2, 11, 100])
