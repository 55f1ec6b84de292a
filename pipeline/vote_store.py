"""The votes of a run as they grow: rounds of predictions on disk, and the submission they make.

Whenever and however the process ends, the submission on disk is complete and valid, and the same
command goes on from the rounds beside it.
"""

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from augment.errors import InputError
from augment.task import Task
from augment.task_files import write_challenges, write_solutions
from pipeline.console import is_rank0, say, warn
from pipeline.results import say_score
from pipeline.run import Run
from pipeline.settings import PredictSettings
from submission.rounds import (
    Round,
    by_step,
    check_tests,
    read_round,
    round_folders,
    write_round,
)
from submission.score import score_submission
from submission.vote import RULES, Tally, pool_votes
from submission.writer import (
    Coverage,
    build_submission,
    read_submission,
    write_submission,
)


class VoteStore:
    """The rounds of a run; on other processes than rank 0 it is empty and writes nothing.

    What the disk does not take is logged and kept in memory.
    """

    def __init__(self, tasks: Sequence[Task], run: Run, settings: PredictSettings) -> None:
        """Make sure that the run has a valid submission for ``tasks`` from now on."""
        self._tasks = tasks
        self._run = run
        self._settings = settings
        self._rounds: list[Round] = []
        self.seconds_to_write = 0.0
        """How long the votes and the submission took to write last."""
        if is_rank0():
            try:
                read_submission(run.submission, tasks)
            except InputError:
                self._write()

    def resume(self, fingerprints: Collection[str]) -> None:
        """Read the rounds of the run that have one of the ``fingerprints``; delete all others.

        Damaged ones are renamed, with a warning each. Rounds that time cut short vote, but do not
        count as done.
        """
        if not is_rank0():
            return
        for unfinished in self._run.votes.glob(".round_*.tmp"):  # of a process that was killed
            shutil.rmtree(unfinished, ignore_errors=True)
        num_others = 0
        for folder in round_folders(self._run.votes):
            try:
                round_ = read_round(folder)
                if round_.fingerprint in fingerprints:
                    check_tests(round_.predictions, self._tasks, folder)
            except InputError as error:
                aside = folder.with_name(f"{folder.name}.broken")
                with _warns(folder):
                    shutil.rmtree(aside, ignore_errors=True)
                    folder.rename(aside)
                warn(f"{error}; set aside as {aside.name}, its views are predicted again")
                continue
            if round_.fingerprint in fingerprints:
                self._rounds.append(round_)
            else:
                num_others += 1
                with _warns(folder):
                    shutil.rmtree(folder)
        if num_others:
            say(f"predict: {num_others} rounds by other weights or settings dropped")
        if self._rounds:
            views = sum(len(round_.predictions) for round_ in self._rounds)
            say(f"predict: going on from {len(self._rounds)} rounds, {views:,} views")
            start = time.monotonic()
            self._write()
            self.seconds_to_write = time.monotonic() - start

    def num_views_done(self, fingerprint: str, step: int) -> int:
        """Return how many views of every test complete rounds hold."""
        done = 0
        matching = [r for r in self._rounds if (r.fingerprint, r.step) == (fingerprint, step)]
        for round_ in sorted(matching, key=lambda round_: round_.first):
            if round_.complete and round_.first <= done:
                done = max(done, round_.stop)
        return done

    def steps_done(self, fingerprint: str) -> set[int]:
        """Return the steps of test-time training after which there is a complete round."""
        return {r.step for r in self._rounds if r.fingerprint == fingerprint and r.complete}

    def tasks_done(self, fingerprint: str, step: int, num_views: int) -> set[str]:
        """Return the tasks of which complete rounds hold so many views."""
        rounds = (r for r in self._rounds if (r.fingerprint, r.step) == (fingerprint, step))
        large = (r for r in rounds if r.complete and r.first == 0 and r.stop >= num_views)
        return {task_id for round_ in large for task_id in round_.task_ids}

    def add(self, round_: Round) -> None:
        """Keep a round, and write the submission that all votes make now."""
        if not is_rank0():
            return
        start = time.monotonic()
        self._rounds.append(round_)
        with _warns(self._run.votes):
            numbers = [int(path.name.removeprefix("round_")) for path in
                       round_folders(self._run.votes)]  # fmt: skip
            write_round(self._run.votes / f"round_{max(numbers, default=0) + 1:04d}", round_)
        self._write()
        self.seconds_to_write = time.monotonic() - start

    def finish(self) -> None:
        """Write the submission for the last time and log what it scores."""
        if not is_rank0():
            return
        tally, coverage = self._write()
        submission = read_submission(self._run.submission, self._tasks)  # what the file holds
        say(f"{self._run.submission}: {coverage}; {tally.num_empty} empty predictions dropped")
        num_hidden = sum(task.solutions is None for task in self._tasks)
        if num_hidden:
            say(f"no score: the solutions of {num_hidden} of {len(self._tasks)} tasks are hidden")
            return
        say_score(score_submission(submission, self._tasks, tally.candidates), self._tasks)

    def _write(self) -> tuple[Tally, Coverage]:
        """Write the submission that the votes make, and the tasks beside it."""
        rule, pool = RULES[self._settings.ranking], self._settings.pool
        tally = pool_votes(by_step(self._rounds), rule, pool)
        submission, coverage = build_submission(self._tasks, tally.candidates)
        with _warns(self._run.submission):
            write_submission(self._run.submission, submission, self._tasks)
        with _warns(self._run.challenges):
            write_challenges(self._run.challenges, self._tasks)
        with _warns(self._run.solutions):
            if all(task.solutions is not None for task in self._tasks):
                write_solutions(self._run.solutions, self._tasks)
            else:
                self._run.solutions.unlink(missing_ok=True)
        return tally, coverage


@contextmanager
def _warns(path: Path) -> Iterator[None]:
    """Turn errors of the disk into warnings: predictions in memory must survive a full disk."""
    try:
        yield
    except (InputError, OSError) as error:
        warn(f"{path}: stays as it was, all predictions are kept in memory ({error})")
