"""Pretraining is evaluated on held-out tests, and keeps the weights that did best on them."""

import json

import numpy as np
import pytest
from commands import SHORT, call, call_in_processes

from augment.leakage import scoring_keys, training_keys
from augment.puzzle_files import write_puzzles
from pipeline.evaluation import EXACT, LOSS, PASS2
from pipeline.inputs import choose_evaluated_tasks, choose_trained_tasks
from pipeline.puzzle_sources import load_puzzles
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.settings import DataSettings
from pipeline.training_log import read_metrics
from solver.checkpoint_files import can_resume, checkpoint_step, find_checkpoints

ARC1_LEAKS = ("40853293", "caa06a1f")  # tasks that give evaluation solutions away
EVALUATED = [
    *SHORT, "data.evaluated=arc1/training", "data.num_evaluated=3", "train.eval_every=2",
    "train.eval_views=2", "train.log_every=3",
]  # fmt: skip


def evaluations(run):
    lines = read_metrics(run.metrics_of("pretrain"))
    return {line["step"]: line for line in lines if LOSS in line}


def test_held_out_tests_are_measured_every_so_many_steps(run_here, capsys):
    assert call("pretrain", "--run-name", "a", changes=EVALUATED) == 0
    found = evaluations(Run.named("a"))
    assert list(found) == [2, 4, 6]
    for line in found.values():
        assert line[LOSS] > 0
        assert 0 <= line[EXACT] <= 1
        assert 0 <= line[PASS2] <= 1
    assert len({line[LOSS] for line in found.values()}) == 3
    # Training itself is the same: an evaluation draws nothing and changes nothing.
    assert call("pretrain", "--run-name", "b", changes=[*EVALUATED, "train.eval_every=5"]) == 0
    rest = [
        [{k: v for k, v in line.items() if k != "examples_per_second"}
         for line in read_metrics(Run.named(name).metrics_of("pretrain")) if "loss" in line]
        for name in ("a", "b")
    ]  # fmt: skip
    assert rest[0] == rest[1]
    assert len(rest[0]) == 2


def test_lines_that_are_no_evaluation_name_no_best_one(run_here, capsys):
    changes = [*EVALUATED, "checkpoint.keep_best=true"]
    assert call("pretrain", "--run-name", "a", changes=[*changes, "train.num_steps=4"]) == 0
    metrics = Run.named("a").metrics_of("pretrain")
    metrics.write_text('{"step":2,"eval_loss":1}\n{"step":4,"eval_loss":1}\n')
    assert call("pretrain", "--run-name", "a", changes=[*changes, "train.num_steps=6"]) == 0
    assert checkpoint_step(find_checkpoints(Run.named("a").best)[0]) == 6


def test_the_best_weights_are_kept_across_calls(run_here, monkeypatch, capsys):
    """Scores are given; the second call goes on from the first, and knows its best."""
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.4])

    def measure(self, training):
        return {LOSS: 1.0, EXACT: 0.0, PASS2: next(scores)}

    monkeypatch.setattr("pipeline.evaluation.Evaluation.measure", measure)
    changes = [*EVALUATED, "checkpoint.keep_best=true", "checkpoint.keep=1"]
    run = Run.named("a")
    for num_steps, best in ((6, 4), (8, 4), (10, 10)):
        more = [*changes, f"train.num_steps={num_steps}"]
        assert call("pretrain", "--run-name", "a", changes=more) == 0
        assert [checkpoint_step(path) for path in find_checkpoints(run.best)] == [best]
        assert f"the best evaluation was that of {run.best}" in capsys.readouterr().out
    assert not can_resume(find_checkpoints(run.best)[0])
    more = [*SHORT, f"weights={find_checkpoints(run.best)[0]}"]
    assert call("predict", "--run-name", "a", changes=more) == 0


def test_puzzles_are_evaluated_while_training(run_here, capsys):
    source = "sudoku/30"
    changes = [
        f"data.trained={source}", f"data.predicted={source}", f"data.evaluated={source}",
        "puzzles.num_trained=20", "data.num_evaluated=5", "train.num_steps=4",
        "train.eval_every=2", "train.log_every=2", "train.global_batch=4", "model.dim=16",
        "model.num_heads=2", "checkpoint.keep_best=true", "train.schedule=constant",
    ]  # fmt: skip
    assert call("pretrain", "--recipe", "sudoku-small", "--run-name", "a", changes=changes) == 0
    found = evaluations(Run.named("a"))
    assert list(found) == [2, 4]
    for line in found.values():
        assert line[LOSS] > 0
        assert 0 <= line[EXACT] <= 1
        assert PASS2 not in line
    best = find_checkpoints(Run.named("a").best)
    assert f'evaluate SET="weights={best[0]}"' in capsys.readouterr().out
    # What decides nothing about the training may change, and the run goes on.
    more = [*changes, "train.num_steps=6", "data.num_evaluated=7", "puzzles.num_predicted=9"]
    assert call("pretrain", "--recipe", "sudoku-small", "--run-name", "a", changes=more) == 0
    assert list(evaluations(Run.named("a"))) == [2, 4, 6]


