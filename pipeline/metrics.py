"""Where the metrics of training go: the screen, a file of the run, and what else is asked for."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING

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

_Writer = Callable[[int, dict[str, float]], None]


class TrainingLog:
    """Shows how far training is, and writes what it measures where ``log`` asks for it.

    Only the leading process shows and writes anything. What the disk refuses is said once, and
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
    ) -> None:
        """Begin after ``first_step``; what the run has of later steps is dropped."""
        self._batch = settings.global_batch
        self._leads = world.leads
        self._mark = (time.monotonic(), first_step)
        self._stack = ExitStack()
        self._writers: list[_Writer] = []
        self._progress = self._stack.enter_context(
            Progress(
                stage,
                "step",
                settings.num_steps,
                log,
                first=first_step,
                seconds_left=seconds_left,
                is_shown=world.leads,
            )
        )
        if world.leads:
            path = run.metrics_of(stage)
            try:
                _cut_metrics(path, first_step)
                self._writers.append(_into_file(path))
            except OSError as error:
                warn(f"{path}: no metrics are written ({error})")
            if log.tensorboard:
                folder = run.folder / "tensorboard" / stage
                self._writers.append(
                    self._stack.enter_context(_into_tensorboard(folder, first_step))
                )
            if log.wandb:
                self._writers.append(self._stack.enter_context(_into_wandb(log.wandb, run, stage)))

    def __enter__(self) -> "TrainingLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the progress and close what was opened."""
        self._stack.close()

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
        for write in list(self._writers):
            try:
                write(metrics.step, values)
            except OSError as error:
                self._writers.remove(write)
                warn(f"metrics of step {metrics.step} and later ones are not written ({error})")


def _into_file(path: Path) -> _Writer:
    def write(step: int, values: dict[str, float]) -> None:
        with path.open("ab") as file:
            file.write(orjson.dumps({"step": step, **values}, option=orjson.OPT_APPEND_NEWLINE))

    return write


@contextmanager
def _into_tensorboard(folder: Path, first_step: int) -> Iterator[_Writer]:
    _require("tensorboard", "log.tensorboard=true")
    from torch.utils.tensorboard import SummaryWriter

    # What an earlier call wrote of later steps is to be forgotten.
    with SummaryWriter(str(folder), purge_step=first_step + 1) as writer:

        def write(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                if math.isfinite(value):
                    writer.add_scalar(name, value, step)
            writer.flush()

        yield write


@contextmanager
def _into_wandb(project: str, run: Run, stage: str) -> Iterator[_Writer]:
    """Log to Weights & Biases; without credentials into files, to be sent with ``wandb sync``."""
    _require("wandb", f"log.wandb={project}")
    import wandb

    try:
        found = wandb.init(
            project=project,
            name=f"{run.folder.name} {stage}",
            dir=run.folder,
            # Without credentials it would ask for them.
            mode="online" if _has_wandb_credentials() else "offline",
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        warn(f"log.wandb={project}: {error}; going on without")
        yield lambda step, values: None
        return
    with found:
        yield lambda step, values: found.log(values, step=step)


def _has_wandb_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (OSError, NetrcParseError):
        return False


def _require(package: str, setting: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"{setting}: the package {package} is not here; pip install {package}")


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """Return the lines of metrics in ``path``; a last one that was cut short is left out.

    What was not a number is None.
    """
    *lines, _ = read_bytes(path).split(b"\n")
    found = [parse_json(line, path) for line in lines]
    for number, line in enumerate(found, start=1):
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
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
