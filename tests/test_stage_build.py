"""The stage build keeps a data set that is intact and built from the same, and no other."""

import shutil

import numpy as np
import pytest
from commands import SHORT, call, write_task_folder
from conftest import fresh_pairs, zeros

from augment.dataset import Dataset
from augment.task import Pair, Task
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.sources import load_source
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


FRESH = [
    "data.trained=folder:tasks", "data.predicted=arc1/evaluation", "data.max_side=9",
    "model.canvas_side=10", "data.views_per_task=2", "data.fresh=folder:fresh",
]  # fmt: skip


def write_fresh(folder, task, pairs, name=""):
    """A file of fresh pairs for a task, the last one under test."""
    task = Task(name or task.task_id, tuple(pairs[:-1]), (), ()).with_tests(pairs[-1:])
    return write_task_folder(folder, [task])[0]


def built(capsys):
    capsys.readouterr()
    assert call("build", "--run-name", "f", changes=[*SHORT, *FRESH]) == 0
    return Dataset.load(Run.named("f").dataset), capsys.readouterr().out


def test_fresh_pairs_go_to_the_trained_tasks_of_their_ids(run_here, arc1, capsys):
    """Not to predicted ones, nor those that do not fit; and a changed file is noticed."""
    trained = [task for task in arc1 if task.longest_side(with_solutions=True) <= 9][:3]
    write_task_folder(run_here / "tasks", trained)
    assert call("build", "--run-name", "o", changes=[*SHORT, *FRESH, "data.fresh="]) == 0
    own = Dataset.load(Run.named("o").dataset)
    large = zeros(10, 10)
    predicted = load_source("arc1/evaluation")[0]
    file = write_fresh(run_here / "fresh", trained[0], [*fresh_pairs(4), Pair(large, large)])
    write_fresh(run_here / "fresh", trained[1], fresh_pairs(2))
    write_fresh(run_here / "fresh", predicted, fresh_pairs(5))
    write_fresh(run_here / "fresh", predicted, fresh_pairs(5), "unknown")
    dataset, printed = built(capsys)
    line = "data.fresh: 6 fresh pairs of 2 tasks; 2 tasks are left out, as they are not trained on"
    assert line in printed
    assert dataset.index.digest == own.index.digest
    assert dataset.num_pairs == own.num_pairs
    more = [len(a) - len(b) for a, b in zip(dataset.trained_pairs, own.trained_pairs, strict=True)]
    ids = [task.task_id for task in dataset.tasks]
    assert [ids[n] for n in np.flatnonzero(more)] == [task.task_id for task in trained[:2]]
    assert sum(more) == 6
    assert "kept" in built(capsys)[1]
    file.write_text(file.read_text() + " ")
    assert "kept" not in built(capsys)[1]


def test_fresh_pairs_of_evaluated_tasks_are_left_out(run_here, arc1, capsys):
    trained = [task for task in arc1 if task.longest_side(with_solutions=True) <= 9][:6]
    write_task_folder(run_here / "tasks", trained)
    for task in trained:
        write_fresh(run_here / "fresh", task, fresh_pairs(3))
    changes = [*SHORT, *FRESH, "data.evaluated=folder:tasks", "data.num_evaluated=2"]
    assert call("build", "--run-name", "f", changes=changes) == 0
    assert "12 fresh pairs of 4 tasks; 2 tasks are left out" in capsys.readouterr().out


def test_fresh_pairs_that_give_a_predicted_test_away_are_refused(run_here, arc1, capsys):
    trained = [task for task in arc1 if task.longest_side(with_solutions=True) <= 9][:3]
    write_task_folder(run_here / "tasks", trained)
    small = [t for t in load_source("arc1/evaluation") if t.longest_side(with_solutions=True) <= 9]
    write_fresh(run_here / "fresh", trained[2], [*fresh_pairs(3), small[0].test_pairs[0]])
    assert call("build", "--run-name", "f", changes=[*SHORT, *FRESH]) == 2
    reason = f"test 0 of {small[0].task_id} is test 4 of {trained[2].task_id}"
    assert reason in capsys.readouterr().err


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
