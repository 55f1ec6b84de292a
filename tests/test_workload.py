"""What a recipe computes is read from its own tasks, without a download."""

from dataclasses import replace

import pytest
from commands import workload, write_task_folder
from conftest import fresh_pairs

from pipeline.recipes import RECIPES, load_recipe
from pipeline.workload import read_workload, without_absent_sources

pytestmark = pytest.mark.usefixtures("no_concept")


def test_what_trains():
    adapting = {name for name in RECIPES if workload(name).training.stage == "adapt"}
    assert adapting == {"kaggle"}
    untrained = load_recipe("demo", ["train.num_steps=0", "adapt.num_steps=0"])
    assert read_workload(untrained).training is None
    unasked = load_recipe("arc1", ["data.predicted=", "data.trained=arc1/training"])
    assert read_workload(unasked).prediction is None
    unseen = read_workload(load_recipe("arc1-unseen", ["data.trained=arc1/training"])).training
    assert unseen.num_rows == 1 + 398


def test_fresh_pairs_make_no_more_work_but_other_lengths(run_here, arc1):
    tasks = [task for task in arc1 if task.longest_side() > 15][:3]
    write_task_folder(run_here / "fresh", [replace(t, train=tuple(fresh_pairs(99))) for t in tasks])
    write_task_folder(run_here / "tasks", tasks)
    changes = ["data.trained=folder:tasks", "data.predicted=", "data.left_out="]
    own = read_workload(load_recipe("arc1-fast", changes)).training
    more = read_workload(load_recipe("arc1-fast", [*changes, "data.fresh=folder:fresh"])).training
    assert (more.num_rows, len(more.lengths)) == (own.num_rows, len(own.lengths))
    assert more.lengths.mean() < own.lengths.mean() / 2


def test_a_source_that_would_be_downloaded_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr("pooch.Pooch.fetch", lambda *_, **__: pytest.fail("a download"))
    changes = ["data.trained=concept", "data.predicted=arc1/evaluation", "data.left_out="]
    work = read_workload(without_absent_sources(load_recipe("arc1-fast", changes)))
    assert work.training.num_rows == 1 + 400
    assert "source concept is not on this machine" in capsys.readouterr().out
