"""The one clock of a run: how many seconds are left, signals that ask to stop, and the watchdog."""

import ctypes
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from pipeline.console import fail, warn

# Seconds for the last line of a process that the watchdog ends.
_SECONDS_TO_SAY = 0.1
# An error in the last seconds may come from partners whose time was over: it then costs nothing.
_SECONDS_OF_FAILURES_AT_END = 2.0
# Seconds from the last write to the end of the process: the interpreter ends, torchrun notices.
_SECONDS_TO_END = 0.5
_SECONDS_TO_END_TORCHRUN = 1.3


class Deadline:
    """When to stop: when the time is over, or after SIGINT or SIGTERM.

    As a context it turns these signals into a request to stop at the next step; a second signal
    has its default effect.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        """Let the time be over in ``seconds``."""
        self._end = time.monotonic() + seconds
        self._has_signal = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "Deadline":
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._take_note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        self._has_signal = True
        self._give_back()

    def _give_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    @property
    def seconds_left(self) -> float:
        """Seconds until the time is over; infinity without a limit."""
        return self._end - time.monotonic()

    @property
    def has_signal(self) -> bool:
        """Whether a signal has asked to stop."""
        return self._has_signal

    @property
    def is_over(self) -> bool:
        """Whether the time is over, or a signal has asked to stop."""
        return self._has_signal or self.seconds_left <= 0

    def shorten(self, seconds: float) -> None:
        """Let the time be over in ``seconds``, unless it is over sooner."""
        self._end = min(self._end, time.monotonic() + seconds)


@dataclass(slots=True)
class Leg:
    """A part of a training run, the clock of its :class:`solver.progress.TrainingProgress`.

    With ``by_time`` the learning rates follow the time: progress goes from ``begin`` to ``until``
    within ``seconds``, and only a signal stops it before. Without, the deadline or a signal does.
    """

    deadline: Deadline
    by_time: bool = False
    seconds: float = math.inf
    begin: float = 0.0
    until: float = 1.0
    _start: float = field(default_factory=lambda: time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since the leg began."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float:
        """Seconds until it ends, at the latest."""
        return self.seconds - self.elapsed if self.by_time else self.deadline.seconds_left

    @property
    def seconds_late(self) -> float:
        """Seconds that it has taken longer than it had."""
        return max(0.0, self.elapsed - self.seconds) if self.seconds < math.inf else 0.0

    def again(self, seconds: float, begin: float) -> "Leg":
        """Return a leg to the same end, which begins now, in time at progress ``begin``."""
        return Leg(self.deadline, self.by_time, seconds, begin if self.by_time else 0.0, self.until)

    def progress(self) -> float:
        """Return the share of the whole run that has passed by time; 0 without a limit."""
        if not self.by_time or self.seconds == math.inf:
            return 0.0
        share = min(1.0, self.elapsed / self.seconds) if self.seconds > 0 else 1.0
        return self.begin + (self.until - self.begin) * share

    def should_stop(self) -> bool:
        """Return whether training must stop now, whatever its progress."""
        return self.deadline.has_signal if self.by_time else self.deadline.is_over


class Watchdog:
    """Ends the process if it is still running when its time is over.

    It ends with success where the result on disk is complete at every moment: a step that takes
    longer than all before it, or a process that waits for another, must not cost the result. It
    ends with failure before there is a result.
    """

    def __init__(self, deadline: Deadline, *, has_result: bool = True) -> None:
        """Watch from :meth:`__enter__` to :meth:`__exit__`."""
        self._deadline = deadline
        self._has_result = has_result
        self._is_done = threading.Event()

    def __enter__(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop watching; a failure near the end may be that of a process whose partners ended."""
        out_of_time = self._has_result and self._deadline.seconds_left < _SECONDS_OF_FAILURES_AT_END
        if out_of_time and kind is not None and issubclass(kind, RuntimeError):
            self._end()
        self._is_done.set()

    def _watch(self) -> None:
        while (left := self._deadline.seconds_left) > 0:
            if self._is_done.wait(min(left, 1.0)):  # the deadline may be shortened
                return
        self._end()

    def _end(self) -> None:
        if self._has_result:
            say, line = warn, "time is up in the middle of a step; the submission on disk stands"
        else:
            say, line = fail, "time is up before the tasks are read, so there is no submission"
        # In a thread of its own: a reader of the log that has stopped would block the line.
        speaker = threading.Thread(target=say, args=(line,), daemon=True)
        speaker.start()
        speaker.join(_SECONDS_TO_SAY)
        os._exit(0 if self._has_result else 2)


def seconds_to_work(limit_seconds: float, deadline: float) -> float:
    """Return the seconds until everything must be written, so that the process ends in time.

    ``limit_seconds`` (0 = none) counts from the start of the process, under torchrun from that of
    torchrun, which restarts processes that have died. ``deadline`` (0 = none) is a Unix time.
    """
    left = math.inf
    if limit_seconds:
        left = limit_seconds - _age_of_job()
    if deadline:
        left = min(left, deadline - time.time())
    return left - (_SECONDS_TO_END_TORCHRUN if _torchrun() else _SECONDS_TO_END)


def end_with_torchrun() -> None:
    """Have this process killed when the torchrun that started it is killed; on Linux.

    Otherwise it would wait for the other processes and keep the lock of the run.
    """
    if not (_torchrun() and sys.platform == "linux"):
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # torchrun was gone already
        os.kill(os.getpid(), signal.SIGKILL)


def _torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _age_of_job() -> float:
    """Return the seconds since the process, or the torchrun that started it, began."""
    process = os.getppid() if _torchrun() else os.getpid()
    try:
        # Fields after the command's name, which may hold anything; the 22nd of all is the start.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (AttributeError, IndexError, OSError, ValueError):  # no Linux
        return time.monotonic() - _IMPORTED


_IMPORTED = time.monotonic()
