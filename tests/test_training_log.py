"""Metrics of training in a file, TensorBoard and Weights & Biases."""

import json
import sys
from types import ModuleType

import pytest
from commands import SHORT, call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from augment.errors import InputError
from pipeline.run import Run
from pipeline.training_log import read_metrics


def test_a_stopped_run_writes_the_metrics_of_an_unstopped_one(run_here):
    assert call("pretrain", "--run-name", "whole") == 0
    assert call("pretrain", "--run-name", "parts", changes=[*SHORT, "train.num_steps=3"]) == 0
    metrics = run_here / "runs" / "parts" / "metrics.jsonl"
    # What a run killed after its last checkpoint leaves behind is written again.
    metrics.write_text(metrics.read_text() + '{"step": 4, "loss": 0}\n{"step": 6, "lo')
    assert call("pretrain", "--run-name", "parts") == 0
    whole, parts = (
        [
            {k: v for k, v in json.loads(line).items() if k != "examples_per_second"}
            for line in (run_here / "runs" / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    assert parts == whole


def scalars(folder):
    written = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in written.Scalars(name)]
        for name in written.Tags()["scalars"]
    }


def test_tensorboard_shows_what_the_file_says_and_forgets_what_is_done_again(run_here):
    changes = [*SHORT, "log.tensorboard=true", "train.num_steps=8"]
    run = Run.named("a")
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    for step in (8, 6):  # as if killed before its checkpoint
        for folder in run.checkpoints.glob(f"step_*{step}"):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    lines = read_metrics(run.metrics_of("pretrain"))
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    written = scalars(run.folder / "tensorboard" / "pretrain")
    assert written.keys() == lines[0].keys() - {"step"}
    expected = [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert written["loss"] == expected
    assert [step for step, _ in written["lr"]] == [2, 4, 6, 8]


def test_test_time_training_is_measured_too(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.adapt=all", "adapt.num_steps=6", "adapt.log_every=1"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    lines = read_metrics(Run.named("a").metrics_of("adapt"))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["lr"] >= 0 for line in lines)


def test_the_learning_rate_is_that_of_the_schedule(run_here):
    changes = [*SHORT, "train.schedule=wsd", "train.warmup_steps=2", "train.log_every=1"]
    assert call("pretrain", "--run-name", "a", changes=[*changes, "train.num_steps=10"]) == 0
    rates = [line["lr"] for line in read_metrics(Run.named("a").metrics_of("pretrain"))]
    assert max(rates) == rates[1]
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates[5:], reverse=True) == rates[5:]


def test_damaged_metrics_are_set_aside_and_training_goes_on(run_here, capsys):
    run = Run.named("a")
    assert call("pretrain", "--run-name", "a") == 0
    path = run.metrics_of("pretrain")
    path.write_text("x\n")
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "train.num_steps=8"]) == 0
    assert "set aside as metrics.jsonl.broken" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(path)] == [8]


@pytest.mark.parametrize("name", ["step", "loss", "flop"])
def test_whole_numbers_that_cannot_be_written_are_of_no_run(tmp_path, name):
    """The page of a run, which is made of them, could not be written either."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, name: -(10**30)}) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 1 is not of the metrics of a run"):
        read_metrics(path)


def refuse(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_disk_that_takes_no_metrics_costs_no_training(run_here, capsys, monkeypatch):
    run = Run.named("a")
    run.folder.mkdir(parents=True)
    run.metrics_of("pretrain").symlink_to("nowhere/metrics.jsonl")
    assert call("pretrain", "--run-name", "a") == 0
    assert capsys.readouterr().out.count("training goes on without these") == 1
    run.metrics_of("pretrain").unlink()
    for steps in ("8", "10"):
        run.metrics_of("pretrain").touch()
        changes = [*SHORT, f"train.num_steps={steps}"]
        assert call("pretrain", "--run-name", "a", changes=changes) == 0
        monkeypatch.setattr("pipeline.training_log.write_atomic", refuse)
    assert capsys.readouterr().out.count("training goes on without these") == 1
    assert [line["step"] for line in read_metrics(run.metrics_of("pretrain"))] == [8]


def test_tensorboard_that_fails_costs_no_training(run_here, capsys, monkeypatch):
    changes = [*SHORT, "log.tensorboard=true"]
    (run_here / "runs" / "a").mkdir(parents=True)
    (run_here / "runs" / "a" / "tensorboard").write_text("")
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert "NotADirectoryError" in capsys.readouterr().out
    for method in ("add_scalar", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(f"torch.utils.tensorboard.SummaryWriter.{method}", refuse)
            assert call("pretrain", "--run-name", method, changes=changes) == 0
        assert capsys.readouterr().out.count("training goes on without these") == 1
        assert len(read_metrics(Run.named(method).metrics_of("pretrain"))) == 3


@pytest.mark.parametrize(("setting", "value"), [("tensorboard", "true"), ("wandb", "project")])
@pytest.mark.parametrize("stage", ["pretrain", "predict"])
def test_a_package_that_is_not_here_is_named_before_any_work(
    run_here, capsys, monkeypatch, stage, setting, value
):
    monkeypatch.setattr("pipeline.training_log.find_spec", lambda package: None)
    changes = [*SHORT, f"log.{setting}={value}"]
    assert call(stage, "--run-name", "a", changes=changes) == 2
    reason = f"log.{setting}: the package {setting} is not installed; pip install {setting}"
    assert capsys.readouterr() == ("", f"error: {reason}\n")
    assert not (run_here / "runs").exists()


class FakeRun:
    """What ``wandb.init`` returns."""

    def __init__(self):
        self.logged, self.is_finished = [], False

    def finish(self):
        self.is_finished = True

    def log(self, values, step):
        self.logged.append({"step": step, **values})


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which the tests do not install."""
    module = ModuleType("wandb")
    module.Settings = dict
    module.logged_runs, module.run = [], FakeRun()

    def init(**options):
        module.logged_runs.append(options)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("pipeline.training_log.find_spec", lambda package: package)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_weights_and_biases_is_never_asked_for_credentials(run_here, wandb, monkeypatch):
    changes = [*SHORT, "log.wandb=project"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert wandb.run.is_finished
    assert wandb.run.logged == read_metrics(Run.named("a").metrics_of("pretrain"))
    monkeypatch.setenv("WANDB_MODE", "online")
    assert call("pretrain", "--run-name", "b", changes=changes) == 0
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert call("pretrain", "--run-name", "c", changes=changes) == 0
    monkeypatch.delenv("WANDB_MODE")
    assert call("pretrain", "--run-name", "d", changes=changes) == 0
    assert [options["mode"] for options in wandb.logged_runs] == [
        "offline",
        "offline",
        "online",
        "offline",
    ]
    assert {options["project"] for options in wandb.logged_runs} == {"project"}
    assert "secret" not in str(wandb.logged_runs)


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_weights_and_biases_that_fails_costs_no_training(
    run_here, wandb, monkeypatch, capsys, what
):
    monkeypatch.setattr(wandb if what == "init" else wandb.run, what, refuse)
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "log.wandb=project"]) == 0
    assert capsys.readouterr().out.count("training goes on without these") == 1
    assert len(read_metrics(Run.named("a").metrics_of("pretrain"))) == 3
