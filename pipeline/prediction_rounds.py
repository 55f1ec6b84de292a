"""Rounds of predictions under the deadline: ever more views of every test, kept as they come."""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from augment.prediction import Prediction
from augment.task import Task
from pipeline.console import ProgressBar, say
from pipeline.deadline import Deadline
from pipeline.settings import PredictSettings, Settings
from pipeline.vote_store import VoteStore
from solver.demonstrations import add_shares_reproduced, plan_demonstrations
from solver.engine import Engine
from solver.predict import Predictor
from solver.queries import Plan, list_queries
from solver.weights import Weights
from submission.rounds import Round

_ROUNDS = (1, 8)  # views of every test after the first rounds: the identity, then all dihedrals
_ROUND_GROWTH = 4  # times the views, after each later round
_MOST_VIEWS = 128  # of every test in one round; at most this much is lost in a crash
# Reserved for writing, in multiples of the last write: the next round, its growth, the final write.
_TIMES_TO_WRITE = 3
_SECONDS_TO_REPORT = 0.3
_SAFETY = 1.3  # a chunk may take this many times as long as its FLOP and the last chunks say
_SECONDS_TO_MEASURE = 1.0


@dataclass(slots=True)
class Speed:
    """The FLOP that this process has spent on predictions, and how fast the last chunks went."""

    expected_flop: float = 0.0
    """What the whole round is expected to take."""
    flop: float = 0.0
    _marks: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=9))

    def __post_init__(self) -> None:
        self._marks.append((time.monotonic(), 0.0))

    def add(self, flop: float) -> None:
        """Take note of ``flop`` that have just been computed."""
        if flop:
            self.flop += flop
            self._marks.append((time.monotonic(), self.flop))

    @property
    def share(self) -> float:
        """The share of the expected FLOP that is spent, at most 1."""
        return min(1.0, self.flop / self.expected_flop)

    @property
    def flop_per_second(self) -> float:
        """The mean over the last chunks; 0 before the first."""
        (began, before), (ended, after) = self._marks[0], self._marks[-1]
        return (after - before) / (ended - began) if ended > began else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTasks:
    """Tasks, the weights that predict them after ``step`` steps of test-time training, and how."""

    tasks: Sequence[Task]
    weights: Weights
    fingerprint: str
    step: int
    plan: Plan
    """All views of all tests."""
    checks: Plan | None
    """The demonstrations under all views, where the ranking needs them."""

    @property
    def num_views(self) -> int:
        """The views of the task that has most."""
        return int(self.plan.queries.views.max()) + 1

    def plans(self, first: int, stop: int) -> list[Plan]:
        """Return the plans of a round: tests, and demonstrations if these are checked."""
        plans = (self.plan, self.checks)
        return [plan.between(first, stop) for plan in plans if plan is not None]

    def flop(self, first: int, stop: int) -> float:
        """Return the FLOP of a round, unless predictions outgrow their boxes."""
        return sum(plan.flop for plan in self.plans(first, stop))


def plan_predictions(
    tasks: Sequence[Task], weights: Weights, settings: PredictSettings, digest: str, step: int = 0
) -> PlannedTasks:
    """Return the tasks with the weights that predict them, planned once for all rounds."""
    model = weights.model.settings
    num_steps = settings.num_supervision_steps_of(model)
    queries = list_queries(weights, tasks, max(settings.num_views, settings.early_views))
    plan = Plan.of(model, num_steps, tasks, queries)
    checks = plan_demonstrations(plan) if settings.checks_demonstrations else None
    return PlannedTasks(tasks, weights, digest, step, plan, checks)


