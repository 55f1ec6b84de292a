"""Where the metrics of training go: the screen, a file of the run, and what else is asked for."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import orjson

from augment.errors import InputError
from augment.files import parse_json, read_bytes, write_atomic
from pipeline.console import Progress, warn
from pipeline.recipes import LogSettings
from pipeline.runs import Run
from solver.settings import TrainSettings

if TYPE_CHECKING:
    from solver.train import Metrics
    from solver.world import World


class TrainingLog:
    """Shows how far training is, and writes what it measures where ``log`` asks for it.

    Only the leading process shows and writes anything. Whatever fails here is said once, and
    training goes on.
    """

    def __init__(
        self,
        stage: str,
        settings: TrainSettings,
        log: LogSettings,
        run: Run,
        first_step: int,
        world: "World",
        seconds_left: Callable[[], float],
        budget: Callable[[], float],
    ) -> None:
        """Begin after ``first_step``; what the run has of later steps is dropped."""
        self._batch = settings.global_batch
        self._mark = (time.monotonic(), first_step)
        self._leads = world.leads
        self._progress = Progress(
            stage,
            "step",
            settings.num_steps,
            log,
            first=first_step,
            seconds_left=seconds_left,
            budget=budget,
            is_shown=world.leads,
        )
        self._sinks: list[_Sink] = []
        if not world.leads:
            return
        sinks: list[Callable[[], _Sink]] = [partial(_File, run.metrics_of(stage), first_step)]
        if log.tensorboard:
            sinks.append(partial(_TensorBoard, run.folder / "tensorboard" / stage, first_step))
        if log.wandb:
            sinks.append(partial(_Wandb, log.wandb, run.folder, stage))
        for sink in sinks:
            with _going_on():
                self._sinks.append(sink())

    def __enter__(self) -> "TrainingLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the progress and close what was opened."""
        self._progress.close()
        for sink in self._sinks:
            with _going_on():
                sink.close()

    def on_step(self) -> None:
        """Count a step."""
        self._progress.update()

    def on_metrics(self, metrics: "Metrics") -> None:
        """Show and write what was measured since the last time."""
        if not self._leads:
            return
        now = time.monotonic()
        rate = (metrics.step - self._mark[1]) * self._batch / (now - self._mark[0])
        self._mark = (now, metrics.step)
        values = {
            **metrics.values,
            "lr": metrics.lr,
            "examples_per_second": round(rate, 1),
            "flop": metrics.flop,
        }
        shown = ("loss", "exact_accuracy", "supervision_steps", "lr", "examples_per_second")
        self._progress.measure(**{name: values[name] for name in shown})
        for sink in tuple(self._sinks):
            self._sinks.remove(sink)  # and back only where it works
            with _going_on():
                sink.write(metrics.step, values)
                self._sinks.append(sink)


@contextmanager
def _going_on() -> Iterator[None]:
    """Say what fails and go on: a disk, a network, or a program that may raise anything."""
    try:
        yield
    except Exception as error:
        warn(f"metrics: {error!r}; training goes on without these")


class _Sink(Protocol):
    """Where metrics go."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write what was measured up to ``step``."""

    def close(self) -> None:
        """End writing."""


class _File:
    """A line of JSON for each interval."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        _cut_metrics(path, first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps({"step": step, **values}, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        pass


class _TensorBoard:
    """Event files; what an earlier call wrote of later steps is to be forgotten."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Weights & Biases: files for ``wandb sync``, unless it is told to be online and has a key.

    Without a key it would ask for one, and without a network it would wait for it.
    """

    def __init__(self, project: str, folder: Path, stage: str) -> None:
        import wandb

        is_online = os.environ.get("WANDB_MODE") == "online" and os.environ.get("WANDB_API_KEY")
        self._run = wandb.init(
            project=project,
            name=f"{folder.name} {stage}",
            dir=folder,
            mode="online" if is_online else "offline",
            settings=wandb.Settings(silent=True),
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def require_packages(log: LogSettings) -> None:
    """Raise :class:`InputError` where ``log`` asks for what is not installed."""
    asked = {"tensorboard": log.tensorboard, "wandb": bool(log.wandb)}
    for package, is_asked in asked.items():
        if is_asked and find_spec(package) is None:
            raise InputError(
                f"log.{package}: the package {package} is not here; pip install {package}"
            )


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of metrics in ``path``; a last one that was cut short is left out.

    What was not a number is None.
    """
    *lines, _ = read_bytes(path).split(b"\n")
    found = [parse_json(line, path) for line in lines]
    for number, line in enumerate(found, start=1):
        if (
            not isinstance(line, dict)
            or not isinstance(line.get("step"), int)
            or not all(value is None or isinstance(value, int | float) for value in line.values())
        ):
            raise InputError(f"{path}: line {number} is not of the metrics of a run")
    return found  # type: ignore[return-value]


def _cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``: training is going to write them again."""
    if not path.exists():
        return
    try:
        kept = [line for line in read_metrics(path) if (line["step"] or 0) <= step]
    except InputError as error:
        aside = path.with_name(f"{path.name}.broken")
        path.rename(aside)
        warn(f"{error}; set aside as {aside.name}")
        return
    lines = (orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in kept)
    write_atomic(path, b"".join(lines))
