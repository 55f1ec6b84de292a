"""The progress of a training run, in steps and in time, and whether it takes another step."""

import math
import time
from dataclasses import dataclass, field
from typing import Protocol

import torch

from solver.process_group import ProcessGroup

_SECONDS_BETWEEN_AGREEMENTS = 1.0
_STEPS_BETWEEN_AGREEMENTS = 10
_STEPS_TO_SKIP = 5  # before the speed of a run is measured, and that tell it at least


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
    ends_in_seconds: float = math.inf
    """Seconds after which the run is complete at the speed of its steps, the first ones aside."""
    share: float = 0.0
    """Progress before the next step: the share of the run that has passed, 0..1."""
    was_stopped: bool = False
    """Whether the clock of a process asked to stop."""
    _by_time: float = 0.0
    _by_time_per_step: float = 0.0
    _agreed_at: float = field(default_factory=lambda: time.monotonic())
    _saved_at: float = field(default_factory=lambda: time.monotonic())
    _began_at: float = field(default_factory=lambda: time.monotonic())
    _first_steps: list[tuple[int, float]] = field(default_factory=list)
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
        now = time.monotonic()
        by_time = max(self.clock.progress(), self._share_at_this_speed(step, now))
        is_first = self._agreed_step < 0  # a clock that asks to stop still allows one step
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

    def _share_at_this_speed(self, step: int, now: float) -> float:
        """Return which share ``step`` is of the steps that the run will have in the end."""
        left = self._began_at + self.ends_in_seconds - now
        if left == math.inf:
            return 0.0
        if len(self._first_steps) < _STEPS_TO_SKIP:  # they compile
            self._first_steps.append((step, now))
        first_step, first_at = self._first_steps[-1]
        if step - first_step < _STEPS_TO_SKIP:
            return 0.0 if left > 0 else 1.0
        more = (step - first_step) / max(now - first_at, 1e-9) * max(0.0, left)
        return step / (step + more)
