"""When to stop: at a time limit, or when a person or a scheduler asks."""

import signal
import time
from types import FrameType, TracebackType


class Stopwatch:
    """Says when to stop: after a limit in seconds (0 = none), or after SIGINT or SIGTERM.

    As a context it turns these signals into a request to stop at the next step; a second one
    acts at once, as it would without this.
    """

    def __init__(self, limit_seconds: float = 0.0) -> None:
        """Start counting."""
        self._start = time.monotonic()
        self._limit = limit_seconds
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
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def was_asked(self) -> bool:
        """Whether a signal asked to stop."""
        return self._asked

    def should_stop(self) -> bool:
        """Return whether the limit has passed or somebody asked."""
        return self._asked or (self._limit > 0 and self.seconds >= self._limit)
