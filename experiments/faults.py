"""Runs a command in which something goes wrong: ``faults.py FAULT NUMBER STAGE ...``.

The faults come from outside the code under test, as they would: numbers that leave their range,
memory that runs out, a machine that is slow or stands still.
"""

import math
import runpy
import sys
import time

import torch

import solver.train
from solver.model import Model


class Shortage:
    """A model's forward pass in a memory that holds so many positions, of one dtype or of any."""

    def __init__(self, model, most, dtype=None):
        self.forward, self.most, self.dtype = model.forward, most, dtype

    def __call__(self, state, x_ND, *more):
        if len(x_ND) > self.most and self.dtype in (None, x_ND.dtype):
            raise torch.OutOfMemoryError
        return self.forward(state, x_ND, *more)


def spoil(number: int) -> None:
    """Make the weights NaN in the step with this number, once."""
    spoilt = []

    def fault(training):
        if training.step == number and not spoilt:
            spoilt.append(number)
            with torch.no_grad():
                training.model.token_embedding.fill_(math.nan)

    _after_steps(fault)


def slow(number: int) -> None:
    """Make every step from this one on take a second more, and every group of views half of it."""
    is_slow = []

    def fault(training):
        if training.step >= number:
            is_slow.append(number)
            time.sleep(1.0)

    _after_steps(fault)
    start = Model.start

    def start_slowly(self, num_positions, dtype):
        if is_slow and not torch.is_grad_enabled():
            time.sleep(0.5)
        return start(self, num_positions, dtype)

    Model.start = start_slowly


def stall(number: int) -> None:
    """Stand still for ten minutes after this step."""
    _after_steps(lambda training: time.sleep(600) if training.step == number else None)


def starve(number: int) -> None:
    """Leave memory for so many positions at once."""
    init = Model.__init__

    def init_with_little_memory(self, *arguments):
        init(self, *arguments)
        self.forward = Shortage(self, number)

    Model.__init__ = init_with_little_memory


def _after_steps(fault) -> None:
    step = solver.train.train_step

    def step_with_fault(training, *more):
        step(training, *more)
        fault(training)

    solver.train.train_step = step_with_fault


FAULTS = {"spoil": spoil, "slow": slow, "stall": stall, "starve": starve}

if __name__ == "__main__":
    fault, number, *arguments = sys.argv[1:]
    FAULTS[fault](int(number))
    sys.argv[1:] = arguments
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