def test_puzzles_that_the_first_weights_were_trained_on_are_not_evaluated(run_here, capsys):
    """The second run evaluates on the lines of the file that the first was trained on."""
    name = "sudoku:puzzles"
    (run_here / "puzzles").mkdir()
    few = ["data.trained=sudoku/30", "data.predicted=sudoku/30", "puzzles.num_trained=6"]
    puzzles = load_puzzles(load_recipe("sudoku-small", few), "trained")
    write_puzzles(run_here / "puzzles" / "train.csv", puzzles)
    changes = [
        f"data.trained={name}", f"data.predicted={name}", "puzzles.num_trained=0",
        "train.num_steps=2", "train.global_batch=4", "model.dim=16", "model.num_heads=2",
    ]  # fmt: skip
    assert call("pretrain", "--recipe", "sudoku-small", "--run-name", "a", changes=changes) == 0
    first = find_checkpoints(Run.named("a").checkpoints)[0]
    more = [
        *changes, "puzzles.num_trained=2", f"data.evaluated={name}", "train.eval_every=1",
        f"train.start_from={first}",
    ]  # fmt: skip
    assert call("pretrain", "--recipe", "sudoku-small", "--run-name", "b", changes=more) == 2
    assert "data.evaluated: every puzzle, or one of its symm" in capsys.readouterr().err


def test_several_processes_measure_what_one_does(run_here):
    assert call("pretrain", "--run-name", "alone", changes=EVALUATED) == 0
    call_in_processes(2, "pretrain", "--run-name", "two", changes=EVALUATED)
    alone, two = (evaluations(Run.named(name)) for name in ("alone", "two"))
    for step, line in alone.items():
        assert two[step][LOSS] == pytest.approx(line[LOSS], rel=1e-3)


def test_evaluated_solutions_are_never_trained_on():
    data = DataSettings(
        trained=("arc1/training",), predicted=("arc1/evaluation",), left_out=ARC1_LEAKS,
        evaluated=("arc1/training",), num_evaluated=25,
    )  # fmt: skip
    evaluated = choose_evaluated_tasks(data)
    assert len(evaluated) == 25
    assert [t.task_id for t in evaluated] == [t.task_id for t in choose_evaluated_tasks(data)]
    tasks, with_solutions, _ = choose_trained_tasks(data)
    assert {t.task_id for t in evaluated} <= {t.task_id for t in tasks}
    trained = [task for task, is_solved in zip(tasks, with_solutions, strict=True) if is_solved]
    keys = {key for task in trained for key in training_keys(task)}
    assert all(keys.isdisjoint(scoring_keys(task)) for task in evaluated)
    assert {t.task_id for t in (*evaluated, *tasks)}.isdisjoint(ARC1_LEAKS)


def test_what_cannot_be_evaluated_is_one_line(run_here, capsys):
    for changes, line in (
        (["train.eval_every=2"], "train.eval_every needs data.evaluated"),
        (["checkpoint.keep_best=true"], "checkpoint.keep_best needs train.eval_every"),
        (
            ["data.evaluated=arc1/training", "train.eval_every=2", "data.max_side=1"],
            "data.evaluated: no task to evaluate on",
        ),
    ):
        assert call("pretrain", "--run-name", "a", changes=[*SHORT, *changes]) == 2
        captured = capsys.readouterr()
        assert line in captured.err
        assert captured.err.count("\n") == 1


def test_a_held_out_test_that_does_not_fit_the_canvas_is_one_line(run_here, capsys):
    """Its demonstrations do, so they could be trained on."""
    small, large = ([[1]], [[2] * 5] * 5)
    task = {
        "train": [{"input": small, "output": [[2]]}], "test": [{"input": small, "output": large}]
    }  # fmt: skip
    (run_here / "tasks").mkdir()
    (run_here / "tasks" / "grows.json").write_text(json.dumps(task))
    changes = [*SHORT, "data.evaluated=folder:tasks", "train.eval_every=2", "data.max_side=5",
               "data.predicted="]  # fmt: skip
    assert call("pretrain", "--run-name", "a", changes=changes) == 2
    line = "data.evaluated: task 'grows': a test has a side of 5, beyond model.canvas_side=4"
    assert line in capsys.readouterr().err


def test_the_page_draws_evaluations(run_here):
    assert call("pretrain", "--run-name", "a", changes=EVALUATED) == 0
    assert call("report", "--run-name", "a", changes=()) == 0
    page = Run.named("a").report.read_text()
    curves = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["training"][0]
    losses = [line[LOSS] for line in evaluations(Run.named("a")).values()]
    drawn = [value for value in curves[LOSS] if value is not None]
    assert np.allclose(drawn, losses, rtol=1e-5)
    assert curves["last"]["loss"] is not None
