"""The log of a training run: progress, ``metrics.jsonl``, and TensorBoard or Weights & Biases."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import orjson

from augment.errors import InputError
from augment.files import parse_json, read_bytes, write_atomic
from pipeline.console import ProgressBar, is_rank0, warn
from pipeline.deadline import Leg
from pipeline.run import Run
from pipeline.settings import LogSettings
from solver.settings import TrainSettings

if TYPE_CHECKING:  # it imports torch, which the command line does without
    from solver.train import Metrics


class TrainingLog:
    """Shows the progress of a training run, and writes its metrics where ``log`` asks for it.

    Only rank 0 shows and writes anything. Whatever fails here is logged once, and training goes on.
    """

    def __init__(
        self,
        stage: str,
        settings: TrainSettings,
        log: LogSettings,
        run: Run,
        first_step: int,
        leg: Leg,
    ) -> None:
        """Begin after ``first_step``; metrics of later steps are dropped."""
        self._batch = settings.global_batch
        self._last_time, self._last_step = time.monotonic(), first_step
        self._shown: dict[str, float] = {}
        self._bar = ProgressBar(
            stage,
            "step",
            settings.num_steps,
            log,
            first=first_step,
            seconds_left=lambda: leg.seconds_left,
            budget=lambda: leg.deadline.seconds_left,
        )
        self._sinks: list[_Sink] = []
        if not is_rank0():
            return
        sinks: list[Callable[[], _Sink]] = [partial(_File, run.metrics_of(stage), first_step)]
        if log.tensorboard:
            sinks.append(partial(_TensorBoard, run.folder / "tensorboard" / stage, first_step))
        if log.wandb:
            sinks.append(partial(_Wandb, log.wandb, run.folder, stage))
        for sink in sinks:
            with _warns():
                self._sinks.append(sink())

    def __enter__(self) -> "TrainingLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar and all sinks."""
        self._bar.close()
        for sink in self._sinks:
            with _warns():
                sink.close()

    def count_step(self) -> None:
        """Count a step."""
        self._bar.update()

    def write_metrics(self, metrics: "Metrics") -> None:
        """Show and write the metrics of the steps since the last ones."""
        now = time.monotonic()
        rate = (metrics.step - self._last_step) * self._batch / (now - self._last_time)
        self._last_time, self._last_step = now, metrics.step
        values = {
            **metrics.values,
            "lr": metrics.lr,
            "examples_per_second": round(rate, 1),
            "flop": metrics.flop,
        }
        shown = ("loss", "exact_accuracy", "supervision_steps", "lr", "examples_per_second")
        self._write(metrics.step, values, shown)

    def write_evaluation(self, step: int, values: dict[str, float]) -> None:
        """Show and write what an evaluation after ``step`` measured."""
        self._write(step, values, tuple(values))

    def _write(self, step: int, values: dict[str, float], shown: Iterable[str]) -> None:
        self._shown |= {name: values[name] for name in shown}
        self._bar.measure(**self._shown)
        for sink in tuple(self._sinks):
            self._sinks.remove(sink)  # and back only where it works
            with _warns():
                sink.write(step, values)
                self._sinks.append(sink)


@contextmanager
def _warns() -> Iterator[None]:
    """Turn any error into a warning: a disk, a network or a foreign package must not end a run."""
    try:
        yield
    except Exception as error:
        warn(f"metrics: {error!r}; training goes on without these")


class _Sink(Protocol):
    """Where metrics go."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write the values measured up to ``step``."""

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
    """Event files; those of later steps, by an earlier call, are purged."""

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
    """Weights & Biases: offline files for ``wandb sync``, unless online mode and a key are set.

    Online it would ask for a missing key, and wait for a missing network.
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
    """Raise :class:`InputError` where ``log`` needs a package that is not installed."""
    needed = {"tensorboard": log.tensorboard, "wandb": bool(log.wandb)}
    for package, is_needed in needed.items():
        if is_needed and find_spec(package) is None:
            raise InputError(
                f"log.{package}: the package {package} is not installed; pip install {package}"
            )


_LARGEST_INTEGER = 2**63 - 1  # no larger ones were written, and none can be


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of metrics in ``path``, without a last one that was cut short.

    NaN is None.
    """
    *lines, _ = read_bytes(path).split(b"\n")
    metrics = [parse_json(line, path) for line in lines]
    for number, line in enumerate(metrics, start=1):
        if (
            not isinstance(line, dict)
            or not isinstance(line.get("step"), int)
            or not all(value is None or isinstance(value, int | float) for value in line.values())
            or any(isinstance(v, int) and abs(v) > _LARGEST_INTEGER for v in line.values())
        ):
            raise InputError(f"{path}: line {number} is not of the metrics of a run")
    return metrics  # type: ignore[return-value]


def _cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``, which training will write again."""
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
