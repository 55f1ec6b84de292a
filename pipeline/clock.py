"""When to stop: at a time limit, or when a person or a scheduler asks."""

import ctypes
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

from pipeline.console import warn

_SECONDS_TO_SAY = 0.1
_SECONDS_TO_GO_TOGETHER = 2.0
# What is left to do when all is written: the interpreter ends, and torchrun notices.
_SECONDS_TO_END = 0.5
_SECONDS_TO_END_TORCHRUN = 1.3


class Stopwatch:
    """Says when to stop: when the time is over, or after SIGINT or SIGTERM.

    As a context it turns these signals into a request to stop at the next step; a second one
    acts at once, as it would without this.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        """Start counting ``seconds`` down."""
        self._end = time.monotonic() + seconds
        self._asked = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "Stopwatch":
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._give_back()

    def _give_back(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    @property
    def seconds_left(self) -> float:
        """Seconds until the time is over; infinity without a limit."""
        return self._end - time.monotonic()

    def end_within(self, seconds: float) -> None:
        """Let the time be over in so many seconds, or sooner."""
        self._end = min(self._end, time.monotonic() + seconds)

    @property
    def was_asked(self) -> bool:
        """Whether a signal asked to stop."""
        return self._asked

    def should_stop(self) -> bool:
        """Return whether the time is over or somebody asked."""
        return self._asked or self.seconds_left <= 0


class Watchdog:
    """Ends the process, successfully, when it is still there as its time is over.

    For work whose result lies on disk, whole, at every moment: a step that takes longer than all
    before it, or a process that waits for another, must not cost the result.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        """Watch from :meth:`__enter__` to :meth:`__exit__`."""
        self._stopwatch = stopwatch
        self._is_done = threading.Event()

    def __enter__(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End watching; what fails now may have failed because others were out of time."""
        out_of_time = self._stopwatch.seconds_left < _SECONDS_TO_GO_TOGETHER
        if out_of_time and kind is not None and issubclass(kind, RuntimeError):
            self._end()
        self._is_done.set()

    def _watch(self) -> None:
        while (left := self._stopwatch.seconds_left) > 0:
            if self._is_done.wait(min(left, 1.0)):  # it may become less
                return
        self._end()

    def _end(self) -> None:
        line = "time is up in the middle of a step; what lies on disk is final"
        # In a thread of its own: whoever reads the lines may have stopped reading.
        speaker = threading.Thread(target=warn, args=(line,), daemon=True)
        speaker.start()
        speaker.join(_SECONDS_TO_SAY)
        os._exit(0)


def seconds_to_work(limit_seconds: float, deadline: float) -> float:
    """Return the seconds until all must be written, for the process to end in time.

    ``limit_seconds`` (0 = none) counts from the start of the process, under torchrun from that of
    torchrun, which starts processes again that have died. ``deadline`` (0 = none): Unix time.
    """
    left = math.inf
    if limit_seconds:
        left = limit_seconds - _age_of_job()
    if deadline:
        left = min(left, deadline - time.time())
    return left - (_SECONDS_TO_END_TORCHRUN if _torchrun() else _SECONDS_TO_END)


def end_with_torchrun() -> None:
    """Have this process killed when the torchrun that started it is; on Linux.

    Left alone it would wait for the others, hold the run, and keep whoever comes next from it.
    """
    if not (_torchrun() and sys.platform == "linux"):
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # It was gone before it was asked for.
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
