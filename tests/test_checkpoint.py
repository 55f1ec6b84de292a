import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
import yaml
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table

from augment.dataset import ExampleStream
from augment.errors import InputError
from solver.checkpoint import (
    export_weights,
    latest_checkpoint,
    load_weights,
    restore_training,
    save_checkpoint,
    verify_checkpoint,
)
from solver.model import TRM
from solver.optimizer import optimizer_tensors
from solver.pace import Pace
from solver.reference import read_reference, reference_names
from solver.settings import CheckpointSettings, ModelSettings
from solver.train import start_training, train

DECIDING = {"train": {"lr": 1e-3}}


class Session:
    """A run that can be stopped after any step and gone on with by another session."""

    def __init__(
        self, folder, dataset, engine, model=SMALL_MODEL, settings=SHORT_TRAINING, **checkpoint
    ):
        self.folder, self.dataset, self.engine, self.settings = folder, dataset, engine, settings
        self.checkpoint = CheckpointSettings(**{"every": 3, **checkpoint})
        table = make_table(dataset, model.dim)
        self.training = start_training(TRM(model, 0), table, settings, engine)
        self.metrics = []

    def save(self):
        save_checkpoint(
            self.folder,
            self.training,
            self.dataset.index,
            self.dataset.taught,
            DECIDING,
            "test",
            self.engine.world,
            keep=self.checkpoint.keep,
            save_carry=self.checkpoint.carry,
        )

    def restore(self, deciding=DECIDING):
        restore_training(
            latest_checkpoint(self.folder),
            self.training,
            self.dataset.index,
            deciding,
            self.engine.world,
        )

    def go_on(self, stop_after=None):
        train(
            self.training,
            ExampleStream(self.dataset, 0),
            self.settings,
            self.engine,
            Pace(
                self.settings.num_steps,
                self.engine,
                should_stop=lambda: self.training.step == stop_after,
            ),
            on_step=lambda: None,
            on_metrics=lambda metrics: self.metrics.append(metrics.values),
            checkpoint_every=self.checkpoint.every,
            on_checkpoint=self.save,
        )
        return self


def everything(session):
    """All that a run is, as one list of tensors."""
    training = session.training
    carry = training.carry
    examples = (getattr(carry.examples, field.name) for field in fields(carry.examples))
    return [
        *training.model.state_dict().values(),
        *training.ema.average.values(),
        training.table.look_up(np.arange(training.table.num_rows)),
        *optimizer_tensors(training.optimizer, training.model).values(),
        *carry.state,
        *map(torch.from_numpy, (*examples, carry.steps_B, carry.halted_B)),
    ]


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
    whole = Session(tmp_path / "whole", small_dataset, engine, *how).go_on()
    first = Session(tmp_path / "parts", small_dataset, engine, *how).go_on(stop_after)
    second = Session(tmp_path / "parts", small_dataset, engine, *how)
    second.restore()
    second.go_on()
    assert first.metrics + second.metrics == whole.metrics
    assert second.training.step == whole.training.step
    for ours, theirs in zip(everything(second), everything(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_without_the_carry_slots_start_with_fresh_examples(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine, carry=False).go_on(4)
    second = Session(tmp_path, small_dataset, engine, carry=False)
    second.restore()
    assert second.training.carry.halted_B.all()
    assert not list(latest_checkpoint(tmp_path).glob("carry*"))
    second.go_on()
    assert second.training.step == SHORT_TRAINING.num_steps


def test_old_checkpoints_go_and_half_written_ones_do_not_count(small_dataset, engine, tmp_path):
    (tmp_path / ".step_000000001.tmp").mkdir()
    Session(tmp_path, small_dataset, engine, every=1, keep=2).go_on()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000007", "step_000000008"]
    (tmp_path / ".step_000000009.tmp").mkdir()
    assert latest_checkpoint(tmp_path).name == "step_000000008"
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_every_difference_is_named(small_tasks, small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).go_on(1)
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


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "rows.safetensors", "puzzles.json", "views.npy", "taught.npy"]
)
@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_harmed_files_are_found_out(small_dataset, engine, tmp_path, name, harm):
    Session(tmp_path, small_dataset, engine).go_on(1)
    path = latest_checkpoint(tmp_path) / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=name):
        load_weights(latest_checkpoint(tmp_path))


def test_a_checkpoint_says_what_it_is(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).go_on(4)
    folder = latest_checkpoint(tmp_path)
    description = json.loads((folder / "checkpoint.json").read_text())
    assert description["step"] == 4
    assert description["architecture"] == asdict(SMALL_MODEL)
    assert description["settings"] == DECIDING
    assert description["rows_digest"] == small_dataset.index.digest
    written = {path.name for path in folder.iterdir()} - {"checkpoint.json"}
    assert description["files"].keys() == written


