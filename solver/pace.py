"""How far a training run has come, in steps and in time, and whether it goes on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from solver.engine import Engine

_SECONDS_BETWEEN_AGREEMENTS = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10


@dataclass(slots=True)
class Pace:
    """Asked before every step; all processes get the same answers.

    Several processes agree about every second, or every few steps. In between, the share of the
    time that has passed is extrapolated from the leading process' speed.
    """

    num_steps: int
    engine: Engine
    until: float = 1.0
    """The share of the run at which it stops."""
    share_of_time: Callable[[], float] = lambda: 0.0
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_seconds: float = math.inf
    passed: float = 0.0
    """The share of the run that lies before the step asked about last."""
    stopped: bool = False
    """Whether a process was told to stop by ``should_stop``."""
    _share: float = 0.0
    _share_per_step: float = 0.0
    _time: float = field(default_factory=lambda: time.monotonic())
    _saved: float = field(default_factory=lambda: time.monotonic())
    _step: int = -1
    _next: int = -1
    _save: bool = False

    def goes_on(self, step: int) -> bool:
        """Return whether the step after ``step`` is to be taken."""
        if step >= self._next:
            self._agree(step)
        by_time = self._share + self._share_per_step * (step - self._step)
        self.passed = max(self.passed, step / max(1, self.num_steps), min(1.0, by_time))
        return not self.stopped and self.passed < self.until

    def wants_checkpoint(self) -> bool:
        """Return, once, whether it is time to keep the state."""
        wanted, self._save = self._save, False
        return wanted

    def _agree(self, step: int) -> None:
        now, share, world = time.monotonic(), self.share_of_time(), self.engine.world
        is_first = self._step < 0  # of this call, which shall come a step further in any case
        stop: float = self.should_stop() and not is_first
        steps = 0 if is_first else step - self._step
        seconds = (now - self._time) / steps if steps else math.inf
        slope = max(0.0, share - self._share) / steps if steps else 0.0
        interval = min(_STEPS_BETWEEN_AGREEMENTS, _SECONDS_BETWEEN_AGREEMENTS // seconds)
        due = now - self._saved >= self.checkpoint_seconds
        if world.size > 1:
            said = [share, slope, interval, due] if world.leads else [0.0] * 4
            told = torch.tensor([*said, stop], dtype=torch.float64)
            share, slope, interval, due, stop = world.sum_(told.to(self.engine.device)).tolist()
        else:
            interval = 1
        self._share, self._share_per_step, self._step, self._time = share, slope, step, now
        self._next = step + max(1, int(interval))
        self.stopped |= bool(stop)
        if due:
            self._save, self._saved = True, now
