"""Training mends numbers that leave their range, and is refused where it does not fit."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SHORT, call
from conftest import rewrite_description
from safetensors.torch import load_file, save_file

import solver.predict
import solver.train
from pipeline.run import Run
from solver.checkpoint import CheckpointWriter
from solver.checkpoint_files import checkpoint_step, latest_checkpoint
from submission.rounds import read_votes

LONGER = [*SHORT, "train.num_steps=8", "checkpoint.every=2"]


def test_it_goes_back_to_the_newest_checkpoint_at_half_the_rates(run_here, capsys, monkeypatch):
    step, rates = solver.train.train_step, []

    def break_once(training, batch, settings, engine):
        step(training, batch, settings, engine)
        rates.append((settings.lr, settings.rows_lr))
        if training.step == 5 and len(rates) == 5:
            training.model.token_embedding.data.fill_(math.nan)

    monkeypatch.setattr("solver.train.train_step", break_once)
    assert call("pretrain", "--run-name", "a", changes=LONGER) == 0
    printed = capsys.readouterr().out
    assert "not finite at step 6; on from step 4 at half the learning rates" in printed
    assert "memory: 0." in printed
    assert checkpoint_step(latest_checkpoint(Run.named("a").checkpoints)) == 8
    assert rates[-1] == pytest.approx((rates[0][0] / 2, rates[0][1] / 2))
    # The same command finds nothing left to do: the run is still that of its settings.
    assert call("pretrain", "--run-name", "a", changes=LONGER) == 0


def test_it_gives_up_in_one_line_when_smaller_rates_do_not_help(run_here, capsys):
    changes = [*LONGER, "train.lr=1e9", "train.rows_lr=1e9"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 2
    printed = capsys.readouterr()
    assert printed.out.count("at half the learning rates") == 3
    assert "not finite at step" in printed.err.splitlines()[-1]


def test_a_batch_that_does_not_fit_is_refused_before_it_starts(run_here, capsys):
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "engine.memory_gb=0.001"]) == 2
    assert "error: memory: 0." in capsys.readouterr().err
    assert latest_checkpoint(Run.named("a").checkpoints) is None


def test_training_that_always_diverges_leaves_the_weights_as_they_were(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [
        *SHORT, "data.predicted=arc1/evaluation", "adapt.lr=1e9", "adapt.rows_lr=1e9",
        "weights=runs/a/checkpoints/step_000000006",
    ]  # fmt: skip
    assert call("predict", "--run-name", "b", changes=changes) == 0
    printed = capsys.readouterr().out
    assert printed.count("at half the learning rates") == 3
    assert (
        "given up after 0 steps, which predict: the loss or the weights are not finite" in printed
    )
    assert re.search(r"model (\d+) of \1, fallback 0", printed)
    assert set(read_votes(Run.named("b").votes)) == {0}


def test_training_that_diverges_goes_on_with_smaller_rates(run_here, capsys, monkeypatch):
    """From the last whole state; and what came out of range once needs not do so again."""
    assert call("pretrain", "--run-name", "a") == 0
    step, broken = solver.train.train_step, []

    def break_once(training, batch, settings, engine):
        step(training, batch, settings, engine)
        if training.step == 5 and not broken:
            broken.append(settings.lr)
            training.model.token_embedding.data.fill_(math.nan)

    monkeypatch.setattr("solver.train.train_step", break_once)
    changes = [*SHORT, "predict.adapt=all", "adapt.num_steps=8", "checkpoint.every=2"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    printed = capsys.readouterr().out
    assert "not finite at step 6; on from step 4 at half the learning rates" in printed
    assert set(read_votes(Run.named("a").votes)) == {0, 4, 8}


def test_pretraining_survives_a_disk_that_is_full_for_a_while(run_here, capsys, monkeypatch):
    save = CheckpointWriter.save

    def save_but_steps_up_to(last):
        def refuse(self, training, settings):
            if training.step <= last:
                raise OSError(28, "No space left on device")
            save(self, training, settings)

        monkeypatch.setattr(CheckpointWriter, "save", refuse)

    save_but_steps_up_to(4)
    assert call("pretrain", "--run-name", "a", changes=LONGER) == 0
    assert capsys.readouterr().out.count("could not be kept") == 2
    assert checkpoint_step(latest_checkpoint(Run.named("a").checkpoints)) == 8
    save_but_steps_up_to(8)  # for good: what was learned is lost, which is no success
    assert call("pretrain", "--run-name", "b", changes=LONGER) == 2
    assert "step 8 could not be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "file", "name", "read"),
    [
        ("pretrain", "training", "trunk.token_embedding", "going on from runs/a/checkpoints/"),
        ("predict", "weights", "token_embedding", "with runs/a/checkpoints/step_000000004, step 4"),
    ],
)
def test_a_checkpoint_that_is_consistent_but_wrong_is_set_aside(
    run_here, capsys, stage, file, name, read
):
    assert call("pretrain", "--run-name", "a") == 0
    newest = latest_checkpoint(Run.named("a").checkpoints)
    path = newest / f"{file}.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name] * math.nan}, path)
    rewrite_description(newest / "checkpoint.json")
    capsys.readouterr()
    assert call(stage, "--run-name", "a") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{name} has a number that is not finite; set aside as {newest.name}.broken" in printed
    assert read in printed


def test_pretraining_goes_on_after_a_worker_was_killed(run_here):
    changes = [*SHORT, "train.num_steps=150", "checkpoint.every=10"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "2"]
    arguments = ["--nproc-per-node", "2", "-m", "pipeline", "pretrain", "--run-name", "a"]
    process = subprocess.Popen(
        [sys.executable, *launch, *arguments, "--set", " ".join(changes)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    checkpoints = Run.named("a").checkpoints
    while process.poll() is None and latest_checkpoint(checkpoints) is None:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    assert "going on from runs/a/checkpoints/step_" in printed
    assert checkpoint_step(latest_checkpoint(checkpoints)) == 150
