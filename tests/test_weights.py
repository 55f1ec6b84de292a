"""Weights: exported, loaded, and refused where a file was harmed."""

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING
from sessions import Session

from augment.errors import InputError
from solver.checkpoint_files import latest_checkpoint, verify_checkpoint
from solver.weights import export_weights, load_weights


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
    with pytest.raises(InputError, match="exists and is no export"):
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


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_weights(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path)
    (tmp_path / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="not a checkpoint of format"):
        load_weights(tmp_path)
