"""The progress of a training run, in steps and in time, and whether it takes another step."""

import math
import time
from dataclasses import dataclass, field
from typing import Protocol

import torch

from solver.process_group import ProcessGroup

_SECONDS_BETWEEN_AGREEMENTS = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10


class Clock(Protocol):
    """The time that a training run has, as this process sees it."""

    def progress(self) -> float:
        """Return the share of the run that has passed by time; 0 where only steps count."""

    def should_stop(self) -> bool:
        """Return whether the run must stop, because time is over or a signal asks for it."""


class NoLimit:
    """A clock without a time limit."""

    def progress(self) -> float:
        """Return 0: only steps count."""
        return 0.0

    def should_stop(self) -> bool:
        """Return False."""
        return False


@dataclass(slots=True)
class TrainingProgress:
    """Decides before every step whether it is taken; all processes decide alike.

    Several processes agree about every second, or every few steps. In between, the progress by
    time is extrapolated from the speed of rank 0.
    """

    num_steps: int
    group: ProcessGroup
    clock: Clock = field(default_factory=NoLimit)
    until: float = 1.0
    """The progress at which to stop."""
    checkpoint_seconds: float = math.inf
    share: float = 0.0
    """Progress before the next step: the share of the run that has passed, 0..1."""
    was_stopped: bool = False
    """Whether the clock of a process asked to stop."""
    _by_time: float = 0.0
    _by_time_per_step: float = 0.0
    _agreed_at: float = field(default_factory=lambda: time.monotonic())
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _agreed_step: int = -1
    _next_agreement: int = -1
    _is_checkpoint_due: bool = False

    @property
    def is_over(self) -> bool:
        """Whether no further step is taken."""
        return self.was_stopped or self.share >= self.until

    def advance(self, step: int) -> None:
        """Take note that ``step`` steps have been taken."""
        if step >= self._next_agreement:
            self._agree(step)
        by_time = self._by_time + self._by_time_per_step * (step - self._agreed_step)
        self.share = max(self.share, step / max(1, self.num_steps), min(1.0, by_time))

    def takes_checkpoint(self) -> bool:
        """Return, once, whether it is time for a checkpoint."""
        is_due, self._is_checkpoint_due = self._is_checkpoint_due, False
        return is_due

    def _agree(self, step: int) -> None:
        now, by_time = time.monotonic(), self.clock.progress()
        is_first = self._agreed_step < 0  # the first call always allows one step
        stop: float = self.clock.should_stop() and not is_first
        steps = 0 if is_first else step - self._agreed_step
        seconds = (now - self._agreed_at) / steps if steps else math.inf
        slope = max(0.0, by_time - self._by_time) / steps if steps else 0.0
        interval = min(_STEPS_BETWEEN_AGREEMENTS, _SECONDS_BETWEEN_AGREEMENTS // seconds)
        is_due = now - self._saved_at >= self.checkpoint_seconds
        group = self.group
        if group.size > 1:
            of_rank0 = [by_time, slope, interval, is_due] if group.is_rank0 else [0.0] * 4
            numbers = torch.tensor([*of_rank0, stop], dtype=torch.float64, device=group.device)
            by_time, slope, interval, is_due, stop = group.all_reduce(numbers).tolist()
        else:
            interval = 1
        self._by_time, self._by_time_per_step = by_time, slope
        self._agreed_step, self._agreed_at = step, now
        self._next_agreement = step + max(1, int(interval))
        self.was_stopped |= bool(stop)
        if is_due:
            self._is_checkpoint_due, self._saved_at = True, now
