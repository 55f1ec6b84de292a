"""The stage score: print what a submission scores, and what every ranking of its votes would."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import orjson

from augment.errors import InputError
from augment.prediction import Prediction
from augment.task import Task
from pipeline.console import say_table
from pipeline.results import ResultFiles, say_score
from submission.score import Score, pass_json, score_json, score_submission
from submission.vote import RULES, Candidate, Pool, TestKey, measure_support, pool_votes
from submission.writer import build_submission, read_submission

Ranking = tuple[str, str, Score]
"""Which votes, the name of the rule, and the score of the submission they make."""


def score(files: ResultFiles, as_json: bool) -> None:
    """Print the scores of a submission file, with those of all votes where there are any."""
    tasks = files.read_tasks()
    if not all(task.solutions is not None for task in tasks):
        raise InputError(f"{files.challenges}: no score, as the solutions are not known")
    submission = read_submission(files.submission, tasks)
    by_step, candidates = files.read_votes(tasks)
    result = score_submission(submission, tasks, candidates)
    rankings = list(_score_rankings(tasks, by_step)) if by_step else []
    if as_json:
        content = _describe(tasks, result, candidates, rankings)
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    columns = dict.fromkeys(("task", "test", "outcome", "rank in the votes"), "")
    rows = [
        (task.task_id, test, outcome, None if rank is None else rank + 1)
        for task in result.tasks
        for test, (outcome, rank) in enumerate(
            zip(task.outcomes, task.votes or (None,) * len(task.outcomes), strict=True)
        )
    ]
    say_table("tests", columns, rows)
    if rankings:
        names = ("pass@1 task", "pass@1 output", "pass@2 task", "pass@2 output")
        columns = {"votes": "", "ranking": "", **dict.fromkeys(names, ".2%")}
        shares = [(votes, rule, *s.pass_at(1), *s.pass_at(2)) for votes, rule, s in rankings]
        say_table("rankings", columns, shares)
    say_table("outcomes", {"outcome": "", "tasks": ""}, list(result.outcomes.items()))
    say_score(result, tasks)


def _score_rankings(
    tasks: Sequence[Task], by_step: Mapping[int, Sequence[Prediction]]
) -> Iterator[Ranking]:
    pools: dict[str, tuple[Mapping[int, Sequence[Prediction]], Pool]] = {
        "newest weights first": (by_step, "newest"),
        "all weights alike": (by_step, "all"),
    }
    if len(by_step) == 1:
        del pools["all weights alike"]
    else:
        for step, predictions in sorted(by_step.items()):
            pools[f"after {step} steps alone"] = ({step: predictions}, "all")
    for votes, (pooled, pool) in pools.items():
        for name, rule in RULES.items():
            candidates = pool_votes(pooled, rule, pool).candidates
            submission, _ = build_submission(tasks, candidates)
            yield votes, name, score_submission(submission, tasks, candidates)


def _describe(
    tasks: Sequence[Task],
    result: Score,
    candidates: Mapping[TestKey, Sequence[Candidate]] | None,
    rankings: Sequence[Ranking],
) -> dict[str, object]:
    return {
        **score_json(result),
        "tasks": [
            {
                "task": task.task_id,
                "outcome": of_task.outcome,
                "attempt": of_task.attempts,
                "candidate": of_task.votes,
                **({} if candidates is None else asdict(measure_support(task, candidates))),
            }
            for task, of_task in zip(tasks, result.tasks, strict=True)
        ],
        "rankings": [
            {"votes": votes, "ranking": rule, **pass_json(s)} for votes, rule, s in rankings
        ],
    }
