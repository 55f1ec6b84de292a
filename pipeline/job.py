"""Test-time training and prediction under one clock.

Every process goes through the same motions; the leading one holds the answers. What is done lies
on disk, so that the same command goes on wherever this one ended.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from augment.task import Task
from pipeline.answers import Answers
from pipeline.clock import Stopwatch
from pipeline.console import Progress, say
from pipeline.learning import Learning, digest_of_visible
from pipeline.recipes import Settings
from pipeline.runs import Run, code_digest, digest
from solver.checkpoint import Weights
from solver.engine import Engine
from solver.predict import flop_of_work, plan_work, predict, reproduce_demonstrations
from submission.rounds import Round

_ROUNDS = (1, 8)  # views after each: the identity, the dihedrals, then ever more
_ROUND_GROWTH = 4
_MOST_VIEWS = 128  # of every test in one round: that much is lost with it
# Of the time left, for the rounds before training is done: the first one is to reach every test.
_SHARE_OF_FIRST_ROUND = 0.25
_SHARE_OF_EARLY_ROUNDS = 0.1
_TIMES_TO_WRITE = 3  # what the last round took: the next one, with more votes, and at the end
_SECONDS_TO_REPORT = 0.3
_SAFETY = 1.3  # a group may take this many times as long as the ones before it
_PLANNED = 1.1  # times what the views took so far, reserved for them
_TIMES_LATE = 2  # what the first half of training took longer than planned, for the second
_SECONDS_TO_MEASURE = 1.0


@dataclass(slots=True)
class Meter:
    """Adds up the FLOP of predictions, and knows how fast the last groups went."""

    on_flop: Callable[[float], object] = lambda _: None
    """Called with the sum so far."""
    flop: float = 0.0
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=9))

    def begin(self) -> None:
        """Start the clock of a new piece of work; before that, nothing is known of its speed."""
        self._recent.clear()
        self._recent.append((time.monotonic(), self.flop))

    def __call__(self, count: int, flop: float) -> None:
        """Take note of views that were finished and of FLOP that were spent."""
        self.flop += flop
        self.on_flop(self.flop)
        if count:
            self._recent.append((time.monotonic(), self.flop))

    @property
    def speed(self) -> float:
        """FLOP a second over the last groups; 0 before the first."""
        (began, before), (ended, after) = self._recent[0], self._recent[-1]
        return (after - before) / (ended - began) if ended > began else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Tasks with the weights that answer them, after so many steps of test-time training."""

    tasks: Sequence[Task]
    weights: Weights
    made_by: str
    step: int

    @property
    def most_views(self) -> int:
        """The views of the task that has most."""
        index = self.weights.index
        positions = [index.find(task) for task in self.tasks]
        return max(int(index.num_views[position]) for position in positions)


