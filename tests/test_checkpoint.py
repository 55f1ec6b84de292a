"""A run that is stopped at any step goes on from its checkpoint as if it never stopped."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, rewrite_description
from safetensors.torch import load_file, save_file
from sessions import Session, everything

from augment.errors import InputError
from solver.checkpoint_files import latest_checkpoint


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 7])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ({}, {}),
        ({"canvas": "box", "dropout": 0.2}, {"optimizer": "normuon", "schedule": "wsd"}),
    ],
)
def test_a_run_stopped_at_any_step_goes_on_as_if_it_never_stopped(
    small_dataset, engine, tmp_path, stop_after, model, settings
):
    how = (replace(SMALL_MODEL, **model), replace(SHORT_TRAINING, **settings))
    whole = Session(tmp_path / "whole", small_dataset, engine, *how).train()
    first = Session(tmp_path / "parts", small_dataset, engine, *how).train(stop_after)
    second = Session(tmp_path / "parts", small_dataset, engine, *how)
    second.restore()
    second.train()
    assert first.metrics + second.metrics == whole.metrics
    assert second.training.step == whole.training.step
    for ours, theirs in zip(everything(second), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_without_the_carry_slots_start_with_fresh_examples(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine, carry=False).train(4)
    second = Session(tmp_path, small_dataset, engine, carry=False)
    second.restore()
    assert second.training.carry.halted_B.all()
    assert not list(latest_checkpoint(tmp_path).glob("carry*"))
    second.train()
    assert second.training.step == SHORT_TRAINING.num_steps


def test_every_difference_is_named(small_tasks, small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).train(1)
    other_tasks = make_dataset(small_tasks[1:])
    model = replace(SMALL_MODEL, num_cycles=1)
    other = Session(tmp_path, other_tasks, engine, model=model)
    with pytest.raises(InputError) as caught:
        other.restore({"train": {"lr": 2e-3}})
    message = str(caught.value)
    for named in (
        "model.num_cycles was 2, now 1",
        "train.lr was 0.001, now 0.002",
        "the tasks or views of the data set",
    ):
        assert named in message


CHANGES = [
    ("training", "trunk.token_embedding", lambda t: t * math.nan),
    ("training", "trunk.token_embedding", lambda t: t[1:]),
    ("training", "optimizer.token_embedding.exp_avg", lambda t: t[1:]),
    ("training", "optimizer.token_embedding.exp_avg_sq", None),
    ("training", "optimizer.token_embedding.steps", lambda t: -t),
    ("training", "sums", lambda t: t[1:]),
    ("training", "optimizer.token_embedding.exp_avg_sq", lambda t: t - 1),
    ("training", "loss_scale", lambda t: t * 0),
    ("training", "loss_scale", lambda t: t + 1),
    ("training", "passed", lambda t: -1 - t),
    ("weights", "token_embedding", lambda t: t * math.inf),
    ("rows", "rows", None),
    ("carry_00000", "y", lambda t: t[1:]),
    ("carry_00000", "y", lambda t: t * math.nan),
    ("carry_00000", "inputs", lambda t: t + 12),
    ("carry_00000", "boxes", lambda t: t + 9),
    ("carry_00000", "rows", lambda t: t - 9999),
    ("carry_00000", "halted", lambda t: t[1:]),
    ("carry_00000", "steps", None),
]


@pytest.mark.parametrize(("name", "tensor", "change"), CHANGES)
def test_a_state_that_no_run_has_is_one_line_and_changes_nothing(
    small_dataset, engine, tmp_path, name, tensor, change
):
    """Although every hash is right."""
    Session(tmp_path, small_dataset, engine).train(4)
    path = latest_checkpoint(tmp_path) / f"{name}.safetensors"
    tensors = load_file(path)
    if change is None:
        del tensors[tensor]
    else:
        tensors[tensor] = change(tensors[tensor])
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    rewrite_description(path.parent / "checkpoint.json")
    session = Session(tmp_path, small_dataset, engine)
    before = [t.clone() for t in everything(session)]
    with pytest.raises(InputError, match=f"{path}: ") as caught:
        session.restore()
    assert len(str(caught.value).splitlines()) == 1
    assert all(map(torch.equal, everything(session), before))


def test_a_step_that_is_not_that_of_the_name_is_damage(small_dataset, engine, tmp_path):
    """Steps that a description makes up would be skipped, or taken twice."""
    Session(tmp_path, small_dataset, engine).train(4)
    latest_checkpoint(tmp_path).rename(tmp_path / "step_000000009")
    session = Session(tmp_path, small_dataset, engine)
    with pytest.raises(InputError, match="step_000000009: its step is 4, not that of its name"):
        session.restore()
    assert session.training.step == 0


def test_weights_that_are_not_finite_are_not_kept(small_dataset, engine, tmp_path):
    settings = replace(SHORT_TRAINING, lr=1e9, rows_lr=1e9, log_every=100)
    with pytest.raises(FloatingPointError, match="not finite at step 3"):
        Session(tmp_path, small_dataset, engine, settings=settings).train()
    assert latest_checkpoint(tmp_path) is None


def test_metrics_are_right_when_their_interval_changes(small_dataset, engine, tmp_path):
    first = Session(tmp_path, small_dataset, engine).train(3)
    settings = replace(SHORT_TRAINING, log_every=4)
    second = Session(tmp_path, small_dataset, engine, settings=settings)
    second.restore()
    second.train()
    whole = Session(tmp_path / "whole", small_dataset, engine, settings=replace(
        SHORT_TRAINING, log_every=1
    )).train()  # fmt: skip
    losses = [values["loss"] for values in whole.metrics]
    expected = [sum(losses[0:2]) / 2, sum(losses[2:4]) / 2, sum(losses[4:8]) / 4]
    reported = [values["loss"] for values in first.metrics + second.metrics]
    assert reported == pytest.approx(expected)
