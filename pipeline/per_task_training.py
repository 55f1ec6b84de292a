"""The last part of test-time training: each task apart, from what all tasks have learned together.

Every process takes a task of its own, trains a copy of the weights on its demonstrations and
predicts its tests; then all exchange their predictions and take the next tasks, the smallest first.
Where time ends before, the votes from what all have learned stay.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson
import torch

from augment.examples import ExampleStream
from augment.prediction import Prediction
from augment.task import Task
from pipeline.console import ProgressBar, say, warn
from pipeline.deadline import Leg
from pipeline.fingerprint import fingerprint
from pipeline.prediction_rounds import PlannedTasks, PredictionRounds, plan_predictions
from pipeline.settings import Settings
from solver.adapt import make_adaptation_dataset, start_adaptation
from solver.demonstrations import add_shares_reproduced
from solver.engine import Engine
from solver.predict import predict
from solver.process_group import ProcessGroup
from solver.progress import TrainingProgress
from solver.train import take_metrics, train
from solver.weights import Weights
from submission.rounds import Round

_SECONDS_BETWEEN_ROUNDS = 20.0  # at most so much is lost when the process is killed
_SAFETY = 1.3  # views may take this many times as long as their FLOP say
_SECONDS_TO_SPARE = 1.0  # of the time there is; views that outgrow their boxes take longer
# Of a task at most, its views included, where other processes wait for it: they would take it for
# dead after 300.
_LONGEST_SECONDS = 250.0


@dataclass(frozen=True, slots=True)
class _Job:
    """A task to train apart."""

    together: PlannedTasks
    """The tasks that it was trained together with, and their weights, from which it starts."""
    task: Task
    cost: float
    """The FLOP of one view of it; the time for training is divided among tasks by this."""
    is_done: bool
    """Whether its predictions are among the votes already."""


@dataclass(slots=True)
class PerTaskTraining:
    """Trains every task apart and adds its predictions to the votes, as far as time goes."""

    settings: Settings
    rounds: PredictionRounds
    _pending: list[tuple[_Job, list[Prediction]]] = field(init=False, default_factory=list)
    """What is not yet among the votes."""
    _written_at: float = field(init=False, default_factory=lambda: time.monotonic())
    _flop: float = field(init=False, default=0.0)
    """What training has taken, on this process."""

    def fingerprint(self, together: str) -> str:
        """Return the fingerprint of the predictions of tasks, each trained apart."""
        adapt, data = self.settings.adapt.per_task, self.settings.data
        views = [data.views_per_task, data.seed, data.color_maps]
        return fingerprint(together, adapt.deciding(), views)

    def train(self, all_planned: Sequence[PlannedTasks]) -> set[str]:
        """Train the tasks of ``all_planned`` apart that are not among the votes already.

        Returns the ids of those for which time was too short, or that failed.
        """
        group, adapt = self.rounds.engine.group, self.settings.adapt.per_task
        all_jobs = [job for planned in all_planned for job in self._list_jobs(planned)]
        jobs = sorted((job for job in all_jobs if not job.is_done), key=lambda job: job.cost)
        left_out = {job.task.task_id for job in jobs}
        if not jobs:
            return left_out
        share_left = sum(job.cost for job in jobs) / sum(job.cost for job in all_jobs)
        waves = [jobs[first : first + group.size] for first in range(0, len(jobs), group.size)]
        costs = [wave[-1].cost for wave in waves]
        alone = copy.copy(self.rounds.engine)  # with all that it has learned about this machine
        alone.group = ProcessGroup(device=group.device)
        start = time.monotonic()
        ends_at = start + (share_left * adapt.time_limit_seconds or math.inf)
        say(
            f"adapt: {len(jobs)} tasks, each apart, at most {adapt.num_steps:,} steps of "
            f"{adapt.global_batch}"
        )
        deadline = self.rounds.deadline
        with ProgressBar(
            "adapt", "task", len(jobs), self.settings.log, budget=lambda: deadline.seconds_left
        ) as bar:
            for number, wave in enumerate(waves):
                left = self.rounds.seconds_left() - _SECONDS_TO_SPARE
                left = group.min(min(left, ends_at - time.monotonic()))
                seconds = left
                if left < math.inf:
                    # What later tasks cannot use, the smaller ones before them get.
                    later = most_seconds_apart(len(jobs) - (number + 1) * group.size, group)
                    seconds *= costs[number] / sum(costs[number:])
                    seconds = max(seconds, left - later)
                if self.rounds.has_signal() or seconds <= 0:
                    break
                own: list[Prediction] = []
                if group.rank < len(wave):
                    own = self._train_and_predict(wave[group.rank], seconds, alone)
                if self.rounds.has_signal():  # training may have been cut short by it
                    break
                gathered = group.all_gather_bytes(_to_bytes(own))
                made = [_from_bytes(content) for content in gathered[: len(wave)]]
                self._pending += zip(wave, made, strict=True)
                left_out -= {p.task_id for predictions in made for p in predictions}
                bar.reach(min(len(jobs), (number + 1) * group.size))
                is_due = time.monotonic() - self._written_at > _SECONDS_BETWEEN_ROUNDS
                is_last_but_one = number == len(waves) - 2  # the last may come too late
                if group.broadcast(is_due or is_last_but_one):
                    self._write()
        self._write()
        say(
            f"adapt: {len(jobs) - len(left_out)} of {len(jobs)} tasks trained apart, "
            f"{time.monotonic() - start:.1f} s, {group.sum(self._flop):.2g} FLOP"
        )
        return left_out

    def _list_jobs(self, planned: PlannedTasks) -> list[_Job]:
        """Return the tasks, and which are among the votes already; the same on every process."""
        group, queries = self.rounds.engine.group, planned.plan.queries
        digest, num_views = self.fingerprint(planned.fingerprint), self.settings.predict.num_views
        done = self.rounds.votes.tasks_done(digest, self._step(planned), num_views)
        is_done = [task.task_id in done for task in planned.tasks]  # rank 0 alone knows
        done_N = group.all_reduce(
            torch.tensor(is_done, dtype=torch.int32, device=group.device)
        ).bool()
        of_query = planned.plan.flop / planned.plan.lengths.sum() * planned.plan.lengths
        costs = [float(of_query[queries.tasks == number].mean()) for number in range(len(is_done))]
        return [
            _Job(planned, *job) for job in zip(planned.tasks, costs, done_N.tolist(), strict=True)
        ]

    def _step(self, planned: PlannedTasks) -> int:
        """Return the step that votes of tasks trained apart have: the last they may have taken."""
        return planned.step + self.settings.adapt.per_task_steps

    def _train_and_predict(self, job: _Job, seconds: float, engine: Engine) -> list[Prediction]:
        """Return the predictions of a task after training on it alone; none if that fails."""
        start, data, together = time.monotonic(), self.settings.data, job.together
        adapt, predicting = self.settings.adapt.per_task, self.settings.predict
        dataset = make_adaptation_dataset(
            [job.task],
            data.views_per_task,
            data.seed,
            together.weights.model.settings,
            data.color_maps,
        )
        training = start_adaptation(together.weights, dataset, adapt, engine)
        weights = Weights(
            training.model, training.table, dataset.index, together.weights.trained_on, "", ""
        )
        plan = plan_predictions([job.task], weights, predicting, "")
        group, flop_per_second = self.rounds.engine.group, self.rounds.flop_per_second
        seconds = min(seconds, most_seconds_apart(1, group))
        if seconds < math.inf and flop_per_second:
            seconds -= _SAFETY * plan.flop(0, predicting.num_views) * group.size / flop_per_second
        seconds -= time.monotonic() - start
        if seconds <= 0:
            return []
        leg = Leg(self.rounds.deadline, by_time=True, seconds=seconds)
        progress = TrainingProgress(adapt.num_steps, engine.group, leg)
        stream = ExampleStream(dataset, adapt.seed)
        try:
            for _ in train(training, stream, adapt, engine, progress):
                pass
            self._flop += take_metrics(training, adapt, engine.group).flop
        except FloatingPointError as error:
            warn(f"adapt: task {job.task.task_id} apart: {error}; it keeps its earlier votes")
            return []
        if self.rounds.deadline.has_signal:
            return []
        weights = replace(weights, model=training.ema.averaged(training.model))
        plans = plan.plans(0, predicting.num_views)
        results = [
            predict(weights, each, engine, stop_when_halted=predicting.stop_when_halted)
            for each in plans
        ]
        predictions = results[0]
        if plan.checks is not None:
            predictions = add_shares_reproduced(predictions, plans[0], results[1], plans[1])
        return [p for p in predictions if p is not None and math.isfinite(p.q)]

    def _write(self) -> None:
        """Add what is pending to the votes, one round for all that were trained together."""
        successful = [(job, predictions) for job, predictions in self._pending if predictions]
        for planned in {id(job.together): job.together for job, _ in successful}.values():
            made = {job.task.task_id: each for job, each in successful if job.together is planned}
            predictions = [prediction for of_task in made.values() for prediction in of_task]
            num_views = self.settings.predict.num_views
            digest = self.fingerprint(planned.fingerprint)
            self.rounds.votes.add(
                Round(digest, self._step(planned), tuple(made), 0, num_views, True, predictions)
            )
        self._pending.clear()
        self._written_at = time.monotonic()


def most_seconds_apart(num_tasks: int, group: ProcessGroup) -> float:
    """Return the seconds that training so many tasks apart can take at most, views included."""
    waves = -(-num_tasks // group.size)
    if waves <= 0:
        return 0.0
    return waves * _LONGEST_SECONDS if group.size > 1 else math.inf


def _to_bytes(predictions: Sequence[Prediction]) -> bytes:
    return orjson.dumps(
        [(p.task_id, p.test, p.grid, p.q, p.view, p.reproduced) for p in predictions],
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _from_bytes(content: bytes) -> list[Prediction]:
    return [
        Prediction(
            task_id,
            test,
            None if grid is None else np.array(grid, dtype=np.uint8),
            q,
            view,
            math.nan if reproduced is None else reproduced,
        )
        for task_id, test, grid, q, view, reproduced in orjson.loads(content)
    ]
