"""The results of a run, read from its files: submission, solutions, votes, and their score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from augment.prediction import Prediction
from augment.task import Task
from augment.task_files import read_challenges
from pipeline.console import is_json, say, say_table
from pipeline.run import Run
from submission.rounds import check_tests, read_votes
from submission.score import ORACLE_KS, Score, score_json, score_submission
from submission.vote import RULES, Candidate, Pool, TestKey, pool_votes
from submission.writer import build_submission

Records = Mapping[str, Mapping[str, Any]]
"""The settings of each stage of a run, see ``Run.recorded``."""


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The files that results are read from, and how votes are ranked and pooled."""

    submission: Path
    challenges: Path
    solutions: Path | None
    votes: Path | None
    # Where demonstrations were not predicted, this rule orders candidates as "count" does.
    ranking: str = "demonstrations"
    pool: Pool = "newest"

    @classmethod
    def of_run(cls, run: Run, records: Records) -> "ResultFiles":
        """Return those of a run, ranked as it ranked them by its ``records``."""
        settings = settings_of_prediction(records, "predict")
        ranking = settings.get("ranking")
        return cls(
            run.submission,
            run.challenges,
            run.solutions if run.solutions.exists() else None,
            run.votes if run.has_votes else None,
            ranking if isinstance(ranking, str) and ranking in RULES else "demonstrations",
            "all" if settings.get("pool") == "all" else "newest",
        )

    def read_tasks(self) -> list[Task]:
        """Return the predicted tasks, with their solutions where these are known."""
        return read_challenges(self.challenges, self.solutions)

    def read_votes(
        self, tasks: Sequence[Task]
    ) -> tuple[dict[int, list[Prediction]], Mapping[TestKey, list[Candidate]] | None]:
        """Return the predictions by training step, and their candidates; None without votes.

        Raises :class:`InputError` where one is not of a test of ``tasks``.
        """
        if self.votes is None:
            return {}, None
        by_step = read_votes(self.votes)
        check_tests(chain.from_iterable(by_step.values()), tasks, self.votes)
        return by_step, pool_votes(by_step, RULES[self.ranking], self.pool).candidates


def settings_of_prediction(records: Records, section: str) -> dict[str, Any]:
    """Return a section of the settings that a run predicted with; empty if not recorded."""
    values = records.get("predict", {"settings": {}})["settings"].get(section, {})
    return values if isinstance(values, dict) else {}


def say_score(score: Score, tasks: Sequence[Task]) -> None:
    """Log the scores of both metrics, and how many outputs were solved, by whom."""
    fallback = score_submission(build_submission(tasks, {})[0], tasks).num_solved
    if is_json():
        say("score", **score_json(score), solved_by_fallback_alone=fallback)
        return
    named = [(f"pass@{k}", score.pass_at(k)) for k in (1, 2)]
    for k in ORACLE_KS:
        oracle = score.oracle_pass_at(k)
        if oracle is not None:
            named.append((f"oracle pass@{k}", oracle))
    columns = {"metric": "", "per task": ".2%", "per output": ".2%"}
    say_table("score", columns, [(name, *shares) for name, shares in named])
    line = f"{score.num_solved} of {score.num_outputs} test outputs solved in two attempts"
    if score.oracle_pass_at(1) is not None:
        line += f", {score.num_solved_by_votes} of them by votes of the model"
    say(f"{line}; fallback attempts alone would solve {fallback}")
