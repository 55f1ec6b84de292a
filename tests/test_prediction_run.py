"""A prediction run trains no longer than it may, and `prediction_rounds` fill what is left."""

import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
from commands import SHORT, call
from results import predicted_views

from pipeline.prediction_run import PredictionRun
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from solver.checkpoint_files import latest_checkpoint
from solver.predict import Predictor
from solver.process_group import ProcessGroup


def test_a_limit_that_is_far_away_changes_nothing(run_here, monkeypatch):
    monkeypatch.setattr("pipeline.deadline._age_of_job", lambda: 0.0)
    assert call("pretrain", "--run-name", "a") == 0
    weights = f"weights={latest_checkpoint(Run.named('a').checkpoints)}"
    for name, limit in (("b", 0), ("c", 1e6)):
        changes = [*SHORT, weights, "predict.num_views=7", f"predict.time_limit_seconds={limit}"]
        assert call("predict", "--run-name", name, changes=changes) == 0
    assert predicted_views(Run.named("b")) == predicted_views(Run.named("c"))
    assert Run.named("b").submission.read_bytes() == Run.named("c").submission.read_bytes()


def test_a_limit_is_filled_as_far_as_measured_speed_allows(run_here, monkeypatch):
    """On a clock on which every view takes a second, and calls that do no work none."""
    assert call("pretrain", "--run-name", "a") == 0
    now = 0.0
    monkeypatch.setattr("pipeline.deadline._age_of_job", lambda: 0.0)
    monkeypatch.setattr("pipeline.deadline.Watchdog.__enter__", lambda self: None)
    monkeypatch.setattr("pipeline.deadline.time.monotonic", lambda: now)

    class SlowPredictor(Predictor):
        def submit(self, group):
            nonlocal now
            now += len(group.members)
            return super().submit(group)

    monkeypatch.setattr("pipeline.prediction_rounds.Predictor", SlowPredictor)
    tests = sum(len(t.test_inputs) for t in within_side(load_source("arc1/training"), 4))
    limit = 6.5 * tests
    changes = [*SHORT, "predict.num_views=7", f"predict.time_limit_seconds={limit}"]
    changes.append("predict.ranking=count")
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert 0.6 * limit < now < limit
    views = Counter(view for _, _, view in predicted_views(Run.named("a")))
    assert len(views) > 1
    assert set(views.values()) == {tests}


def test_training_that_is_taken_up_under_a_limit_leaves_time_for_views(run_here, monkeypatch):
    monkeypatch.setattr("pipeline.deadline._age_of_job", lambda: 0.0)
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.adapt=all"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    expected = predicted_views(Run.named("a"))
    shutil.rmtree(Run.named("a").votes)
    changes.append("predict.time_limit_seconds=1e6")
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert predicted_views(Run.named("a")) == expected


def plan_leg(recipe, group, seconds, begin, until, tasks, views):
    """The leg of a run with so many seconds, in which all views take `views`."""
    engine = SimpleNamespace(group=group)
    rounds = SimpleNamespace(
        seconds_left=lambda: seconds, flop_per_second=1.0, engine=engine, deadline=None
    )
    planned = SimpleNamespace(tasks=range(tasks), flop=lambda first, stop: views)
    training_run = SimpleNamespace(training=SimpleNamespace(progress=begin))
    run = PredictionRun(load_recipe(recipe, []), Run.named("a"), rounds)
    return run._plan_leg(training_run, until, [planned], late=0.0)


def test_training_taken_up_in_its_second_half_has_all_the_time_that_views_leave():
    legs = [plan_leg("demo", ProcessGroup(), 1000.0, 0.7, until, 3, 100.0) for until in (0.5, 1.0)]
    assert [leg.seconds for leg in legs] == [0.0, pytest.approx(1000 - 1.1 * 100)]


@pytest.mark.parametrize(
    ("num_processes", "num_tasks", "together"),
    [(1, 8, 5000), (4, 8, 9500), (4, 9, 9250), (4, 400, 5000)],
)
def test_training_together_has_the_time_that_training_apart_cannot_use(
    monkeypatch, num_processes, num_tasks, together
):
    """Of 10,000 seconds half is meant for training apart; 250 for each task of several at once."""
    monkeypatch.setattr(ProcessGroup, "min", lambda self, value: value)
    group = ProcessGroup(0, num_processes)
    assert plan_leg("arc1-unseen", group, 10_000.0, 0.0, 1.0, num_tasks, 0.0).seconds == together
