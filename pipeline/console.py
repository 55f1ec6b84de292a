"""The log of a run, for people or for programs: lines, tables and progress bars.

Only rank 0 logs; other processes write nothing but errors and what :func:`say_anywhere` says.
"""

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import orjson

from pipeline.settings import LogSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

_LOG = logging.getLogger("arc-trm")
_WIDTH = 500  # columns of a drawing, at most
_SECONDS_OF_RATE = 60  # the rate shown is the mean over so many of the last seconds


class _Lines(logging.Handler):
    """Writes lines at once, errors to stderr; where nothing can be written, the work goes on."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; its ``values`` are for programs, its message is for people."""
        line = printable(record.getMessage())
        if self.as_json:
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            values = {
                name: printable(value) if isinstance(value, str) else value
                for name, value in getattr(record, "values", {}).items()
            }
            content = {"time": moment, "level": record.levelname.lower(), "message": line, **values}
            option = orjson.OPT_SERIALIZE_NUMPY
            line = orjson.dumps(content, default=str, option=option).decode()
        with suppress(OSError), _between_bars():
            stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
            print(line, file=stream, flush=True)


def _between_bars() -> AbstractContextManager[None]:
    """Take a bar that is drawn from the screen for a moment."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode()


_LINES = _Lines()
_LOG.addHandler(_LINES)
_LOG.setLevel(logging.INFO)
_LOG.propagate = False


def printable(text: str) -> str:
    """Return the text as one line that a terminal only shows: other signs are written as escapes.

    Names of files and tasks may hold line breaks, signs that steer a terminal or turn the direction
    of writing, and bytes that are not UTF-8.
    """
    return text if text.isprintable() else "".join(map(_printable_sign, text))


def _printable_sign(sign: str) -> str:
    return sign if sign.isprintable() else sign.encode("unicode_escape").decode()


def is_rank0() -> bool:
    """Return whether this process logs and writes files: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def is_json() -> bool:
    """Return whether the log is JSON, for programs."""
    return _LINES.as_json


def configure_log(settings: LogSettings) -> None:
    """Choose the form of the log."""
    _LINES.as_json = settings.form == "json"
    _LOG.setLevel(logging.WARNING if settings.form == "quiet" else logging.INFO)


def say(line: str, **values: object) -> None:
    """Log a line on rank 0; ``values`` are added to JSON output."""
    if is_rank0():
        say_anywhere(line, **values)


def say_anywhere(line: str, **values: object) -> None:
    """Log a line on any process, about this process alone."""
    _LOG.info("%s", line, extra={"values": values})


def warn(line: str) -> None:
    """Log a warning on rank 0, even in the quiet form."""
    if is_rank0():
        _LOG.warning("%s", line)


def fail(line: str) -> None:
    """Log why a command ends without success."""
    _LOG.error("%s", line if _LINES.as_json else f"error: {line}")


def say_table(name: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> None:
    """Log a table: names of columns with the format of their values; None is shown as a dash.

    All columns but the first are aligned to the right. In JSON there is a line for each row.
    """
    if not (is_rank0() and _LOG.isEnabledFor(logging.INFO)):
        return
    if _LINES.as_json:
        for row in rows:
            say(name, **dict(zip(columns, row, strict=True)))
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        cells = zip(row, columns.values(), strict=True)
        shown = ("-" if value is None else format(value, spec) for value, spec in cells)
        table.add_row(*map(printable, shown))
    draw(table)


def draw(picture: "RenderableType") -> None:
    """Print what rich can draw."""
    from rich.console import Console

    # In a narrow terminal lines are broken, where rich would leave out what does not fit.
    drawn = StringIO()  # where the output fails, rich itself would end the program
    console = Console(
        file=drawn,
        force_terminal=sys.stdout.isatty(),
        soft_wrap=True,
        markup=False,
        emoji=False,
        width=_WIDTH,
    )
    console.print(picture)
    with suppress(OSError):
        print(drawn.getvalue(), end="", flush=True)


class ProgressBar:
    """The progress of a stage: a bar in a terminal, a line now and then in a file.

    It shows the rate, the time left at that rate, and the budget: the time left to the whole run,
    if it has a limit.
    """

    def __init__(
        self,
        stage: str,
        unit: str,
        total: int,
        settings: LogSettings,
        *,
        first: int = 0,
        seconds_left: Callable[[], float] = lambda: math.inf,
        budget: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Begin at ``first`` of ``total``; this part ends in ``seconds_left`` at the latest."""
        from tqdm import tqdm

        self._stage, self._unit, self._total, self._count = stage, unit, total, first
        self._seconds_left, self._budget = seconds_left, budget
        self._values: dict[str, float] = {}
        self._logged_at = time.monotonic()
        self._marks = deque([(self._logged_at, first)], maxlen=_SECONDS_OF_RATE)
        self._every = settings.every_seconds if is_rank0() else math.inf
        size = get_terminal_size()
        is_drawn = is_rank0() and settings.form == "text" and sys.stderr.isatty()
        self._logs = not (is_drawn and sys.stdout.isatty())
        self._bar = tqdm(
            total=total,
            initial=first,
            desc=stage,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            # 80 x 24 where a terminal does not know; tqdm would draw nothing there.
            ncols=size.columns,
            nrows=size.lines,
            disable=not is_drawn,
            file=sys.stderr,
        )

    def __enter__(self) -> "ProgressBar":
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the line."""
        self.close()

    def close(self) -> None:
        """End the line."""
        self._bar.close()

    def measure(self, **values: float) -> None:
        """Show these values beside the bar from here on."""
        self._values = values

    def update(self) -> None:
        """Count one more."""
        self.reach(self._count + 1)

    def reach_share(self, share: float) -> None:
        """Show that this share of all is done."""
        self.reach(int(share * self._total))

    def reach(self, count: int) -> None:
        """Show that ``count`` are done."""
        done, self._count = count - self._count, count
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._count))
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(self._parts()), refresh=False)
            self._bar.update(done)
        if self._logs and now - self._logged_at >= self._every:
            self._logged_at = now
            share = f"{self._count / self._total:.0%}"
            head = f"{self._stage}: {self._unit} {self._count:,} of {self._total:,}, {share}"
            shown = {f"{self._unit}s": self._count, "total": self._total, **self._values}
            left, budget = round(self._left(), 1), round(self._budget(), 1)
            shown |= {"left_seconds": left, "budget_seconds": budget}
            say(", ".join([head, *self._parts()]), stage=self._stage, **shown)

    def _rate(self) -> float:
        began, before = self._marks[0]
        return (self._count - before) / max(1e-9, time.monotonic() - began)

    def _left(self) -> float:
        """Return the seconds until all is done at this rate, or until there are none left."""
        rate = self._rate()
        by_rate = (self._total - self._count) / rate if rate else math.inf
        return max(0.0, min(by_rate, self._seconds_left()))

    def _parts(self) -> list[str]:
        parts = [f"{self._rate():,.1f} {self._unit}s/s", f"{_duration(self._left())} left"]
        if (budget := self._budget()) < math.inf:
            parts.append(f"budget {_duration(budget)}")
        values = self._values.items()
        return parts + [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values]


def _duration(seconds: float) -> str:
    """Return seconds as a clock shows them."""
    return str(timedelta(seconds=max(0, round(seconds)))) if seconds < math.inf else "?"
