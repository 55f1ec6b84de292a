"""Scores: pass@k over tasks and over outputs, of a submission and of all the votes.

Two metrics are in use and both are reported: the mean over tasks of the solved fraction of the
task's tests ("per task"), and the solved fraction of all test outputs ("per output").
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from augment.grid import Grid
from augment.task import Task
from submission.vote import Candidate, TestKey
from submission.writer import ATTEMPTS, Submission

ORACLE_KS = (1, 2, 5, 10, 100, 1000)

OUTCOMES = (
    "solved by attempt 1",
    "solved by attempt 2",
    "in the votes, not chosen",
    "never seen",
    "not solved",
)
"""The outcomes of a test, from the best to the worst; the last is used without votes."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """For each test, the position (from 0) of the right grid, None where it is not there."""

    task_id: str
    attempts: tuple[int | None, ...]
    votes: tuple[int | None, ...] | None
    """Position among all candidates; None without votes."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcome of each test: one of :data:`OUTCOMES`."""
        ranks = (None,) * len(self.attempts) if self.votes is None else self.votes
        pairs = zip(self.attempts, ranks, strict=True)
        return tuple(self._outcome(attempt, rank) for attempt, rank in pairs)

    @property
    def outcome(self) -> str:
        """The outcome of the task: the worst of its tests."""
        return max(self.outcomes, key=OUTCOMES.index)

    def _outcome(self, attempt: int | None, rank: int | None) -> str:
        if attempt is not None:
            return OUTCOMES[attempt]
        if self.votes is None:
            return OUTCOMES[4]
        return OUTCOMES[3] if rank is None else OUTCOMES[2]


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of all tasks."""

    tasks: tuple[TaskScore, ...]

    @property
    def num_outputs(self) -> int:
        """The number of test outputs."""
        return sum(len(task.attempts) for task in self.tasks)

    def pass_at(self, k: int) -> tuple[float, float]:
        """Return the share solved within ``k`` attempts, per task and per output."""
        return _pass_at(k, [task.attempts for task in self.tasks])

    def oracle_pass_at(self, k: int) -> tuple[float, float] | None:
        """Return the share solved within the first ``k`` candidates; None without votes."""
        votes = [task.votes for task in self.tasks if task.votes is not None]
        return _pass_at(k, votes) if len(votes) == len(self.tasks) else None

    @property
    def outcomes(self) -> dict[str, int]:
        """How many tasks had each outcome, from the best to the worst."""
        counted = Counter(task.outcome for task in self.tasks)
        return {outcome: counted[outcome] for outcome in OUTCOMES if outcome in counted}

    @property
    def num_solved(self) -> int:
        """The number of outputs that an attempt solved."""
        return sum(attempt is not None for task in self.tasks for attempt in task.attempts)

    @property
    def num_solved_by_votes(self) -> int:
        """The number of these that the model voted for; the others are lucky fallbacks."""
        return sum(
            attempt is not None and rank is not None
            for task in self.tasks
            for attempt, rank in zip(task.attempts, task.votes or (), strict=False)
        )


def _within(k: int, position: int | None) -> bool:
    return position is not None and position < k


def _pass_at(k: int, positions: Sequence[Sequence[int | None]]) -> tuple[float, float]:
    solved = [[_within(k, position) for position in tests] for tests in positions]
    per_task = float(np.mean([np.mean(tests) for tests in solved]))
    per_output = float(np.mean([hit for tests in solved for hit in tests]))
    return per_task, per_output


def score_submission(
    submission: Submission,
    tasks: Sequence[Task],
    candidates: Mapping[TestKey, Sequence[Candidate]] | None = None,
) -> Score:
    """Return the scores of ``tasks``, whose solutions must be known."""
    scores = []
    for task in tasks:
        assert task.solutions is not None, task.task_id
        numbered = list(enumerate(task.solutions))
        attempts = submission.attempts[task.task_id]
        votes = None
        if candidates is not None:
            votes = tuple(
                _position(solution, [c.grid for c in candidates.get((task.task_id, test), ())])
                for test, solution in numbered
            )
        positions = tuple(_position(solution, attempts[test]) for test, solution in numbered)
        scores.append(TaskScore(task.task_id, positions, votes))
    return Score(tuple(scores))


def _position(solution: Grid, grids: Sequence[Grid]) -> int | None:
    return next((n for n, grid in enumerate(grids) if np.array_equal(grid, solution)), None)


def pass_json(score: Score) -> dict[str, dict[str, float]]:
    """Return pass@1 and pass@2 by both metrics as JSON values."""
    metrics: dict[str, dict[str, float]] = {"per_task": {}, "per_output": {}}
    for k in range(1, len(ATTEMPTS) + 1):
        metrics["per_task"][f"pass@{k}"], metrics["per_output"][f"pass@{k}"] = score.pass_at(k)
    return metrics


def score_json(score: Score) -> dict[str, object]:
    """Return the figures of the score as JSON values."""
    metrics = pass_json(score)
    for k in ORACLE_KS:
        oracle = score.oracle_pass_at(k)
        if oracle is not None:
            name = f"oracle_pass@{k}"
            metrics["per_task"][name], metrics["per_output"][name] = oracle
    return {
        "num_tasks": len(score.tasks),
        "num_outputs": score.num_outputs,
        "solved_outputs": score.num_solved,
        "solved_by_votes": None if score.oracle_pass_at(1) is None else score.num_solved_by_votes,
        **metrics,
        "outcomes": score.outcomes,
    }
