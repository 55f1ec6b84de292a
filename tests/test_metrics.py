"""Where the metrics of training go."""

import json
import sys
from types import ModuleType

import pytest
from commands import SHORT, call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.metrics import read_metrics
from pipeline.runs import Run


def scalars(folder):
    found = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
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
    found = scalars(run.folder / "tensorboard" / "pretrain")
    assert found.keys() == lines[0].keys() - {"step"}
    expected = [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert found["loss"] == expected
    assert [step for step, _ in found["lr"]] == [2, 4, 6, 8]


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


def refuse(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_takes_no_metrics_costs_no_training(run_here, capsys, monkeypatch):
    run = Run.named("a")
    run.folder.mkdir(parents=True)
    run.metrics_of("pretrain").symlink_to("nowhere/metrics.jsonl")
    assert call("pretrain", "--run-name", "a") == 0
    assert capsys.readouterr().out.count("and later ones are not written") == 1
    run.metrics_of("pretrain").unlink()
    for steps in ("8", "10"):
        run.metrics_of("pretrain").touch()
        changes = [*SHORT, f"train.num_steps={steps}"]
        assert call("pretrain", "--run-name", "a", changes=changes) == 0
        monkeypatch.setattr("pipeline.metrics.write_atomic", refuse)
    assert "metrics.jsonl: no metrics are written (" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(run.metrics_of("pretrain"))] == [8]


@pytest.mark.parametrize("setting", ["log.tensorboard=true", "log.wandb=project"])
def test_a_package_that_is_not_here_is_named(run_here, capsys, monkeypatch, setting):
    monkeypatch.setattr("pipeline.metrics.find_spec", lambda package: None)
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, setting]) == 2
    assert refusal(setting) in capsys.readouterr().err


def refusal(setting):
    package = setting.removeprefix("log.").partition("=")[0]
    return f"{setting}: the package {package} is not here; pip install {package}"


class FakeRun:
    """What ``wandb.init`` returns."""

    def __init__(self):
        self.logged, self.is_finished = [], False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_finished = True

    def log(self, values, step):
        self.logged.append({"step": step, **values})


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """A stand-in for the package, which is not installed here."""
    module = ModuleType("wandb")
    module.errors = ModuleType("wandb.errors")
    module.errors.Error = type("Error", (Exception,), {})
    module.Settings = dict
    module.asked, module.run = [], FakeRun()

    def init(**options):
        module.asked.append(options)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr("pipeline.metrics.find_spec", lambda package: package)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return module


def test_weights_and_biases_is_never_asked_for_credentials(run_here, wandb, monkeypatch, tmp_path):
    asked = [*SHORT, "log.wandb=project"]
    assert call("pretrain", "--run-name", "a", changes=asked) == 0
    assert wandb.run.is_finished
    lines = [json.loads(json.dumps(line)) for line in wandb.run.logged]
    assert lines == read_metrics(Run.named("a").metrics_of("pretrain"))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert call("pretrain", "--run-name", "b", changes=asked) == 0
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert call("pretrain", "--run-name", "c", changes=asked) == 0
    assert [one["mode"] for one in wandb.asked] == ["offline", "online", "online"]
    assert {one["project"] for one in wandb.asked} == {"project"}
    assert "secret" not in str(wandb.asked)


def test_weights_and_biases_out_of_reach_costs_no_training(run_here, wandb, monkeypatch, capsys):
    def fail(**_):
        raise wandb.errors.Error("no network")

    monkeypatch.setattr(wandb, "init", fail)
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "log.wandb=project"]) == 0
    assert "log.wandb=project: no network; going on without" in capsys.readouterr().out
