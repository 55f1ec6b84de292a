"""The answers of a run as they grow: votes in rounds, kept on disk, and the submission they make.

Whenever the process ends, and however, the submission on disk is whole and valid, and the rounds
beside it are what the same command goes on from.
"""

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from augment.errors import InputError
from augment.task import Task, write_challenges, write_solutions
from pipeline.console import say, say_score, warn
from pipeline.runs import Run
from solver.settings import PredictSettings
from submission.rounds import Round, by_step, read_round, round_folders, write_round
from submission.score import score_submission
from submission.vote import RULES, Tally, pool_votes
from submission.writer import (
    Coverage,
    Submission,
    build_submission,
    read_submission,
    write_submission,
)


class Answers:
    """Held by the leading process; what cannot be written is said, and stays in memory."""

    def __init__(self, tasks: Sequence[Task], run: Run, settings: PredictSettings) -> None:
        """See to it that the run has a valid submission for ``tasks`` from now on."""
        self._tasks = tasks
        self._run = run
        self._settings = settings
        self._rounds: list[Round] = []
        self.seconds_to_write = 0.0
        """How long the last round took to vote on and write."""
        try:
            read_submission(run.submission, tasks)
        except InputError:
            self.write()

    def resume(self, made_by: Collection[str]) -> None:
        """Take up the rounds that lie in the run and were made by one of ``made_by``.

        Damaged ones are set aside, with a line each; others go. Those that time cut short vote, but
        do not count as done.
        """
        others = 0
        for folder in round_folders(self._run.votes):
            try:
                found = read_round(folder)
            except InputError as error:
                aside = folder.with_name(f"{folder.name}.broken")
                with _said(folder):
                    shutil.rmtree(aside, ignore_errors=True)
                    folder.rename(aside)
                warn(f"{error}; set aside as {aside.name}, its views are answered again")
                continue
            if found.made_by in made_by:
                self._rounds.append(found)
            else:
                others += 1
                with _said(folder):
                    shutil.rmtree(folder)
        if others:
            say(f"predict: {others} rounds by other weights or settings dropped")
        if self._rounds:
            views = sum(len(found.predictions) for found in self._rounds)
            say(f"predict: going on from {len(self._rounds)} rounds, {views:,} views")
            start = time.monotonic()
            self.write()
            self.seconds_to_write = time.monotonic() - start

    def views_done(self, made_by: str, step: int) -> int:
        """Return how many views of every test whole rounds hold."""
        done = 0
        rounds = [r for r in self._rounds if (r.made_by, r.step) == (made_by, step) and r.complete]
        for found in sorted(rounds, key=lambda found: found.first):
            if found.first <= done:
                done = max(done, found.stop)
        return done

    def steps_done(self, made_by: str) -> set[int]:
        """Return the steps of test-time training after which whole rounds were answered."""
        return {found.step for found in self._rounds if found.made_by == made_by and found.complete}

    def add(self, found: Round) -> None:
        """Keep a round and write the submission that all votes make now."""
        start = time.monotonic()
        self._rounds.append(found)
        with _said(self._run.votes):
            taken = [
                int(path.name.removeprefix("round_")) for path in round_folders(self._run.votes)
            ]
            write_round(self._run.votes / f"round_{max(taken, default=0) + 1:04d}", found)
        self.write()
        self.seconds_to_write = time.monotonic() - start

    def write(self) -> tuple[Tally, Submission, Coverage]:
        """Write the submission that the votes make, and its tasks; return what was made."""
        tally = pool_votes(
            by_step(self._rounds), RULES[self._settings.ranking], self._settings.pool
        )
        submission, coverage = build_submission(self._tasks, tally.candidates)
        with _said(self._run.submission):
            write_submission(self._run.submission, submission, self._tasks)
            write_challenges(self._run.challenges, self._tasks)
            if all(task.answers is not None for task in self._tasks):
                write_solutions(self._run.solutions, self._tasks)
            else:
                self._run.solutions.unlink(missing_ok=True)
        return tally, submission, coverage

    def finish(self) -> None:
        """Write the submission for the last time and print what it is worth."""
        tally, _, coverage = self.write()
        submission = read_submission(self._run.submission, self._tasks)  # what lies there counts
        say(f"{self._run.submission}: {coverage}; {tally.num_empty} empty predictions dropped")
        hidden = sum(task.answers is None for task in self._tasks)
        if hidden:
            say(f"no score: the answers of {hidden} of {len(self._tasks)} tasks are not known")
            return
        say_score(score_submission(submission, self._tasks, tally.candidates))


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say what the disk refuses and go on: answers in memory are worth more than a whole disk."""
    try:
        yield
    except (InputError, OSError) as error:
        warn(f"{path}: stays as it was ({error})")
