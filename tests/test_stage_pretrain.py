"""The stage pretrain: it stops at a limit, goes on, and never under other settings."""

from itertools import count

import numpy as np
import pytest
import torch
from commands import SHORT, call

from pipeline.deadline import Deadline
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.stages.pretrain import pretrain
from pipeline.training_log import read_metrics
from solver.checkpoint_files import checkpoint_step, latest_checkpoint
from solver.weights import load_weights


def test_a_time_limit_stops_a_run_that_can_go_on(run_here, capsys):
    changes = [*SHORT, "train.time_limit_seconds=0.000001"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert "step 1 of 6" in capsys.readouterr().out
    assert call("pretrain", "--run-name", "a") == 0
    assert "going on from" in capsys.readouterr().out


def test_a_run_that_ends_with_its_time_lets_the_rates_fall(run_here):
    changes = [*SHORT, "train.num_steps=1000000", "train.ends_in_seconds=3", "train.schedule=wsd"]
    assert call("pretrain", "--run-name", "a", changes=[*changes, "train.log_every=1"]) == 0
    run = Run.named("a")
    lines = list(read_metrics(run.metrics_of("pretrain")))
    assert len(lines) == checkpoint_step(latest_checkpoint(run.checkpoints)) < 1_000_000
    assert lines[-1]["lr"] < 0.5 * max(line["lr"] for line in lines)


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


def test_training_starts_from_the_weights_of_another_run(run_here, capsys):
    """Trunk and rows are taken over; what they were trained on is remembered."""
    others = ["data.trained=arc1/training", "data.predicted=", "train.num_steps=4"]
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, *others]) == 0
    start = latest_checkpoint(Run.named("a").checkpoints)
    settings = [*SHORT, *others, "data.seed=3", f"train.start_from={start}"]
    begins = [*settings, "train.num_steps=1", "train.lr=1e-9", "train.rows_lr=0"]
    begins += ["train.rows_weight_decay=0", "train.weight_decay=0"]
    assert call("pretrain", "--run-name", "b", changes=begins) == 0
    before, after = load_weights(start), load_weights(latest_checkpoint(Run.named("b").checkpoints))
    for name, tensor in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], tensor, atol=1e-6, rtol=0)
    trained = np.flatnonzero(before.table.is_trained(np.arange(before.index.num_rows)))
    assert len(trained) > 3
    assert torch.equal(after.table.look_up(trained), before.table.look_up(trained))
    assert f"from {start}" in capsys.readouterr().out
    # A run goes on only from the weights it began with.
    assert call("pretrain", "--run-name", "b", changes=[*begins, "train.start_from="]) == 2
    assert "train.start_from was" in capsys.readouterr().err
    # What the first run was trained on is no test for what starts from it.
    leaking = [*SHORT, f"train.start_from={start}"]
    assert call("pretrain", "--run-name", "c", changes=leaking) == 2
    assert "trained on the solutions of" in capsys.readouterr().err
    only_demonstrations = ["data.trained=", "data.predicted=arc1/training"]
    assert call("pretrain", "--run-name", "d", changes=SHORT) == 0
    hidden = latest_checkpoint(Run.named("d").checkpoints)
    settings = [*SHORT, *only_demonstrations, f"train.start_from={hidden}"]
    assert call("pretrain", "--run-name", "e", changes=settings) == 0
