"""The stage predict: from tasks and weights to a submission, under a deadline."""

from contextlib import ExitStack, suppress
from dataclasses import asdict, replace

from pipeline.console import is_rank0, say, say_anywhere, warn
from pipeline.deadline import Deadline, Watchdog, seconds_to_work
from pipeline.inputs import (
    choose_predicted_tasks,
    choose_weights,
    say_given_away_tests,
    split_tasks,
)
from pipeline.page import write_page
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.vote_store import VoteStore

# Seconds to read the tasks and write a first submission, which is worth more than a short limit;
# a disk or a network that hangs is not.
_LEAST_SECONDS_TO_READ = 30.0
# Seconds kept for the page, which 400 tasks of 128 views do not need; then the watchdog ends it.
_SECONDS_FOR_PAGE = 5.0
_LEAST_SECONDS_FOR_PAGE = 2.0
_SHARE_FOR_PAGE = 0.05  # of the time there is, at most


def predict(settings: Settings, run: Run) -> None:
    """Predict the tasks of ``settings``: train on unseen ones, predict views, vote, write.

    Goes on from what an earlier, interrupted call with the same settings left in the run.
    """
    limits = settings.predict.time_limit_seconds, settings.predict.deadline
    deadline = Deadline(seconds_to_work(*limits))
    to_read = Deadline(max(deadline.seconds_left, _LEAST_SECONDS_TO_READ))
    with ExitStack() as stack:
        with Watchdog(to_read, has_result=False):
            tasks = choose_predicted_tasks(settings)
            stack.enter_context(run.lock())
            # There is a valid submission before torch is imported, which takes seconds.
            votes = VoteStore(tasks, run, settings.predict)
        if is_rank0():
            with suppress(OSError):
                run.report.unlink()  # of earlier predictions
        stack.enter_context(deadline)
        stack.enter_context(Watchdog(deadline))

        from pipeline.prediction_rounds import PredictionRounds
        from pipeline.prediction_run import PredictionRun
        from solver.engine import open_engine
        from solver.process_group import leave_process_group

        engine = open_engine(settings.engine, say_anywhere)
        deadline.shorten(engine.group.min(deadline.seconds_left))
        weights = choose_weights(settings, run, tasks, engine)
        if is_rank0():
            # The architecture is that of the checkpoint, whatever the recipe says.
            run.record("predict", asdict(replace(settings, model=weights.model.settings)))
        say(f"predict: {len(tasks)} tasks with {weights.source}, {engine.describe()}")
        say_given_away_tests(tasks)
        ready, to_adapt = split_tasks(tasks, weights, settings)
        has_page = all(task.solutions is not None for task in tasks)
        has_time = deadline.seconds_left * _SHARE_FOR_PAGE > _SECONDS_FOR_PAGE
        reserved = _SECONDS_FOR_PAGE if has_page and has_time else 0.0
        rounds = PredictionRounds(settings, engine, deadline, votes, reserved)
        PredictionRun(settings, run, rounds).predict(ready, to_adapt, weights)
        votes.finish()
        engine.group.barrier()
        leave_process_group()
        if is_rank0() and not deadline.has_signal and run.solutions.exists():
            _try_to_write_page(run, deadline)
    if deadline.has_signal:
        warn("predict: stopped; the same command goes on from here")
        raise KeyboardInterrupt


def _try_to_write_page(run: Run, deadline: Deadline) -> None:
    """Write the page of the run if there is time; never fail, as the submission is there."""
    if deadline.seconds_left < _LEAST_SECONDS_FOR_PAGE:
        say(f"no page, as the time is over: make report RUN={run.folder.name}")
        return
    try:
        write_page(run)
    except Exception as error:
        warn(f"no page: {error!r}")
