"""The stage pretrain: it stops at a limit, goes on, and never under other settings."""

from itertools import count

import pytest
from commands import SHORT, call

from pipeline.deadline import Deadline
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.stages.pretrain import pretrain
from solver.checkpoint_files import checkpoint_step, latest_checkpoint


def test_a_time_limit_stops_a_run_that_can_go_on(run_here, capsys):
    changes = [*SHORT, "train.time_limit_seconds=0.000001"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert "step 1 of 6" in capsys.readouterr().out
    assert call("pretrain", "--run-name", "a") == 0
    assert "going on from" in capsys.readouterr().out


def test_a_changed_setting_does_not_go_on_silently(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "train.lr=0.5"]) == 2
    error = capsys.readouterr().err
    assert "train.lr was 0.001, now 0.5" in error
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "data.seed=9"]) == 2
    assert "data.seed was 0, now 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("schedule", "stopped", "allowed"),
    [("constant", 4, True), ("wsd", 2, True), ("wsd", 4, False)],
)
def test_a_run_is_made_longer_only_while_its_rate_goes_on(
    run_here, capsys, monkeypatch, schedule, stopped, allowed
):
    changes = [*SHORT, f"train.schedule={schedule}", "train.decay_share=0.5", "checkpoint.every=2"]
    changes += ["train.warmup_steps=0"]
    settings = load_recipe("demo", [*changes, "train.num_steps=4"])
    run = Run.named("a")
    with monkeypatch.context() as patch:
        steps = count()
        patch.setattr(Deadline, "is_over", property(lambda self: next(steps) == stopped))
        pretrain(settings, run)
    assert latest_step(run) == stopped
    code = call("pretrain", "--run-name", "a", changes=[*changes, "train.num_steps=8"])
    assert code == (0 if allowed else 2)
    if not allowed:
        assert "train.rate_of_next_step was" in capsys.readouterr().err
    assert latest_step(run) == (8 if allowed else stopped)


def latest_step(run):
    latest = latest_checkpoint(run.checkpoints)
    return latest and checkpoint_step(latest)
