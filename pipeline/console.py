"""What a person, or a program that reads the log, sees of a run: lines, tables and progress."""

import logging
import math
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

from pipeline.recipes import LogSettings
from submission.score import ORACLE_KS, Score, score_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solver.engine import Engine

_LOG = logging.getLogger("arc-trm")
_WIDTH = 500  # of what is drawn, at most
_SECONDS_OF_RATE = 60  # the last ones, of which the rate is that of now


class _Lines(logging.Handler):
    """Writes lines at once, errors to stderr; where nothing can be written, the work goes on."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; its ``values`` are for programs, its message is for people."""
        line = record.getMessage()
        if self.as_json:
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            values = getattr(record, "values", {})
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


def choose_form(settings: LogSettings) -> None:
    """Write from here on what ``settings`` ask for."""
    _LINES.as_json = settings.form == "json"
    _LOG.setLevel(logging.WARNING if settings.form == "quiet" else logging.INFO)


def say(line: str, **values: object) -> None:
    """Say how things go; a program is told ``values`` beside."""
    _LOG.info("%s", line, extra={"values": values})


def warn(line: str) -> None:
    """Say what a person should know even in quiet."""
    _LOG.warning("%s", line)


def fail(reason: str) -> None:
    """Say why a command ends without success."""
    _LOG.error("%s", reason if _LINES.as_json else f"error: {reason}")


def say_table(name: str, columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> None:
    """Say a table: names of columns with the format of their values; None is shown as a dash.

    All columns but the first are aligned to the right. A program is told a line for each row.
    """
    if not _LOG.isEnabledFor(logging.INFO):
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
        table.add_row(*("-" if value is None else format(value, spec) for value, spec in cells))
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


def say_score(found: Score) -> None:
    """Say the scores of both metrics, and how many outputs were solved."""
    if _LINES.as_json:
        say("score", **score_json(found))
        return
    named = [(f"pass@{k}", found.pass_at(k)) for k in (1, 2)]
    for k in ORACLE_KS:
        oracle = found.oracle_pass_at(k)
        if oracle is not None:
            named.append((f"oracle pass@{k}", oracle))
    columns = {"metric": "", "per task": ".2%", "per output": ".2%"}
    say_table("score", columns, [(name, *shares) for name, shares in named])
    line = f"{found.num_solved} of {found.num_outputs} test outputs solved in two attempts"
    if found.oracle_pass_at(1) is not None:
        line += f", {found.num_solved_by_votes} of them by votes of the model"
    say(line)


def describe_engine(engine: "Engine") -> str:
    """Return where the engine computes, for the person who reads the log."""
    processes = f", {engine.world.size} processes" if engine.world.size > 1 else ""
    return f"{engine.device}, {str(engine.dtype).removeprefix('torch.')}{processes}"


class Progress:
    """How far a stage is: a line drawn again and again in a terminal, now and then one in a file.

    It shows the rate, the time left at that rate, and the budget: what is left of the time that
    the whole run has, if it has a limit.
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
        is_shown: bool = True,
    ) -> None:
        """Begin at ``first`` of ``total``; this piece ends in ``seconds_left`` at the latest."""
        from tqdm import tqdm

        self._stage, self._unit, self._total, self._count = stage, unit, total, first
        self._seconds_left, self._budget = seconds_left, budget
        self._values: dict[str, float] = {}
        self._said = time.monotonic()
        self._marks = deque([(self._said, first)], maxlen=_SECONDS_OF_RATE)
        self._every = settings.every_seconds if is_shown else math.inf
        size = get_terminal_size()
        is_drawn = is_shown and settings.form == "text" and sys.stderr.isatty()
        self._says = not (is_drawn and sys.stdout.isatty())
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

    def __enter__(self) -> "Progress":
        """Return the progress itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the line."""
        self.close()

    def close(self) -> None:
        """End the line."""
        self._bar.close()

    def measure(self, **values: float) -> None:
        """Show these values beside the progress from here on."""
        self._values = values

    def update(self) -> None:
        """Count one more."""
        self.reach(self._count + 1)

    def reach(self, count: int) -> None:
        """Say that ``count`` are done."""
        done, self._count = count - self._count, count
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self._count))
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(self._parts()), refresh=False)
            self._bar.update(done)
        if self._says and now - self._said >= self._every:
            self._said = now
            share = f"{self._count / self._total:.0%}"
            head = f"{self._stage}: {self._unit} {self._count:,} of {self._total:,}, {share}"
            said = {f"{self._unit}s": self._count, "total": self._total, **self._values}
            left, budget = round(self._left(), 1), round(self._budget(), 1)
            said |= {"left_seconds": left, "budget_seconds": budget}
            say(", ".join([head, *self._parts()]), stage=self._stage, **said)

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
