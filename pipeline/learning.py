"""Test-time training as the stages run it: in legs, under a time, kept on disk."""

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from augment.errors import InputError
from augment.task import Task
from pipeline.clock import Stopwatch
from pipeline.console import say, warn
from pipeline.metrics import TrainingLog
from pipeline.recipes import Settings
from pipeline.runs import Run, code_digest, digest
from pipeline.version import code_version
from solver.adapt import Adaptation, start_adaptation
from solver.checkpoint import (
    Weights,
    checkpoint_step,
    latest_checkpoint,
    restore_training,
    save_checkpoint,
    set_broken_aside,
)
from solver.engine import Engine
from solver.memory import plan_training
from solver.pace import Pace
from solver.settings import AdaptSettings
from solver.train import train

_ATTEMPTS = 4  # at training that leaves the range of numbers, each at half the rates


@dataclass(slots=True)
class Learning:
    """Training on some tasks, taken up where an earlier call left it."""

    settings: Settings
    run: Run
    engine: Engine
    stopwatch: Stopwatch
    tasks: Sequence[Task]
    start: Weights
    trained_by: str = field(init=False)
    """A digest of all that decides what it leads to, but for time."""
    may_go_on: bool = field(init=False)
    """Whether further steps are worth taking."""
    seconds_late: float = field(init=False, default=0.0)
    """How much longer training took last than it had, with the state kept at its end."""
    _adaptation: Adaptation = field(init=False)
    _settings: AdaptSettings = field(init=False)

    def __post_init__(self) -> None:
        self._settings = settings = self.settings.adapt
        self.trained_by = self._digest()
        self.may_go_on = settings.num_steps > 0
        engine = self.engine
        self._begin()
        if self.may_go_on:
            line = plan_training(
                self._adaptation.training.model,
                self._adaptation.dataset.index.num_rows,
                self._adaptation.stream,
                settings,
                engine,
                self.settings.engine.memory_gb,
            )
            if engine.world.leads:
                say(f"adapt: {len(self.tasks)} tasks, at most {settings.num_steps:,} steps")
                say(f"memory: {line}")
        self._take_up()

    @property
    def step(self) -> int:
        """The steps taken."""
        return self._adaptation.training.step

    def weights(self) -> Weights:
        """Return the weights as trained so far; not to be used while training goes on."""
        return self._adaptation.weights()

    def go_on(self, until: float, seconds: float = math.inf) -> None:
        """Train until this share of the whole is done, all of which may take ``seconds`` more."""
        if self._settings.time_limit_seconds:
            training = self._adaptation.training
            seconds = min(seconds, self._settings.time_limit_seconds * (1 - training.passed))
        end, world = time.monotonic() + seconds, self.engine.world
        for _ in range(_ATTEMPTS):
            left = world.lowest(end - time.monotonic(), self.engine.device)
            try:
                self._train(until, max(0.0, left))
                return
            except FloatingPointError as error:
                # What was learned since the last checkpoint is lost; so is a part of the time.
                self._settings = self._settings.at_half_the_rates()
                self._begin()
                self._take_up()
                if self.engine.world.leads:
                    warn(f"adapt: {error}; on from step {self.step} at half the learning rates")
        self.may_go_on = False
        if self.engine.world.leads:
            warn(f"adapt: given up; the tasks are answered as learned in {self.step} steps")

    def _begin(self) -> None:
        data = self.settings.data
        self._adaptation = start_adaptation(
            self.start, self.tasks, data.views_per_task, data.seed, self._settings, self.engine
        )

    def _take_up(self) -> None:
        """Go on from the newest whole checkpoint of the same training, if there is one."""
        engine, folder = self.engine, self.run.adapted
        index, training = self._adaptation.dataset.index, self._adaptation.training
        if engine.world.leads:
            set_broken_aside(folder, warn)
        engine.world.wait()
        latest = latest_checkpoint(folder)
        step = -1 if latest is None else checkpoint_step(latest)
        if engine.world.any(step != engine.world.lead(step, engine.device), engine.device):
            raise InputError(f"{folder}: not the same on all nodes, which must share this disk")
        try:
            if latest is not None:
                deciding = {"trained_by": self.trained_by}
                restore_training(latest, training, index, deciding, engine.world)
                if engine.world.leads:
                    say(f"adapt: going on from {latest}")
                return
        except InputError:
            engine.world.wait()
            if engine.world.leads:
                warn(f"adapt: {folder} belongs to other tasks or settings: dropped")
                shutil.rmtree(folder)
        if engine.world.leads:
            with suppress(OSError):
                self.run.metrics_of("adapt").unlink()
        engine.world.wait()

    def _train(self, until: float, seconds: float) -> None:
        training, world = self._adaptation.training, self.engine.world
        begin, first, start = training.passed, training.step, time.monotonic()
        leg = seconds * (until - begin) / (1 - begin) if begin < 1 else 0.0

        def share_of_time() -> float:
            if leg == math.inf:
                return 0.0
            elapsed = time.monotonic() - start
            return begin + (until - begin) * min(1.0, elapsed / leg) if leg else until

        pace = Pace(
            self._settings.num_steps,
            self.engine,
            until,
            share_of_time,
            lambda: self.stopwatch.was_asked,
            self.settings.checkpoint.every_seconds,
            training.passed,
        )
        log = TrainingLog(
            "adapt",
            self._settings,
            self.settings.log,
            self.run,
            training.step,
            world,
            lambda: leg - (time.monotonic() - start),
            lambda: self.stopwatch.seconds_left,
        )
        with log:
            train(
                training,
                self._adaptation.stream,
                self._settings,
                self.engine,
                pace,
                on_step=log.on_step,
                on_metrics=log.on_metrics,
                checkpoint_every=self.settings.checkpoint.every,
                on_checkpoint=self._save,
            )
        if leg < math.inf:
            self.seconds_late = max(0.0, time.monotonic() - start - leg)
        if world.leads and training.step > first:
            passed = max(pace.passed, training.step / self._settings.num_steps)
            say(
                f"adapt: step {training.step:,}, {passed:.0%} of training, "
                f"{time.monotonic() - start:.1f} s"
            )

    def _save(self) -> None:
        """Keep the state; where that fails, training goes on, and so does what was kept before."""
        try:
            save_checkpoint(
                self.run.adapted,
                self._adaptation.training,
                self._adaptation.dataset.index,
                self.start.taught,
                {"trained_by": self.trained_by},
                code_version(),
                self.engine.world,
                keep=self.settings.checkpoint.keep,
                save_carry=self.settings.checkpoint.carry,
            )
        except OSError as error:
            if self.engine.world.leads:
                warn(f"adapt: step {self.step} could not be kept ({error}); going on")

    def _digest(self) -> str:
        training = asdict(self.settings.adapt)
        for name in ("time_limit_seconds", "log_every"):
            del training[name]
        data = [self.settings.data.views_per_task, self.settings.data.seed]
        dtype = str(self.engine.dtype)
        return digest(
            code_digest(), dtype, self.start.digest, training, digest_of_visible(self.tasks), data
        )


def digest_of_visible(tasks: Sequence[Task]) -> str:
    """Return a digest of what a solver may see of the tasks."""
    return digest(
        [[t.task_id, t.demonstrations_digest(), [g.tolist() for g in t.test_inputs]] for t in tasks]
    )
