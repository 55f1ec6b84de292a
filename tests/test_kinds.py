"""Every kind of model has its published size, and trains, resumes, predicts and is exported."""

from dataclasses import asdict, replace

import pytest
import torch
from answering import as_lists, plan_of
from commands import SHORT, call
from conftest import KINDS, SHORT_TRAINING, SMALL_MODEL, rewrite_description
from passes import fit
from sessions import Session, everything

from augment.errors import InputError
from solver.adapt import start_adaptation
from solver.checkpoint_files import latest_checkpoint
from solver.kinds import outline
from solver.predict import predict
from solver.settings import AdaptSettings, ModelSettings
from solver.weights import export_weights, load_weights

HRM = ModelSettings(kind="hrm", num_layers=4, num_cycles=2, num_latent_steps=2, prefix_length=1)
TRANSFORMER = ModelSettings(
    kind="transformer", num_layers=8, num_heads=12, num_cycles=1, num_latent_steps=1,
    prefix_length=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        (ModelSettings(), 6.8),
        (ModelSettings(variant="mlp", canvas_side=9), 5.0),
        (ModelSettings(variant="mlp"), 18.8),
        (HRM, 27.3),
        (TRANSFORMER, 27.1),
    ],
)
def test_published_sizes(settings, millions):
    model = outline(settings)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [{}, {"variant": "mlp"}, {"convolution": True}])
def test_the_parameters_of_the_layers_are_counted(kind, change):
    settings = replace(KINDS[kind], **change)
    model = outline(settings)
    networks = [getattr(model, name) for name in model.NETWORKS]
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert settings.num_parameters == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["attention", "mlp"])
def test_the_loss_falls(small_dataset, engine, kind, variant):
    model = replace(KINDS[kind], variant=variant)
    settings = replace(SHORT_TRAINING, num_steps=24, lr=3e-3, log_every=6)
    _, reported = fit(small_dataset, settings, engine, model)
    losses = [metrics.values["loss"] for metrics in reported]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", ["hrm", "transformer"])
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_stopped_at_any_step_goes_on_as_if_it_never_stopped(
    small_dataset, engine, tmp_path, kind, stop_after
):
    """As a run of TRM does: tests/test_checkpoint.py."""
    how = replace(KINDS[kind], canvas="box"), replace(SHORT_TRAINING, optimizer="normuon")
    whole = Session(tmp_path / "whole", small_dataset, engine, *how).train()
    Session(tmp_path / "parts", small_dataset, engine, *how).train(stop_after)
    second = Session(tmp_path / "parts", small_dataset, engine, *how)
    second.restore()
    second.train()
    for ours, theirs in zip(everything(second), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exported_adapted_and_predict(
    small_tasks, small_dataset, engine, tmp_path, kind
):
    session = Session(tmp_path / "run", small_dataset, engine, KINDS[kind]).train()
    saved = load_weights(latest_checkpoint(tmp_path / "run"))
    assert saved.model.settings == KINDS[kind]
    plan = plan_of(saved, small_tasks, 2)
    expected = as_lists(predict(saved, plan, engine))
    assert {task_id for task_id, *_ in expected} == {task.task_id for task in small_tasks}
    export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "float32")
    exported = load_weights(tmp_path / "float32")
    assert as_lists(predict(exported, plan, engine)) == expected
    export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "int8", "int8")
    rounded = load_weights(tmp_path / "int8").model.state_dict()
    for name, tensor in exported.model.state_dict().items():
        torch.testing.assert_close(rounded[name], tensor, rtol=0.01, atol=0.02)
    adapted = start_adaptation(saved, small_dataset, AdaptSettings(global_batch=4), engine)
    assert type(adapted.model) is type(session.training.model)
    stopping = as_lists(predict(saved, plan, engine, stop_when_halted=True))
    assert len(stopping) == len(expected)


def test_weights_are_of_the_kind_that_they_name(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).train(1)
    path = latest_checkpoint(tmp_path) / "checkpoint.json"
    rewrite_description(path, architecture=asdict(replace(SMALL_MODEL, kind="hrm")))
    with pytest.raises(InputError, match=r"weights\.safetensors: "):
        load_weights(path.parent)


@pytest.mark.parametrize("kind", ["hrm", "transformer"])
def test_every_command_takes_every_kind(run_here, capsys, kind):
    """Pretraining with evaluation, then test-time training and prediction; and its plan."""
    changes = [*SHORT, f"model.kind={kind}", "model.num_cycles=1", "model.num_latent_steps=1"]
    changes += ["data.evaluated=arc1/evaluation", "train.eval_every=3", "predict.adapt=all"]
    for command in ("pretrain", "predict"):
        assert call(command, "--run-name", "a", changes=changes) == 0
    assert (run_here / "runs" / "a" / "submission.json").exists()
    capsys.readouterr()
    assert call("plan", "--gpu", "t4x2", changes=changes) == 0
    assert "pretrain" in capsys.readouterr().out


def test_a_combination_that_cannot_be_is_one_line(run_here, capsys):
    changes = [*SHORT, "model.kind=transformer", "model.num_cycles=2"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("model.num_cycles must be 1 with model.kind=transformer, got 2")
    assert not (run_here / "runs").exists()