@dataclass(slots=True)
class Job:
    """One call of the stage ``predict``."""

    settings: Settings
    run: Run
    engine: Engine
    stopwatch: Stopwatch
    answers: Answers | None
    """None but on the leading process."""
    reserved_seconds: float = 0.0
    """Of the time there is, what is left for the page."""
    _speed: float = 0.0
    """FLOP a second of all processes together, when last measured; 0 before that."""

    def answer(self, known: Sequence[Task], unseen: Sequence[Task], weights: Weights) -> None:
        """Answer ``known`` as they are and ``unseen`` after training on them, in rounds.

        A first round comes before any training, and an early one when half of it is done.
        """
        sides = [_Side(known, weights, self._made_by(weights.digest, known), 0)] if known else []
        if not unseen:
            self._resume(sides)
            for side in sides:
                self._measure_speed(side)
            self._answer_views(sides, self.settings.predict.num_views)
            return
        learning = Learning(self.settings, self.run, self.engine, self.stopwatch, unseen, weights)
        made_by = self._made_by(learning.trained_by, unseen)

        def as_learned() -> _Side:
            return _Side(unseen, learning.weights(), made_by, learning.step)

        learners = as_learned()
        self._resume([*sides, learners])
        self._measure_speed(learners)
        if learning.step == 0:
            self._answer_views([*sides, learners], 1, _SHARE_OF_FIRST_ROUND)
        for until in (0.5, 1.0):
            if self._stops() or not learning.may_go_on:
                break
            late = _TIMES_LATE * learning.seconds_late
            learning.go_on(until, self._plan_training([*sides, learners], late))
            learners = as_learned()
            if until < 1 and not self._has_early_round(learners):
                early = self.settings.predict.early_views
                self._answer_views([learners], early, _SHARE_OF_EARLY_ROUNDS)
        self._answer_views([*sides, learners], self.settings.predict.num_views)

    def _made_by(self, weights: str, tasks: Sequence[Task]) -> str:
        """Return a digest of all that decides predictions, given that of the weights."""
        settings = self.settings.predict
        deciding = [
            settings.num_supervision_steps,
            settings.stop_when_halted,
            settings.checks_demonstrations,
        ]
        visible = digest_of_visible(tasks)
        return digest(code_digest(), str(self.engine.dtype), deciding, weights, visible)

    def _resume(self, sides: Sequence[_Side]) -> None:
        if self.answers is not None:
            self.answers.resume([side.made_by for side in sides])

    # Time

    def seconds_left(self) -> float:
        """Return the seconds left to compute, on the process that has the fewest."""
        writing = 0.0 if self.answers is None else self.answers.seconds_to_write
        left = self.stopwatch.seconds_left - self.reserved_seconds
        left -= _TIMES_TO_WRITE * writing + _SECONDS_TO_REPORT
        return self.engine.world.lowest(left, self.engine.device)

    def _stops(self) -> bool:
        """Return whether a signal asked any process to stop."""
        return self.engine.world.any(self.stopwatch.was_asked, self.engine.device)

    def _plan_training(self, sides: Sequence[_Side], late: float) -> float:
        """Return the seconds that the rest of training has; all views shall fit in after it.

        ``late`` is how much longer it may take than it has.
        """
        left, settings = self.seconds_left(), self.settings.predict
        if left == math.inf:
            return left
        flop = sum(self._flop(side, 0, settings.num_views) for side in sides)
        views = _PLANNED * flop / self._speed
        training = max(0.0, left - views - late, left * settings.training_share)
        if self.answers is not None:
            say(
                f"plan: {left:.0f} s left, {training:.0f} for training and {left - training:.0f} "
                f"for views, which take {views:.0f} at {self._speed:.2g} FLOP a second"
            )
        return training

    def _flop(self, side: _Side, first: int, stop: int) -> float:
        work = plan_work(side.weights, side.tasks, stop).between(first, stop)
        model, settings = side.weights.model.settings, self.settings.predict
        return flop_of_work(model, side.tasks, work, settings)

    def _measure_speed(self, side: _Side) -> None:
        """Under a limit, have every process answer a few views again and again for about a second.

        The first time compiles, and says nothing of the speed; of the others the best counts. What
        is answered here is answered again.
        """
        if self.seconds_left() == math.inf:
            return
        world, device = self.engine.world, self.engine.device
        work = plan_work(side.weights, side.tasks, 1)
        seconds, is_first = 0.0, True
        while seconds < _SECONDS_TO_MEASURE:
            meter = Meter()
            meter.begin()

            def nothing_is_done(_: float, meter: Meter = meter) -> bool:
                return meter.flop == 0

            quiet = replace(self.engine, say=lambda _: None)
            asked = (side.weights, side.tasks, work, self.settings.predict, quiet, meter)
            start = time.monotonic()
            predict(*asked, nothing_is_done)
            if not is_first:
                self._speed = max(self._speed, world.sum(meter.speed, device))
                seconds += world.lead(time.monotonic() - start, device)
            is_first = False

    # Rounds

    def _has_early_round(self, side: _Side) -> bool:
        """Return whether weights in training, but not these, have answered already."""
        made_by, step = side.made_by, side.step
        has = self.answers is not None and bool(self.answers.steps_done(made_by) - {0, step})
        return bool(self.engine.world.lead(has, self.engine.device))

    def _answer_views(
        self, sides: Sequence[_Side], num_views: int, share_of_time: float = 1.0
    ) -> None:
        """Answer the first ``num_views`` of every test, in rounds, as far as time goes."""
        end = time.monotonic() + self.seconds_left() * share_of_time
        for bound in _bounds(num_views):
            for side in sides:
                if not self._answer_to(side, bound, end):
                    return

    def _answer_to(self, side: _Side, bound: int, end: float) -> bool:
        """Bring every test of a side to ``bound`` views; return whether time allowed it."""
        world, device = self.engine.world, self.engine.device
        done = 0 if self.answers is None else self.answers.views_done(side.made_by, side.step)
        first, stop = int(world.lead(done, device)), min(bound, side.most_views)
        while first < stop:
            seconds = min(end - time.monotonic(), self.seconds_left())
            seconds = world.lead(seconds, device)
            if self._stops() or seconds <= 0:
                return False
            until, reached = time.monotonic() + seconds, stop
            if seconds < math.inf and first:
                fitting = seconds * self._speed / (_SAFETY * self._flop(side, first, stop))
                reached = first + max(1, int((stop - first) * min(1.0, fitting)))
                reached = int(world.lead(reached, device))
            if not self._answer_round(side, first, reached, until):
                return False
            first = reached
        return True

    def _answer_round(self, side: _Side, first: int, stop: int, until: float) -> bool:
        """Answer views of every test of a side; return whether time was enough for all."""
        engine, settings = self.engine, self.settings.predict
        start = time.monotonic()
        work = plan_work(side.weights, side.tasks, stop).between(first, stop)
        with Progress(
            "predict",
            "view",
            len(work.codes),
            self.settings.log,
            seconds_left=lambda: until - time.monotonic(),
            budget=lambda: self.stopwatch.seconds_left,
            is_shown=engine.world.leads,
        ) as progress:
            # Processes share the work, and views differ, by the FLOP they take.
            share = self._flop(side, first, stop) / engine.world.size

            def show(flop: float) -> None:
                progress.reach(int(len(work.codes) * min(1.0, flop / share)))

            meter = Meter(show)
            meter.begin()
            under_way = 0.0

            def has_time_for(flop: float) -> bool:
                nonlocal under_way
                if self.stopwatch.was_asked:
                    return False
                speed = meter.speed or self._speed / engine.world.size
                expected = _SAFETY * (flop + under_way) / speed if speed else 0.0
                # A GPU is still at the group before; a CPU comes here when that is done.
                under_way = flop if engine.device.type == "cuda" else 0.0
                return time.monotonic() + expected < until

            asked = (side.weights, side.tasks, work, settings, engine, meter, has_time_for)
            found, checked = predict(*asked), True
            if settings.checks_demonstrations:
                shares = reproduce_demonstrations(*asked)
                checked = not np.isnan(shares).any()
                found = [p and replace(p, reproduced=s) for p, s in zip(found, shares, strict=True)]
        self._speed = engine.world.sum(meter.speed, engine.device) or self._speed
        flop = engine.world.sum(meter.flop, engine.device)
        predictions = [prediction for prediction in found if prediction is not None]
        complete = checked and len(predictions) == len(found)
        if self.answers is not None:
            say(
                f"predict: views {first + 1}..{stop}, {len(predictions):,} of {len(found):,} "
                f"after {side.step:,} steps, {time.monotonic() - start:.1f} s, {flop:.2g} FLOP"
            )
            self.answers.add(
                Round(
                    side.made_by,
                    side.step,
                    tuple(task.task_id for task in side.tasks),
                    first,
                    stop,
                    complete,
                    predictions,
                )
            )
        return complete


def _bounds(num_views: int) -> Iterator[int]:
    """Yield how many views every test has after each round."""
    views = 0
    for bound in _ROUNDS:
        views = bound
        yield min(views, num_views)
    while views < num_views:
        views = min(views * _ROUND_GROWTH, views + _MOST_VIEWS)
        yield min(views, num_views)
