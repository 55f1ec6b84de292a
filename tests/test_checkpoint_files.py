"""The files of a checkpoint: which folders count, and what a description names."""

import json
from dataclasses import asdict

import pytest
from conftest import SMALL_MODEL
from sessions import DECIDING, Session

from augment.errors import InputError
from solver.checkpoint_files import (
    can_resume,
    checkpoint_folder,
    checkpoint_step,
    find_checkpoints,
    latest_checkpoint,
    load_newest,
    set_aside,
    verify_checkpoint,
)


def test_old_checkpoints_go_and_half_written_ones_do_not_count(small_dataset, engine, tmp_path):
    (tmp_path / ".step_000000001.tmp").mkdir()
    Session(tmp_path, small_dataset, engine, every=1, keep=2).train()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000007", "step_000000008"]
    (tmp_path / ".step_000000009.tmp").mkdir()
    assert latest_checkpoint(tmp_path).name == "step_000000008"
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_says_what_it_is(small_dataset, engine, tmp_path):
    Session(tmp_path, small_dataset, engine).train(4)
    folder = latest_checkpoint(tmp_path)
    description = json.loads((folder / "checkpoint.json").read_text())
    assert description["step"] == 4
    assert description["architecture"] == asdict(SMALL_MODEL)
    assert description["settings"] == DECIDING
    assert description["rows_digest"] == small_dataset.index.digest
    written = {path.name for path in folder.iterdir()} - {"checkpoint.json"}
    assert description["files"].keys() == written


@pytest.mark.parametrize("is_link", [True, False])
def test_links_and_files_in_place_of_old_checkpoints_keep_no_new_one_away(
    small_dataset, engine, tmp_path, is_link
):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "run"
    for path in (elsewhere, folder):
        path.mkdir()
    (elsewhere / "file").touch()
    for name in (".step_000000001.tmp", "step_000000000", "step_000000008.broken"):
        path = folder / name
        path.symlink_to(elsewhere) if is_link else path.touch()
    Session(folder, small_dataset, engine, keep=2).train()
    latest = checkpoint_folder(folder, 8)
    assert find_checkpoints(folder) == [checkpoint_folder(folder, 6), latest]
    set_aside(latest, InputError("damaged"), print)
    assert latest_checkpoint(folder) == checkpoint_folder(folder, 6)
    assert (elsewhere / "file").exists()


def test_damaged_checkpoints_are_renamed_until_an_intact_one_is_found(
    small_dataset, engine, tmp_path
):
    Session(tmp_path, small_dataset, engine, every=2, keep=4).train()
    paths = find_checkpoints(tmp_path)
    assert [checkpoint_step(path) for path in paths] == [2, 4, 6, 8]
    assert all(map(can_resume, paths))
    for path in (paths[0], paths[2], paths[3]):
        (path / "rows.safetensors").write_bytes(b"")
    lines = []
    newest, description = load_newest(tmp_path, verify_checkpoint, lines.append)
    assert (newest, description["step"]) == (paths[1], 4)
    assert find_checkpoints(tmp_path) == paths[:2]
    assert latest_checkpoint(tmp_path) == paths[1] == checkpoint_folder(tmp_path, 4)
    assert [line.partition("set aside as ")[2].split(",")[0] for line in lines] == [
        "step_000000008.broken", "step_000000006.broken"
    ]  # fmt: skip
