"""The files of a checkpoint: which folders count, and what a description names."""

import json
from dataclasses import asdict

from conftest import SMALL_MODEL
from sessions import DECIDING, Session

from solver.checkpoint import (
    latest_checkpoint,
)


def test_old_checkpoints_go_and_half_written_ones_do_not_count(small_dataset, engine, tmp_path):
    (tmp_path / ".step_000000001.tmp").mkdir()
    Session(tmp_path, small_dataset, engine, every=1, keep=2).go_on()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000007", "step_000000008"]
    (tmp_path / ".step_000000009.tmp").mkdir()
    assert latest_checkpoint(tmp_path).name == "step_000000008"
    assert latest_checkpoint(tmp_path / "nowhere") is None


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
