"""What a run's files say of it: its scores, and the page to look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.predictions import Prediction
from augment.task import Task, read_challenges
from pipeline.console import say, say_score, say_table, warn
from pipeline.metrics import read_metrics
from pipeline.runs import Run
from submission.report import describe_answers, describe_training, write_report
from submission.rounds import read_votes
from submission.score import Score, pass_json, score_json, score_submission
from submission.vote import RULES, Candidate, Pool, TestKey, measure_support, pool_votes
from submission.writer import build_submission, read_submission

_STAGES_WITH_METRICS = ("pretrain", "adapt")
# Sources that are all evaluation tasks of a benchmark, and how many these are.
_BENCHMARKS = {"arc1/evaluation": ("ARC-AGI-1", 400), "arc2/evaluation": ("ARC-AGI-2", 120)}


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The files that results are read from, and how votes are ranked and pooled."""

    submission: Path
    challenges: Path
    solutions: Path | None
    votes: Path | None
    # Where nobody looked at demonstrations, this is the order by count.
    ranking: str = "demonstrations"
    pool: Pool = "newest"

    @classmethod
    def of_run(cls, run: Run) -> "ResultFiles":
        """Return those of a run, ranked as it ranked them."""
        made = _made_with(run, "predict")
        return cls(
            run.submission,
            run.challenges,
            run.solutions if run.solutions.exists() else None,
            run.votes if run.has_votes else None,
            made["ranking"] if made.get("ranking") in RULES else "demonstrations",
            "all" if made.get("pool") == "all" else "newest",
        )

    def read_votes(
        self,
    ) -> tuple[dict[int, list[Prediction]], Mapping[TestKey, list[Candidate]] | None]:
        """Return the predictions by weights, and the candidates they make; None without votes."""
        if self.votes is None:
            return {}, None
        by_weights = read_votes(self.votes)
        return by_weights, pool_votes(by_weights, RULES[self.ranking], self.pool).candidates


def score(files: ResultFiles, as_json: bool) -> None:
    """Print the scores of a submission file, with those of all votes where there are any."""
    tasks = read_challenges(files.challenges, files.solutions)
    if not all(task.answers is not None for task in tasks):
        raise InputError(f"{files.challenges}: no score, as the answers are not known")
    answers = read_submission(files.submission, tasks)
    by_weights, candidates = files.read_votes()
    found = score_submission(answers, tasks, candidates)
    ranked = list(_rank(tasks, by_weights)) if by_weights else []
    if as_json:
        content = {
            **score_json(found),
            "tasks": [
                {
                    "task": task.task_id,
                    "outcome": of_task.outcome,
                    "attempt": of_task.attempts,
                    "candidate": of_task.votes,
                    **({} if candidates is None else asdict(measure_support(task, candidates))),
                }
                for task, of_task in zip(tasks, found.tasks, strict=True)
            ],
            "rankings": [
                {"votes": which, "ranking": name, **pass_json(one)} for which, name, one in ranked
            ],
        }
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    columns = dict.fromkeys(("task", "test", "outcome", "rank in the votes"), "")
    rows = [
        (task.task_id, test, outcome, None if rank is None else rank + 1)
        for task in found.tasks
        for test, (outcome, rank) in enumerate(
            zip(task.outcomes, task.votes or (None,) * len(task.outcomes), strict=True)
        )
    ]
    say_table("tests", columns, rows)
    if ranked:
        names = ("pass@1 task", "pass@1 output", "pass@2 task", "pass@2 output")
        columns = {"votes": "", "ranking": "", **dict.fromkeys(names, ".2%")}
        shares = [(v, name, *one.pass_at(1), *one.pass_at(2)) for v, name, one in ranked]
        say_table("rankings", columns, shares)
    say_table("outcomes", {"outcome": "", "tasks": ""}, list(found.outcomes.items()))
    say_score(found)


def _rank(
    tasks: Sequence[Task], by_weights: Mapping[int, Sequence[Prediction]]
) -> Iterator[tuple[str, str, Score]]:
    """Yield which votes, the ranking rule, and the score of the submission they make."""
    chosen: dict[str, tuple[Mapping[int, Sequence[Prediction]], Pool]] = {
        "newest weights first": (by_weights, "newest"),
        "all weights alike": (by_weights, "all"),
    }
    if len(by_weights) == 1:
        del chosen["all weights alike"]
    else:
        for step, predictions in sorted(by_weights.items()):
            chosen[f"after {step} steps alone"] = ({step: predictions}, "all")
    for which, (votes, pool) in chosen.items():
        for name, rule in RULES.items():
            candidates = pool_votes(votes, rule, pool).candidates
            submission, _ = build_submission(tasks, candidates)
            yield which, name, score_submission(submission, tasks, candidates)


def report(run: Run, others: Sequence[Run] = ()) -> None:
    """Write the page of a run: what it answered, and how it was trained, beside ``others``."""
    training = []
    for one in dict.fromkeys((run, *others)):
        paths = {stage: one.metrics_of(stage) for stage in _STAGES_WITH_METRICS}
        there = {stage: path for stage, path in paths.items() if path.exists()}
        if not there and one != run:
            raise InputError(f"{paths['pretrain']}: no metrics of training")
        for stage, path in there.items():
            try:
                lines = read_metrics(path)
            except InputError as error:
                warn(f"{error}; not drawn")
                continue
            training.append(describe_training(one.folder.name, stage, lines))
    answers = _answers_of(run) if run.submission.exists() else None
    if answers is None and not training:
        raise InputError(f"{run.folder}: nothing to report: no metrics of training, no answers")
    versions = {stage: made.get("code_version") for stage, made in run.recorded().items()}
    write_report(run.report, run.folder.name, versions, answers, training)
    say(f"{run.report}: {run.report.stat().st_size / 1e3:,.0f} kB, to be opened in a browser")


def _answers_of(run: Run) -> dict[str, object]:
    files = ResultFiles.of_run(run)
    tasks = read_challenges(files.challenges, files.solutions)
    by_weights, candidates = files.read_votes()
    return describe_answers(
        tasks,
        read_submission(files.submission, tasks),
        candidates,
        chain.from_iterable(by_weights.values()),
        _made_with(run, "model").get("canvas_side"),
        _benchmark(_made_with(run, "data").get("predicted", ()), len(tasks)),
    )


def _benchmark(sources: Sequence[str], num_tasks: int) -> str | None:
    """Return the benchmark whose evaluation tasks, all of them, were answered; else None."""
    name, size = _BENCHMARKS.get(sources[0], (None, 0)) if len(sources) == 1 else (None, 0)
    return name if num_tasks == size else None


def _made_with(run: Run, section: str) -> dict[str, Any]:
    """Return a section of the settings the run's tasks were answered with; empty if not noted."""
    found = run.recorded().get("predict", {"settings": {}})["settings"].get(section, {})
    return found if isinstance(found, dict) else {}
