"""Weights: exported, loaded, and refused where a file was harmed."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, rewrite_description
from safetensors.torch import load_file, save_file
from sessions import Session

from augment.errors import InputError
from solver.checkpoint_files import latest_checkpoint, verify_checkpoint
from solver.weights import export_weights, load_weights


@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "rows.safetensors", "puzzles.json", "views.npy", "trained_on.npy"],
)
@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_harmed_files_are_found_out(small_dataset, engine, tmp_path, name, harm):
    Session(tmp_path, small_dataset, engine).train(1)
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
    session = Session(tmp_path / "run", small_dataset, engine).train()
    export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "weights")
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    assert names == {
        "checkpoint.json", "weights.safetensors", "rows.safetensors", "puzzles.json", "views.npy",
        "trained_on.npy",
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
    Session(tmp_path / "run", small_dataset, engine).train(1)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists and is no export"):
        export_weights(latest_checkpoint(tmp_path / "run"), tmp_path / "mine")


def exported(dataset, engine, folder, precision="float32"):
    """Exported weights of a model that is wide enough for int8, and their source."""
    session = Session(folder / "run", dataset, engine, model=replace(SMALL_MODEL, dim=64)).train(1)
    source = latest_checkpoint(session.folder)
    export_weights(source, folder / "weights", precision)
    return source, folder / "weights"


def test_only_exports_are_written_over(small_dataset, engine, tmp_path):
    """Not a folder with anything else, nor what a run goes on from, by whatever link."""
    source, kept = exported(small_dataset, engine, tmp_path)
    (tmp_path / "link").symlink_to(kept)
    export_weights(source, tmp_path / "link", "float16")
    assert (tmp_path / "link").is_symlink()
    assert load_weights(kept).model.settings.dim == 64
    best = tmp_path / "best" / source.name
    shutil.copytree(kept, best)
    (tmp_path / "other").symlink_to(best)
    (tmp_path / "mixed").mkdir()
    shutil.copy(kept / "checkpoint.json", tmp_path / "mixed")
    (tmp_path / "mixed" / "mine").touch()
    (tmp_path / "file").touch()
    names = ("mixed", "file", "run", "best", f"run/{source.name}", "run/step_000000099", "other")
    before = sorted(tmp_path.rglob("*"))
    for name in names:
        with pytest.raises(InputError, match=f"{tmp_path / name}: "):
            export_weights(source, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def to(value):
    return lambda tensor: torch.full_like(tensor, value)


CHANGES = [
    ("weights", "y_start", to(math.nan), "float32"),
    ("weights", "token_embedding", to(math.inf), "float16"),
    ("weights", "token_embedding", lambda t: t.to(torch.complex64), "float32"),
    ("weights", "token_embedding", lambda t: t.to(torch.int32), "float32"),
    ("weights", "token_embedding", lambda t: t.to(torch.int8), "float32"),
    ("weights", "token_embedding", lambda t: t[1:], "float32"),
    ("weights", "token_embedding", None, "float32"),
    ("weights", "new", torch.zeros(2), "float32"),
    ("weights", "net.layers.0.attention.qkv.weight:scale", to(math.inf), "int8"),
    ("weights", "net.layers.0.attention.qkv.weight:scale", lambda t: t[1:], "int8"),
    ("weights", "net.layers.0.attention.qkv.weight:scale", None, "int8"),
    ("rows", "start", to(math.nan), "float32"),
    ("rows", "rows", lambda t: t[:, 1:], "float32"),
    ("rows", "numbers", lambda t: t + 10**6, "float32"),
    ("rows", "numbers", lambda t: -t, "float32"),
    ("rows", "numbers", lambda t: t.float(), "float32"),
    ("rows", "numbers", None, "float32"),
]


@pytest.mark.parametrize(("name", "tensor", "change", "precision"), CHANGES)
def test_weights_that_are_no_numbers_are_one_line(
    small_dataset, engine, tmp_path, name, tensor, change, precision
):
    """It names file and tensor, although every hash is right."""
    _, folder = exported(small_dataset, engine, tmp_path, precision)
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    if change is None:
        del tensors[tensor]
    else:
        tensors[tensor] = change if isinstance(change, torch.Tensor) else change(tensors[tensor])
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    rewrite_description(folder / "checkpoint.json")
    named = tensor.removesuffix(":scale")
    with pytest.raises(InputError, match=f"{path}: .*{named}") as caught:
        load_weights(folder)
    assert len(str(caught.value).splitlines()) == 1


ARCHITECTURES = [
    {"num_layers": 2**30}, {"dim": 2**30}, {"dim": 2**16}, {"num_layers": 2**10},
    {"prefix_length": 2**30}, {"expansion": 1e9}, {"dim": 32.0}, {"dim": "32"}, {"dim": -64},
    {"variant": "other"}, {"variant": ["mlp"]}, {"convolution": 1}, {"depth": 3}, {"dim": None},
    {"num_cycles": 2**30}, {"norm_eps": math.nan}, {"patch": 2}, {"rows_per": "task"},
]  # fmt: skip


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_an_architecture_of_other_weights_is_one_line(small_dataset, engine, tmp_path, changes):
    _, folder = exported(small_dataset, engine, tmp_path)
    path = folder / "checkpoint.json"
    architecture = json.loads(path.read_text())["architecture"]
    rewrite_description(path, architecture={**architecture, **changes})
    with pytest.raises(InputError, match=f"{folder}") as caught:
        load_weights(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_an_architecture_without_a_part_is_not_completed(small_dataset, engine, tmp_path):
    """The default of what is missing may fit the tensors, and predict otherwise."""
    _, folder = exported(small_dataset, engine, tmp_path)
    path = folder / "checkpoint.json"
    architecture = json.loads(path.read_text())["architecture"]
    del architecture["num_cycles"]
    rewrite_description(path, architecture=architecture)
    with pytest.raises(InputError, match=r"checkpoint\.json: architecture: num_cycles is missing"):
        load_weights(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}}, {"architecture": []}, {"rows_digest": "x"}, {"step": -1}, {"step": "1"},
        {"settings": 3},
    ],
)  # fmt: skip
def test_a_description_of_something_else_is_one_line(small_dataset, engine, tmp_path, changes):
    _, folder = exported(small_dataset, engine, tmp_path)
    rewrite_description(folder / "checkpoint.json", **changes)
    with pytest.raises(InputError, match=f"{folder}"):
        load_weights(folder)


def test_what_was_trained_on_is_numbers(small_dataset, engine, tmp_path):
    _, folder = exported(small_dataset, engine, tmp_path)
    for keys in (np.zeros(3), np.zeros((2, 2), np.uint64), np.array([{}])):
        np.save(folder / "trained_on.npy", keys)
        rewrite_description(folder / "checkpoint.json")
        with pytest.raises(InputError, match=r"trained_on\.npy: not the array"):
            load_weights(folder)


def test_an_edited_description_is_found_out(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).train(1)
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
