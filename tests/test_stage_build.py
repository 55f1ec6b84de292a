"""The stage build keeps a data set that is intact and built from the same, and no other."""

import shutil

import pytest
from commands import SHORT, call, write_task_folder

from augment.dataset import Dataset
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.stages.build import build


@pytest.fixture
def few_tasks(run_here, arc1):
    """The data set of three one-task files, and how to build it again; tells what was printed."""
    paths = write_task_folder(run_here / "tasks", [t for t in arc1 if t.longest_side() <= 4][:3])
    changes = [*SHORT, "data.predicted=folder:tasks"]
    assert call("build", "--run-name", "a", changes=changes) == 0
    return paths, changes


def is_kept(capsys, changes):
    """Whether building once more keeps the data set; what lies there is right in any case."""
    folder = Run.named("a").dataset
    before = folder.stat().st_ino
    capsys.readouterr()
    assert call("build", "--run-name", "a", changes=changes) == 0
    kept = folder.stat().st_ino == before
    assert ("kept" in capsys.readouterr().out) == kept
    assert call("build", "--run-name", "fresh", changes=changes) == 0
    right = Dataset.load(Run.named("fresh").dataset)
    assert Dataset.load(folder).index.digest == right.index.digest
    shutil.rmtree(Run.named("fresh").folder)
    return kept


def test_a_data_set_built_from_the_same_is_kept(few_tasks, capsys):
    _, changes = few_tasks
    assert is_kept(capsys, changes)
    assert is_kept(capsys, [*changes, "train.lr=0.5", "model.dim=64"])
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert "runs/a/dataset is intact and built from the same: kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    ["data.views_per_task=3", "data.seed=1", "data.max_side=3", "model.rows_per=view"],
)
def test_a_data_set_of_other_settings_is_built_anew(few_tasks, capsys, change):
    _, changes = few_tasks
    assert not is_kept(capsys, [*changes, change])


def test_a_data_set_is_built_anew_when_a_file_is_changed_added_or_taken_away(few_tasks, capsys):
    (first, second, third), changes = few_tasks
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert not is_kept(capsys, changes)
    assert is_kept(capsys, changes)
    third.unlink()
    assert not is_kept(capsys, changes)
    (first.parent / "below").mkdir()
    (first.parent / "below" / "new.json").write_bytes(content)
    assert not is_kept(capsys, changes)
    assert is_kept(capsys, changes)


@pytest.mark.parametrize("name", ["tasks.npz", "views.npy", "puzzles.json", "dataset.json"])
def test_a_damaged_data_set_is_built_anew(few_tasks, capsys, name):
    _, changes = few_tasks
    path = Run.named("a").dataset / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not is_kept(capsys, changes)
    path.unlink()
    assert not is_kept(capsys, changes)


def test_views_are_drawn_as_they_always_were(run_here):
    """Runs that go on, and data sets that are kept, hold views drawn long ago."""
    index = build(load_recipe("demo", []), Run.named("a")).index
    assert index.digest == "864b41f4bc8681d6139afbe3e23908368bfc24f23513f5c3fde275c3ca04e2e3"
