"""What a person sees of a run: lines, tables, a progress bar, and the file of its metrics."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from augment.errors import InputError
from augment.files import write_atomic
from solver.settings import TrainSettings
from submission.score import ORACLE_KS, Score

if TYPE_CHECKING:
    from rich.table import Table

    from solver.engine import Engine
    from solver.train import Metrics
    from solver.world import World


def describe_engine(engine: "Engine") -> str:
    """Return where the engine computes, for the person who reads the log."""
    processes = f", {engine.world.size} processes" if engine.world.size > 1 else ""
    return f"{engine.device}, {str(engine.dtype).removeprefix('torch.')}{processes}"


def make_table(*columns: str) -> "Table":
    """Return an empty table; all columns but the first hold numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def print_table(table: "Table") -> None:
    """Print a table."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200  # a file or a log has no width of its own
    with suppress(OSError):
        Console(soft_wrap=True, markup=False, emoji=False, width=width).print(table)


def say(line: str) -> None:
    """Print a line at once; where nothing can be printed, the work goes on without."""
    with suppress(OSError):
        print(line, flush=True)


def print_score(found: Score) -> None:
    """Print the scores of both metrics, and how many outputs were solved."""
    table = make_table("metric", "per task", "per output")
    named = [(f"pass@{k}", found.pass_at(k)) for k in (1, 2)]
    for k in ORACLE_KS:
        oracle = found.oracle_pass_at(k)
        if oracle is not None:
            named.append((f"oracle pass@{k}", oracle))
    for name, (per_task, per_output) in named:
        table.add_row(name, f"{per_task:.2%}", f"{per_output:.2%}")
    print_table(table)
    line = f"{found.num_solved} of {found.num_outputs} test outputs solved in two attempts"
    if found.oracle_pass_at(1) is not None:
        line += f", {found.num_solved_by_votes} of them by votes of the model"
    say(line)


class TrainingLog:
    """The progress bar of a training run and, with a path, its metrics file."""

    def __init__(
        self, settings: TrainSettings, first_step: int, world: "World", path: Path | None = None
    ) -> None:
        """Begin at ``first_step``; only the leading process shows and writes anything."""
        from tqdm import tqdm

        self._path = path
        self._leads = world.leads
        self._batch = settings.global_batch
        self._mark = (time.monotonic(), first_step)
        self._bar = tqdm(
            total=settings.num_steps,
            initial=first_step,
            desc="train",
            unit="step",
            disable=None if world.leads else True,  # None: no bar in a file
            file=sys.stderr,
        )

    def __enter__(self) -> "TrainingLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the progress bar."""
        self._bar.close()

    def on_step(self) -> None:
        """Count a step."""
        self._bar.update()

    def on_metrics(self, metrics: "Metrics") -> None:
        """Show and write what was measured since the last time."""
        if not self._leads:
            return
        now = time.monotonic()
        rate = (metrics.step - self._mark[1]) * self._batch / (now - self._mark[0])
        self._mark = (now, metrics.step)
        self._bar.set_postfix(
            loss=f"{metrics.values['loss']:.3f}",
            exact=f"{metrics.values['exact_accuracy']:.3f}",
            examples_per_second=f"{rate:.0f}",
        )
        if self._path is not None:
            line = {
                "step": metrics.step,
                **metrics.values,
                "examples_per_second": round(rate, 1),
                "flop": metrics.flop,
            }
            with self._path.open("ab") as file:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``: the run is going to write them again."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        kept = [ln for ln in lines if ln.endswith(b"\n") and orjson.loads(ln)["step"] <= step]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: not the metrics of a run") from None
    write_atomic(path, b"".join(kept))