def test_exported_weights_are_the_average_and_predict_alone(small_dataset, engine, tmp_path):
    session = Session(tmp_path / "run", small_dataset, engine).go_on()
    export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "weights")
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    assert names == {
        "checkpoint.json", "weights.safetensors", "rows.safetensors", "puzzles.json", "views.npy",
        "taught.npy",
    }  # fmt: skip
    weights = load_weights(tmp_path / "weights")
    for name, average in session.training.ema.average.items():
        assert torch.equal(weights.model.state_dict()[name], average)
    every = np.arange(weights.table.num_rows)
    rows = weights.table.look_up(every)
    assert torch.equal(rows, session.training.table.look_up(every))
    assert np.array_equal(weights.index.codes, small_dataset.index.codes)
    assert torch.equal(weights.table.mean_row, rows[rows.any(1)].mean(0))
    assert verify_checkpoint(tmp_path / "weights")["step"] == SHORT_TRAINING.num_steps


def test_a_folder_of_something_else_is_not_written_over(small_dataset, engine, tmp_path):
    Session(tmp_path / "run", small_dataset, engine).go_on(1)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists and is no checkpoint"):
        export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "mine")


def test_an_edited_description_is_found_out(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).go_on(1)
    path = latest_checkpoint(tmp_path) / "checkpoint.json"
    for old, new in (('"num_cycles": 2', '"num_cycles": 9'), ('"step": 1', '"step": 7')):
        content = path.read_text()
        path.write_text(content.replace(old, new))
        with pytest.raises(InputError, match="differs from what was written"):
            load_weights(path.parent)
        path.write_text(content)
    assert load_weights(path.parent).index.digest == small_dataset.index.digest


def test_weights_that_are_not_finite_are_not_kept(small_dataset, engine, tmp_path):
    settings = replace(SHORT_TRAINING, lr=1e9, rows_lr=1e9, log_every=100)
    with pytest.raises(FloatingPointError, match="not finite at step 3"):
        Session(tmp_path, small_dataset, engine, settings=settings).go_on()
    assert latest_checkpoint(tmp_path) is None


def test_metrics_are_right_when_their_interval_changes(small_dataset, engine, tmp_path):
    first = Session(tmp_path, small_dataset, engine).go_on(3)
    settings = replace(SHORT_TRAINING, log_every=4)
    second = Session(tmp_path, small_dataset, engine, settings=settings)
    second.restore()
    second.go_on()
    whole = Session(tmp_path / "whole", small_dataset, engine, settings=replace(
        SHORT_TRAINING, log_every=1
    )).go_on()  # fmt: skip
    losses = [values["loss"] for values in whole.metrics]
    expected = [sum(losses[0:2]) / 2, sum(losses[2:4]) / 2, sum(losses[4:8]) / 4]
    found = [values["loss"] for values in first.metrics + second.metrics]
    assert found == pytest.approx(expected)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_weights(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path)
    (tmp_path / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="not a checkpoint of format"):
        load_weights(tmp_path)


REFERENCE_CONFIG = {
    "arch": {
        "hidden_size": 32, "num_heads": 2, "L_layers": 2, "expansion": 4, "H_cycles": 2,
        "L_cycles": 3, "halt_max_steps": 5, "puzzle_emb_len": 16, "mlp_t": False,
    },
    "global_batch_size": 768,
}  # fmt: skip


def write_reference(folder, prefix, **changes):
    model = TRM(ModelSettings(dim=32, num_heads=2, num_cycles=2, num_latent_steps=3), seed=7)
    own = model.state_dict()
    tensors = {prefix + theirs: own[ours] for theirs, ours in reference_names(model).items()}
    tensors[prefix + "inner.puzzle_emb.weights"] = torch.arange(5 * 32.0).view(5, 32)
    tensors.update(changes)
    torch.save(tensors, folder / "step_10")
    (folder / "all_config.yaml").write_text(yaml.safe_dump(REFERENCE_CONFIG))
    return model, folder / "step_10"


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.model."])
def test_reference_checkpoints_are_read(tmp_path, prefix):
    expected, path = write_reference(tmp_path, prefix)
    model, table = read_reference(path)
    assert model.settings == ModelSettings(
        dim=32, num_heads=2, num_cycles=2, num_latent_steps=3, max_supervision_steps=5
    )
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert table.shape == (5, 32)
    weights = load_weights(path)
    assert torch.equal(weights.table.mean_row, table[1:].mean(0))
    assert weights.index.task_ids == ()


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_reference_checkpoints_that_do_not_fit_are_refused(tmp_path, capsys):
    _, path = write_reference(tmp_path, "", extra=torch.zeros(1))
    with pytest.raises(InputError, match="not known \\['extra'\\]"):
        read_reference(path)
    _, path = write_reference(tmp_path, "", **{"inner.lm_head.weight": torch.zeros(12, 31)})
    with pytest.raises(InputError, match=r"inner\.lm_head\.weight is \(12, 31\)"):
        read_reference(path)
    torch.save({"inner.lm_head.weight": Evil()}, path)
    with pytest.raises(InputError, match="not a reference checkpoint"):
        read_reference(path)
    assert "executed" not in capsys.readouterr().out
    path.write_bytes(b"no zip file")
    with pytest.raises(InputError, match="not a reference checkpoint"):
        read_reference(path)
    (tmp_path / "all_config.yaml").write_text("arch: 3")
    with pytest.raises(InputError, match=r"not a reference checkpoint|no section"):
        read_reference(path)
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(path)