@dataclass(slots=True)
class PredictionRounds:
    """The rounds of one call, and the time that they have; all processes decide alike."""

    settings: Settings
    engine: Engine
    deadline: Deadline
    votes: VoteStore
    reserved_seconds: float = 0.0
    """Of the time there is, those left for the page."""
    flop_per_second: float = 0.0
    """Of all processes together, when last measured; 0 before that."""

    def seconds_left(self) -> float:
        """Return the seconds left to compute, on the process that has the fewest."""
        left = self.deadline.seconds_left - self.reserved_seconds
        left -= _TIMES_TO_WRITE * self.votes.seconds_to_write + _SECONDS_TO_REPORT
        return self.engine.group.min(left)

    def has_signal(self) -> bool:
        """Return whether a signal asked any process to stop."""
        return self.engine.group.any(self.deadline.has_signal)

    def measure_speed(self, planned: PlannedTasks) -> None:
        """Predict two chunks of every process and discard the results, where time is to be planned.

        This takes a second. The first time compiles, and says nothing of the speed; of the others
        the fastest counts.
        """
        apart, group = self.settings.adapt.per_task, self.engine.group
        plans_apart = apart.num_steps and (apart.time_limit_seconds or group.size > 1)
        if self.seconds_left() == math.inf and not plans_apart:
            return
        plan = planned.plan.between(0, 1)
        seconds, is_first = 0.0, True
        while seconds < _SECONDS_TO_MEASURE:
            start, speed = time.monotonic(), Speed()
            predictor = Predictor(planned.weights, plan, self.engine)
            for chunk in predictor.chunks[:2]:
                speed.add(predictor.submit(chunk))
            speed.add(predictor.join())
            if not is_first:
                total = group.sum(speed.flop_per_second)
                self.flop_per_second = max(self.flop_per_second, total)
                seconds += group.broadcast(time.monotonic() - start)
            is_first = False

    def has_early_round(self, planned: PlannedTasks) -> bool:
        """Return whether there is a complete round from amid training, at another step."""
        steps = self.votes.steps_done(planned.fingerprint) - {0, planned.step}
        return bool(self.engine.group.broadcast(bool(steps)))

    def predict_views(
        self, all_planned: Sequence[PlannedTasks], num_views: int, share_of_time: float = 1.0
    ) -> None:
        """Predict the first ``num_views`` of every test, in rounds, as far as time goes."""
        end = time.monotonic() + self.seconds_left() * share_of_time
        for bound in _bounds(num_views):
            for planned in all_planned:
                if not self._predict_up_to(planned, bound, end):
                    return

    def _predict_up_to(self, planned: PlannedTasks, bound: int, end: float) -> bool:
        """Bring every test to ``bound`` views; return whether time allowed it."""
        group = self.engine.group
        done = self.votes.num_views_done(planned.fingerprint, planned.step)
        first, stop = int(group.broadcast(done)), min(bound, planned.num_views)
        while first < stop:
            seconds = min(end - time.monotonic(), self.seconds_left())
            seconds = group.broadcast(seconds)
            if self.has_signal() or seconds <= 0:
                return False
            until, reached = time.monotonic() + seconds, stop
            if seconds < math.inf and first:
                flop = _SAFETY * planned.flop(first, stop)
                share = min(1.0, seconds * self.flop_per_second / flop)
                reached = int(group.broadcast(first + max(1, int(share * (stop - first)))))
            if not self._predict_round(planned, first, reached, until):
                return False
            first = reached
        return True

    def _predict_round(self, planned: PlannedTasks, first: int, stop: int, until: float) -> bool:
        """Predict views of every test and keep them; return whether time was enough for all."""
        group, start, plans = self.engine.group, time.monotonic(), planned.plans(first, stop)
        speed = Speed(sum(plan.flop for plan in plans) / group.size)
        with ProgressBar(
            "predict",
            "view",
            len(plans[0].boxes),
            self.settings.log,
            seconds_left=lambda: until - time.monotonic(),
            budget=lambda: self.deadline.seconds_left,
        ) as bar:
            results = [
                self._predict_plan(planned.weights, plan, until, speed, bar) for plan in plans
            ]
        predictions = results[0]
        if planned.checks is not None:
            predictions = add_shares_reproduced(predictions, plans[0], results[1], plans[1])
        self.flop_per_second = group.sum(speed.flop_per_second) or self.flop_per_second
        flop = group.sum(speed.flop)
        kept = [prediction for prediction in predictions if prediction is not None]
        is_complete = not any(prediction is None for result in results for prediction in result)
        say(
            f"predict: views {first + 1}..{stop}, {len(kept):,} of {len(predictions):,} after "
            f"{planned.step:,} steps, {time.monotonic() - start:.1f} s, {flop:.2g} FLOP"
        )
        digest, step, tasks = planned.fingerprint, planned.step, planned.tasks
        task_ids = tuple(task.task_id for task in tasks)
        self.votes.add(Round(digest, step, task_ids, first, stop, is_complete, kept))
        return is_complete

    def _predict_plan(
        self, weights: Weights, plan: Plan, until: float, speed: Speed, bar: ProgressBar
    ) -> list[Prediction | None]:
        """Predict a plan chunk by chunk, as far as time goes; what it does not reach is None."""
        engine, under_way = self.engine, 0.0
        predictor = Predictor(
            weights, plan, engine, stop_when_halted=self.settings.predict.stop_when_halted
        )
        while not predictor.is_finished:
            for chunk in predictor.chunks:
                flop_per_second = speed.flop_per_second or self.flop_per_second / engine.group.size
                flop = _SAFETY * (chunk.flop + under_way)
                needed = flop / flop_per_second if flop_per_second else 0.0
                if self.deadline.has_signal or time.monotonic() + needed >= until:
                    break
                speed.add(predictor.submit(chunk))
                bar.reach_share(speed.share)
                # A GPU still computes this chunk when the next one is submitted.
                under_way = chunk.flop if engine.device.type == "cuda" else 0.0
            speed.add(predictor.join())
            bar.reach_share(speed.share)
            if predictor.num_outgrown and not predictor.is_finished:
                say(
                    f"predict: {predictor.num_outgrown} of {len(plan.boxes)} predictions reach the "
                    "border of the box inferred for them; made again on the full canvas"
                )
        return predictor.predictions()


def _bounds(num_views: int) -> Iterator[int]:
    """Yield how many views every test has after each round."""
    views = 0
    for bound in _ROUNDS:
        views = bound
        yield min(views, num_views)
    while views < num_views:
        views = min(views * _ROUND_GROWTH, views + _MOST_VIEWS)
        yield min(views, num_views)
