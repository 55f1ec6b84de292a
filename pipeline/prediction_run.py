"""A prediction run: test-time training in two legs, with rounds of predictions in between.

All is under one deadline. What is done lies on disk, so that the same command goes on wherever this
one ended.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from augment.task import Task
from pipeline.console import say, warn
from pipeline.deadline import Leg
from pipeline.fingerprint import fingerprint, fingerprint_code, fingerprint_visible
from pipeline.per_task_training import PerTaskTraining, most_seconds_apart
from pipeline.prediction_rounds import PlannedTasks, PredictionRounds, plan_predictions
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.training_run import TrainingRun, open_test_time_training
from solver.weights import Weights

# Largest shares of the time left for a round before training and one at half of it. The first is
# to reach every test.
_SHARE_OF_FIRST_ROUND = 0.25
_SHARE_OF_EARLY_ROUNDS = 0.1
_VIEWS_MARGIN = 1.1  # times the seconds that all views are expected to take are reserved for them
_TIMES_LATE = 2  # times the seconds by which the first half of training was late, for the second


def adapted_weights(training_run: TrainingRun, start: Weights) -> Weights:
    """Return the averaged weights of test-time training as they are now.

    The model is a copy, the rows are not, so training must not go on while these are used.
    """
    training, step = training_run.training, training_run.step
    return Weights(
        training.ema.averaged(training.model),
        training.table,
        training_run.index,
        start.trained_on,
        f"{start.source}, {step} steps on the tasks",
        f"{start.digest}+{step}",
    )


@dataclass(slots=True)
class PredictionRun:
    """One call of the stage ``predict``."""

    settings: Settings
    run: Run
    rounds: PredictionRounds

    def predict(self, ready: Sequence[Task], to_adapt: Sequence[Task], weights: Weights) -> None:
        """Predict ``ready`` tasks as they are and the others after training on them, in rounds.

        A first round comes before any training, and an early one when half of it is done. Where
        tasks are trained apart in the end, few views are predicted before that.
        """
        settings, planned = self.settings.predict, list[PlannedTasks]()
        apart = PerTaskTraining(self.settings, self.rounds)
        if ready:
            digest = self._fingerprint(weights.digest, ready)
            planned.append(plan_predictions(ready, weights, settings, digest))
        if not to_adapt:
            self._resume(planned, apart)
            for each in planned:
                self.rounds.measure_speed(each)
            self._finish(planned, apart)
            return
        training_run = open_test_time_training(
            self.settings, self.run, self.rounds.engine, to_adapt, weights
        )
        identity = str(training_run.identity(0)["fingerprint"])
        learned = plan_predictions(
            to_adapt,
            adapted_weights(training_run, weights),
            settings,
            self._fingerprint(identity, to_adapt),
            training_run.step,
        )
        self._resume([*planned, learned], apart)
        self.rounds.measure_speed(learned)
        if training_run.step == 0:
            self.rounds.predict_views([*planned, learned], 1, _SHARE_OF_FIRST_ROUND)
        for until in self._legs(training_run, [*planned, learned]):
            learned = replace(
                learned, weights=adapted_weights(training_run, weights), step=training_run.step
            )
            if until < 1 and not self.rounds.has_early_round(learned):
                self.rounds.predict_views([learned], settings.early_views, _SHARE_OF_EARLY_ROUNDS)
        self._finish([*planned, learned], apart)

    def _resume(self, planned: Sequence[PlannedTasks], apart: PerTaskTraining) -> None:
        """Take up the votes of an earlier call with the same tasks, weights and settings."""
        fingerprints = [p.fingerprint for p in planned]
        of_apart = map(apart.fingerprint, fingerprints)
        self.rounds.votes.resume([*fingerprints, *of_apart])

    def _finish(self, planned: Sequence[PlannedTasks], apart: PerTaskTraining) -> None:
        """Predict what has been learned by all tasks together, and by each task apart.

        Tasks that could not be trained apart get all views of what was learned together.
        """
        settings = self.settings.predict
        if not self.settings.adapt.per_task_steps:
            self.rounds.predict_views(planned, settings.num_views)
            return
        self.rounds.predict_views(planned, settings.early_views)
        left_out = apart.train(planned)
        rest = [
            plan_predictions(tasks, together.weights, settings, together.fingerprint, together.step)
            for together in planned
            if (tasks := [task for task in together.tasks if task.task_id in left_out])
        ]
        self.rounds.predict_views(rest, settings.num_views)

    def _legs(self, training_run: TrainingRun, planned: Sequence[PlannedTasks]) -> Iterator[float]:
        """Train in two legs; yield the progress that each one ends at, after it."""
        num_steps, late = training_run.train_settings.num_steps, 0.0
        if num_steps == 0:
            return
        say(f"adapt: {len(training_run.index.task_ids)} tasks, at most {num_steps:,} steps")
        training_run.plan_memory()
        if training_run.resumed_from:
            say(f"adapt: going on from {training_run.resumed_from}")
        for until in (0.5, 1.0):
            if self.rounds.has_signal():
                return
            leg = self._plan_leg(training_run, until, planned, _TIMES_LATE * late)
            first = training_run.step
            try:
                training_run.train(leg)
            except FloatingPointError as error:
                warn(f"adapt: given up after {training_run.step} steps, which predict: {error}")
                yield 1.0
                return
            late = leg.seconds_late
            if training_run.step > first:
                progress = max(training_run.training.progress, training_run.step / num_steps)
                say(
                    f"adapt: step {training_run.step:,}, {progress:.0%} of training, "
                    f"{leg.elapsed:.1f} s"
                )
            yield until

    def _plan_leg(
        self, training_run: TrainingRun, until: float, planned: Sequence[PlannedTasks], late: float
    ) -> Leg:
        """Return the leg to ``until``; all views shall fit in after training.

        ``late`` are the seconds that the rest of training may take longer than it has.
        """
        settings, begin = self.settings, training_run.training.progress
        num_tasks = sum(len(p.tasks) for p in planned)
        most_apart = most_seconds_apart(num_tasks, self.rounds.engine.group)
        seconds = left = self.rounds.seconds_left()
        if left < math.inf:
            flop = sum(p.flop(0, settings.predict.num_views) for p in planned)
            views = _VIEWS_MARGIN * flop / self.rounds.flop_per_second
            seconds = max(0.0, left - views - late, left * settings.predict.training_share)
            seconds = max(seconds * self._share_together(begin), seconds - most_apart)
            say(
                f"plan: {left:.0f} s left, {seconds:.0f} to train all tasks together and "
                f"{left - seconds:.0f} for the rest; all views take {views:.0f} at "
                f"{self.rounds.flop_per_second:.2g} FLOP a second"
            )
        if settings.adapt.time_limit_seconds:
            apart = min(settings.adapt.per_task.time_limit_seconds, most_apart)
            seconds = min(seconds, (settings.adapt.time_limit_seconds - apart) * (1 - begin))
        seconds = self.rounds.engine.group.min(seconds)
        share = (until - begin) / (1 - begin) if begin < until else 0.0  # taken up beyond it
        of_leg = seconds * share if share else 0.0
        return Leg(self.rounds.deadline, by_time=True, seconds=of_leg, begin=begin, until=until)

    def _share_together(self, begin: float) -> float:
        """Return the share of what is left of training that goes on with all tasks together."""
        adapt = self.settings.adapt
        if not adapt.per_task_steps:
            return 1.0
        together = (1 - adapt.per_task_share) * (1 - begin)
        return together / (together + adapt.per_task_share)

    def _fingerprint(self, weights: str, tasks: Sequence[Task]) -> str:
        """Return a fingerprint of all that decides predictions, given that of the weights."""
        settings = self.settings.predict
        deciding = [
            settings.num_supervision_steps,
            settings.stop_when_halted,
            settings.checks_demonstrations,
        ]
        dtype, visible = str(self.rounds.engine.dtype), fingerprint_visible(tasks)
        return fingerprint(fingerprint_code(), dtype, deciding, weights, visible)
