"""Test-time training of each task apart adds votes, and costs none that are there."""

import json
import re
import shutil

import pytest
from commands import SHORT, call, call_in_processes
from results import predicted_views

import solver.train
from kernels_kaggle.on_kaggle.report import has_votes_apart
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from solver.checkpoint_files import latest_checkpoint
from solver.predict import Predictor
from submission.rounds import read_round, round_folders

APART = [*SHORT, "adapt.per_task_steps=4", "adapt.per_task_batch=4", "predict.ranking=count",
         "predict.early_views=2"]  # fmt: skip


@pytest.fixture
def trained(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    return f"weights={latest_checkpoint(Run.named('a').checkpoints)}"


def rounds_of(name):
    return [read_round(folder) for folder in round_folders(Run.named(name).votes)]


def tasks_apart(name, step=4):
    return sorted(id_ for r in rounds_of(name) if r.step == step for id_ in r.task_ids)


def test_every_task_is_trained_apart_after_the_votes_of_all_together(trained, capsys):
    tasks = within_side(load_source("arc1/training"), 4)
    assert call("predict", "--run-name", "b", changes=[*APART, trained]) == 0
    printed = capsys.readouterr().out
    assert f"adapt: {len(tasks)} tasks, each apart, at most 4 steps of 4" in printed
    done = f"adapt: {len(tasks)} of {len(tasks)} tasks trained apart, .* s, (.*) FLOP"
    (flop,) = re.findall(done, printed)
    assert float(flop) > 0
    assert tasks_apart("b") == sorted(task.task_id for task in tasks)
    views = {step: {r.stop for r in rounds_of("b") if r.step == step} for step in (0, 4)}
    assert views == {0: {1, 2}, 4: {3}}
    # Those that trained apart are other predictions, and they are the ones that count.
    apart = {(p.task_id, p.test, p.view): p.grid for r in rounds_of("b") if r.step == 4
             for p in r.predictions}  # fmt: skip
    together = {(p.task_id, p.test, p.view): p.grid for r in rounds_of("b") if r.step == 0
                for p in r.predictions}  # fmt: skip
    assert together.keys() < apart.keys()
    assert any(grid.tolist() != apart[key].tolist() for key, grid in together.items())


def test_unseen_tasks_train_together_first(trained, capsys):
    unseen = [*APART, trained, "data.predicted=arc1/evaluation", "adapt.num_steps=3"]
    assert call("predict", "--run-name", "b", changes=unseen) == 0
    printed = capsys.readouterr().out
    assert printed.index("at most 3 steps") < printed.index("each apart, at most 4 steps of 4")
    assert tasks_apart("b", step=3 + 4)
    assert has_votes_apart(Run.named("b"))


def test_it_goes_on_with_the_tasks_that_have_no_votes_yet(trained, capsys):
    assert call("predict", "--run-name", "b", changes=[*APART, trained]) == 0
    expected = predicted_views(Run.named("b"))
    newest = round_folders(Run.named("b").votes)[-1]
    description = json.loads((newest / "round.json").read_text())
    assert description["step"] == 4
    shutil.rmtree(newest)
    capsys.readouterr()
    assert call("predict", "--run-name", "b", changes=[*APART, trained]) == 0
    assert "tasks, each apart" in capsys.readouterr().out
    assert predicted_views(Run.named("b")) == expected
    assert call("predict", "--run-name", "b", changes=[*APART, trained]) == 0
    assert "each apart" not in capsys.readouterr().out


def test_other_settings_of_it_leave_what_was_learned_together(trained, capsys):
    unseen = [*APART, trained, "data.predicted=arc1/evaluation"]
    assert call("predict", "--run-name", "b", changes=unseen) == 0
    capsys.readouterr()
    assert call("predict", "--run-name", "b", changes=[*unseen, "adapt.per_task_lr=1e-4"]) == 0
    printed = capsys.readouterr().out
    assert "going on from runs/b/adapted" in printed
    assert "2 rounds by other weights or settings dropped" in printed


def test_two_processes_share_the_tasks_and_predict_the_same(trained):
    assert call("predict", "--run-name", "one", changes=[*APART, trained]) == 0
    # A line of progress at every task: nothing that only rank 0 does may wait for the other.
    changes = [*APART, trained, "log.every_seconds=0"]
    call_in_processes(2, "predict", "--run-name", "two", changes=changes)
    assert predicted_views(Run.named("one")) == predicted_views(Run.named("two"))
    one, two = (Run.named(name).submission.read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_task_whose_numbers_leave_their_range_has_all_votes_of_what_it_learned_before(
    trained, monkeypatch, capsys
):
    def fail(training, group):
        raise FloatingPointError("planted")

    monkeypatch.setattr(solver.train, "require_finite", fail)
    assert call("predict", "--run-name", "b", changes=[*APART, trained]) == 0
    printed = capsys.readouterr().out
    assert "apart: planted; it keeps its earlier votes" in printed
    assert "adapt: 0 of " in printed
    assert not tasks_apart("b")
    assert not has_votes_apart(Run.named("b"))
    assert {r.stop for r in rounds_of("b")} == {1, 2, 3}


def test_a_limit_of_training_alone_is_enough_to_plan_by(trained):
    limit = ["adapt.time_limit_seconds=1e6", "predict.early_views=0"]
    assert call("predict", "--run-name", "b", changes=[*APART, trained, *limit]) == 0
    assert tasks_apart("b") == [t.task_id for t in within_side(load_source("arc1/training"), 4)]


class SlowClock:
    """A clock on which a step and a view in a round take a second each, and all else none."""

    def __init__(self):
        self.now = 0.0
        self.steps = []
        """How many each task took."""


@pytest.fixture
def clock(monkeypatch):
    clock, train_step = SlowClock(), solver.train.train_step
    monkeypatch.setattr("pipeline.deadline._age_of_job", lambda: 0.0)
    monkeypatch.setattr("pipeline.deadline.Watchdog.__enter__", lambda self: None)
    monkeypatch.setattr("pipeline.deadline.time.monotonic", lambda: clock.now)

    class SlowPredictor(Predictor):
        def submit(self, chunk):
            clock.now += len(chunk.members)
            return super().submit(chunk)

    def slow_step(training, *arguments):
        clock.now += 1.0
        if training.step == 0:
            clock.steps.append(0)
        clock.steps[-1] += 1
        train_step(training, *arguments)

    monkeypatch.setattr("pipeline.prediction_rounds.Predictor", SlowPredictor)
    monkeypatch.setattr(solver.train, "train_step", slow_step)
    return clock


def test_time_is_shared_among_the_tasks_that_are_left(trained, clock):
    tasks = within_side(load_source("arc1/training"), 4)
    limit = 30.0 * len(tasks)
    changes = [*APART, trained, "adapt.per_task_steps=1000",
               f"predict.time_limit_seconds={limit}"]  # fmt: skip
    assert call("predict", "--run-name", "b", changes=changes) == 0
    assert 0.8 * limit < clock.now <= limit
    assert len(clock.steps) == len(tasks)
    assert sum(clock.steps) > 0.6 * limit
    assert min(clock.steps) > 5


def test_a_later_call_has_the_time_of_the_tasks_that_are_left(trained, clock):
    tasks = within_side(load_source("arc1/training"), 4)
    limit = 30.0 * len(tasks)
    changes = [*APART, trained, "adapt.per_task_steps=1000", "adapt.per_task_share=1",
               f"adapt.time_limit_seconds={limit}"]  # fmt: skip
    assert call("predict", "--run-name", "b", changes=changes) == 0
    assert sum(clock.steps) > 0.9 * limit
    apart = [f for f in round_folders(Run.named("b").votes) if read_round(f).step == 1000]
    share = len(read_round(apart[0]).task_ids) / len(tasks)  # those of the smallest tasks
    assert share < 0.5
    shutil.rmtree(apart[0])
    clock.steps.clear()
    assert call("predict", "--run-name", "b", changes=changes) == 0
    assert 0.5 * share * limit < sum(clock.steps) < share * limit
