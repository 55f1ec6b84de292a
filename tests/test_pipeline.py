"""The commands, run as a person runs them."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
from commands import ROOT, SHORT, call, write_task_folder
from conftest import needs_concept

import solver.predict
import solver.train
from augment.dataset import Dataset
from augment.errors import InputError
from augment.files import hash_file
from augment.task import read_challenges, write_challenges, write_solutions
from pipeline import sources, stages
from pipeline.clock import Stopwatch
from pipeline.recipes import RECIPES, describe_settings, load_recipe
from pipeline.runs import Run
from pipeline.sources import (
    BUNDLED,
    fingerprint_sources,
    load_source,
    load_sources,
    refuse_leaks,
    within_side,
)
from pipeline.version import code_version
from solver.checkpoint import checkpoint_step, latest_checkpoint
from submission.rounds import read_votes
from submission.writer import build_submission, read_submission, write_submission


def test_from_tasks_to_a_score(run_here, capsys):
    assert call("build", "--run-name", "a") == 0
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    folder = run_here / "runs" / "a"
    tasks = read_challenges(folder / "challenges.json", folder / "solutions.json")
    expected = [task for task in load_source("arc1/training") if task.longest_side() <= 4]
    assert [task.task_id for task in tasks] == [task.task_id for task in expected]
    hidden = json.loads((folder / "challenges.json").read_text())
    assert all(set(pair) == {"input"} for task in hidden.values() for pair in task["test"])
    submission = json.loads((folder / "submission.json").read_text())
    assert list(submission) == [task.task_id for task in tasks]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(json.loads((folder / "config.json").read_text())) == {
        "build", "pretrain", "predict"
    }  # fmt: skip

    capsys.readouterr()
    assert call("score", "--run-name", "a", changes=()) == 0
    assert "oracle pass@1000" in capsys.readouterr().out
    assert call("score", "--run-name", "a", "--json", changes=()) == 0
    by_run = json.loads(capsys.readouterr().out)
    files = [
        part
        for name in ("submission", "challenges", "solutions")
        for part in (f"--{name}", str(folder / f"{name}.json"))
    ]
    assert call("score", *files, "--json", changes=()) == 0
    by_files = json.loads(capsys.readouterr().out)
    assert by_files["per_task"]["pass@2"] == by_run["per_task"]["pass@2"]
    assert "oracle_pass@1" in by_run["per_task"]
    assert "oracle_pass@1" not in by_files["per_task"]
    assert by_run["num_outputs"] == sum(len(task.test_inputs) for task in tasks)


def test_exported_weights_answer_the_same(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    assert call("export", "--run-name", "a", "--to", "kept", changes=()) == 0
    assert call("predict", "--run-name", "b", changes=[*SHORT, "weights=kept"]) == 0
    first, second = (run_here / "runs" / name / "submission.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert call("export", "--run-name", "b", "--to", "kept", changes=()) == 2


def test_weights_remember_the_answers_they_were_taught(run_here, capsys):
    """By content: the tasks come back under other names, and from another source."""
    taught = [*SHORT, "data.trained=arc1/training", "data.predicted="]
    assert call("pretrain", "--run-name", "a", changes=taught) == 0
    tasks = [
        task for task in load_source("arc1/training") if task.longest_side(with_answers=True) <= 4
    ]
    renamed = [replace(task, task_id=f"renamed{number}") for number, task in enumerate(tasks)]
    paths = write_task_folder(run_here / "folder", renamed)
    changes = [*SHORT, "data.predicted=folder:folder"]
    assert call("predict", "--run-name", "a", changes=changes) == 2
    error = capsys.readouterr().err
    assert f"trained on the answers of {len(tasks)} of the tasks to predict" in error
    assert "renamed0" in error
    for path in paths:
        task = json.loads(path.read_text())
        path.write_text(json.dumps({**task, "test": [{"input": t["input"]} for t in task["test"]]}))
    assert call("predict", "--run-name", "a", changes=changes) == 2  # hidden answers as well
    assert f"trained on the answers of {len(tasks)} of the tasks" in capsys.readouterr().err


def test_a_stopped_run_writes_the_metrics_of_an_unstopped_one(run_here):
    assert call("pretrain", "--run-name", "whole") == 0
    assert call("pretrain", "--run-name", "parts", changes=[*SHORT, "train.num_steps=3"]) == 0
    metrics = run_here / "runs" / "parts" / "metrics.jsonl"
    # What a run killed after its last checkpoint leaves behind is written again.
    metrics.write_text(metrics.read_text() + '{"step": 4, "loss": 0}\n{"step": 6, "lo')
    assert call("pretrain", "--run-name", "parts") == 0
    whole, parts = (
        [
            {k: v for k, v in json.loads(line).items() if k != "examples_per_second"}
            for line in (run_here / "runs" / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    assert parts == whole


def test_a_time_limit_stops_a_run_that_can_go_on(run_here, capsys):
    changes = [*SHORT, "train.time_limit_seconds=0.000001"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert "step 1 of 6" in capsys.readouterr().out
    assert call("pretrain", "--run-name", "a") == 0
    assert "going on from" in capsys.readouterr().out


def test_a_changed_setting_does_not_go_on_silently(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "train.lr=0.5"]) == 2
    error = capsys.readouterr().err
    assert "train.lr was 0.001, now 0.5" in error
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "data.seed=9"]) == 2
    assert "data.seed was 0, now 9" in capsys.readouterr().err


def test_tasks_never_seen_and_tasks_too_large_are_answered_too(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [
        *SHORT, "data.predicted=arc1/training,arc2/evaluation", "data.max_side=9",
        f"weights={Run.named('a').checkpoints / 'step_000000006'}",
    ]  # fmt: skip
    capsys.readouterr()
    assert call("predict", "--run-name", "b", changes=changes) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d+ tasks do not fit the 4x4 canvas", printed)
    assert re.search(r"model \d+ of \d+, fallback \d+", printed)
    changes = [
        *SHORT, "data.predicted=arc1/evaluation", "data.max_side=4", "data.seed=1",
        f"weights={Run.named('a').checkpoints / 'step_000000006'}",
    ]  # fmt: skip
    assert call("predict", "--run-name", "c", changes=changes) == 0
    assert re.search(r"adapt: \d+ tasks, at most 3 steps", capsys.readouterr().out)
    assert call("predict", "--run-name", "a", changes=SHORT) == 0
    assert "adapt" not in capsys.readouterr().out
    assert call("predict", "--run-name", "a", changes=[*SHORT, "predict.adapt=all"]) == 0
    assert re.search(r"adapt: \d+ tasks, at most 3 steps", capsys.readouterr().out)


def votes_of(name):
    return {
        (p.task_id, p.test, p.view)
        for some in read_votes(Run.named(name).votes).values()
        for p in some
    }


def test_a_limit_that_is_far_away_changes_nothing(run_here, monkeypatch):
    monkeypatch.setattr("pipeline.clock._age_of_job", lambda: 0.0)
    assert call("pretrain", "--run-name", "a") == 0
    weights = f"weights={latest_checkpoint(Run.named('a').checkpoints)}"
    for name, limit in (("b", 0), ("c", 1e6)):
        changes = [*SHORT, weights, "predict.num_views=7", f"predict.time_limit_seconds={limit}"]
        assert call("predict", "--run-name", name, changes=changes) == 0
    assert votes_of("b") == votes_of("c")
    assert Run.named("b").submission.read_bytes() == Run.named("c").submission.read_bytes()


def test_a_limit_is_filled_as_far_as_measured_speed_allows(run_here, monkeypatch):
    """On a clock on which every view takes a second, and calls that do no work none."""
    assert call("pretrain", "--run-name", "a") == 0
    now = 0.0
    monkeypatch.setattr("pipeline.clock._age_of_job", lambda: 0.0)
    monkeypatch.setattr("pipeline.clock.Watchdog.__enter__", lambda self: None)
    monkeypatch.setattr("pipeline.clock.time.monotonic", lambda: now)
    answer_views = solver.predict.predict

    def predict_slowly(weights, tasks, work, settings, engine, on_views, has_time_for):
        def on_views_slowly(count, flop):
            nonlocal now
            now += count
            on_views(count, flop)

        return answer_views(weights, tasks, work, settings, engine, on_views_slowly, has_time_for)

    monkeypatch.setattr("pipeline.job.predict", predict_slowly)
    tests = sum(len(t.test_inputs) for t in within_side(load_source("arc1/training"), 4))
    limit = 6.5 * tests
    changes = [*SHORT, "predict.num_views=7", f"predict.time_limit_seconds={limit}"]
    changes.append("predict.ranking=count")
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert 0.6 * limit < now < limit
    views = Counter(view for _, _, view in votes_of("a"))
    assert len(views) > 1
    assert set(views.values()) == {tests}


def test_votes_of_other_tasks_are_not_taken_up(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    for side in (3, 4):
        changes = [*SHORT, f"data.max_side={side}"]
        assert call("predict", "--run-name", "a", changes=changes) == 0
        tasks = within_side(load_source("arc1/training"), side)
        asked = {(task.task_id, test) for task in tasks for test in range(len(task.test_inputs))}
        assert {(task_id, test) for task_id, test, _ in votes_of("a")} == asked
    assert "rounds by other weights or settings dropped" in capsys.readouterr().out


def test_training_that_is_taken_up_under_a_limit_leaves_time_for_views(run_here, monkeypatch):
    monkeypatch.setattr("pipeline.clock._age_of_job", lambda: 0.0)
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.adapt=all"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    expected = votes_of("a")
    shutil.rmtree(Run.named("a").votes)
    changes.append("predict.time_limit_seconds=1e6")
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert votes_of("a") == expected


@pytest.mark.parametrize("limit", [0, 2.5])
def test_a_stage_that_cannot_print_ends_well_too(run_here, limit):
    changes = [*SHORT, f"weights={ROOT / 'solver/weights/demo'}"]
    command = [sys.executable, "-m", "pipeline", "predict"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--set", " ".join([*changes, f"predict.time_limit_seconds={limit}"])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    read_submission(Run.named("demo").submission, within_side(load_source("arc1/training"), 4))


def test_time_that_is_up_at_once_leaves_a_valid_file(run_here):
    """Also where it is up before torch is loaded; the same command then goes on."""
    command = [sys.executable, "-m", "pipeline", "predict", "--run-name", "a"]
    changes = " ".join([*SHORT, f"weights={ROOT / 'solver/weights/demo'}"])
    tasks = within_side(load_source("arc1/training"), 4)
    for limit in ("0.001", "2.5"):
        limited = f"{changes} predict.time_limit_seconds={limit}"
        done = subprocess.run(
            [*command, "--set", limited],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "time is up" in done.stdout
        read_submission(Run.named("a").submission, tasks)
    assert call("predict", "--run-name", "a", changes=changes.split()) == 0


def test_a_sweep_scores_every_number_of_views_and_steps(run_here, capsys):
    """With the numbers of `predict` it has the score of `predict`."""
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.num_supervision_steps=2", "predict.ranking=count"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    capsys.readouterr()
    assert call("score", "--run-name", "a", "--json", changes=[]) == 0
    score = json.loads(capsys.readouterr().out)
    assert call("sweep", "--run-name", "a", "--views", "1,3", "--steps", "1,2") == 0
    found = json.loads((run_here / "runs" / "a" / "sweep.json").read_text())
    lines = {(line["views"], line["steps"]): line for line in found["scores"]}
    assert list(lines) == [(1, 1), (3, 1), (1, 2), (3, 2)]
    for k in (1, 2):
        for metric in ("per_task", "per_output"):
            swept = lines[3, 2][f"pass@{k} {metric.replace('_', ' ')}"]
            assert swept == score[metric][f"pass@{k}"]
    flop = {key: line["flop"] for key, line in lines.items()}
    assert flop[3, 2] == pytest.approx(2 * flop[3, 1])
    assert flop[3, 1] > 2 * flop[1, 1]
    assert call("sweep", "--run-name", "a", "--views", "5,1000", "--steps", "1") == 0
    found = json.loads((run_here / "runs" / "a" / "sweep.json").read_text())
    assert [line["views"] for line in found["scores"]] == [5, 7]  # as many as there are
    hidden = [t.without_answers() for t in within_side(load_source("arc1/training"), 3)]
    write_task_folder(run_here / "hidden", hidden)
    assert call("sweep", "--run-name", "a", changes=[*SHORT, "data.predicted=folder:hidden"]) == 2
    assert "the answers of some of these tasks are not known" in capsys.readouterr().err
    assert call("sweep", "--run-name", "a", "--views", "1,x") == 2
    assert "expected numbers such as 1,8,32" in capsys.readouterr().err


def test_training_that_always_diverges_leaves_the_weights_as_they_were(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [
        *SHORT, "data.predicted=arc1/evaluation", "adapt.lr=1e9", "adapt.rows_lr=1e9",
        "weights=runs/a/checkpoints/step_000000006",
    ]  # fmt: skip
    assert call("predict", "--run-name", "b", changes=changes) == 0
    printed = capsys.readouterr().out
    assert printed.count("at half the learning rates") == 4
    assert "given up; the tasks are answered as learned in 0 steps" in printed
    assert re.search(r"model (\d+) of \1, fallback 0", printed)
    assert set(read_votes(Run.named("b").votes)) == {0}


def test_training_that_diverges_goes_on_with_smaller_rates(run_here, capsys, monkeypatch):
    """From the last whole state; and what came out of range once needs not do so again."""
    assert call("pretrain", "--run-name", "a") == 0
    step, broken = solver.train.train_step, []

    def break_once(training, batch, settings, engine):
        step(training, batch, settings, engine)
        if training.step == 5 and not broken:
            broken.append(settings.lr)
            training.model.token_embedding.data.fill_(math.nan)

    monkeypatch.setattr("solver.train.train_step", break_once)
    changes = [*SHORT, "predict.adapt=all", "adapt.num_steps=8", "checkpoint.every=2"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    printed = capsys.readouterr().out
    assert "not finite at step 6; on from step 4 at half the learning rates" in printed
    assert set(read_votes(Run.named("a").votes)) == {0, 4, 8}


@pytest.mark.parametrize(
    ("schedule", "stopped", "allowed"),
    [("constant", 4, True), ("wsd", 2, True), ("wsd", 4, False), ("cosine", 2, False)],
)
def test_a_run_is_made_longer_only_while_its_rate_goes_on(
    run_here, capsys, monkeypatch, schedule, stopped, allowed
):
    changes = [*SHORT, f"train.schedule={schedule}", "train.decay_share=0.5", "checkpoint.every=2"]
    changes += ["train.warmup_steps=0"]
    settings = load_recipe("demo", [*changes, "train.num_steps=4"])
    run = Run.named("a")
    with monkeypatch.context() as patch:
        steps = count()
        patch.setattr(Stopwatch, "should_stop", lambda self: next(steps) == stopped)
        stages.pretrain(settings, run)
    assert latest_step(run) == stopped
    code = call("pretrain", "--run-name", "a", changes=[*changes, "train.num_steps=8"])
    assert code == (0 if allowed else 2)
    if not allowed:
        assert "train.rate_of_next_step was" in capsys.readouterr().err
    assert latest_step(run) == (8 if allowed else stopped)


def latest_step(run):
    latest = latest_checkpoint(run.checkpoints)
    return latest and checkpoint_step(latest)


def test_weights_that_are_named_go_before_those_of_the_run(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, "weights=nowhere"]) == 2
    assert "nowhere: no such checkpoint" in capsys.readouterr().err


def test_what_stands_in_the_way_is_named(run_here, capsys):
    (run_here / "runs").mkdir()
    (run_here / "runs" / "file").write_text("")
    assert call("build", "--run-name", "file") == 2
    assert call("build", "--run-name", "x" * 300) == 2
    assert call("pretrain", "--run-name", "a") == 0
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: runs/") for line in errors] == [True] * 2
    (run_here / "runs" / "a" / "config.json").write_text("3")
    assert call("predict", "--run-name", "a") == 0
    assert "config.json: not the settings of a run; written anew" in capsys.readouterr().out


def test_a_run_is_for_one_command_at_a_time(run_here, capsys):
    with Run.named("a").lock():
        for stage in ("pretrain", "predict"):
            assert call(stage, "--run-name", "a") == 2
            assert "error: runs/a: another process is at work in it" in capsys.readouterr().err
    assert call("pretrain", "--run-name", "a") == 0


def test_task_ids_are_shown_as_they_are(run_here, capsys, arc1):
    for task_id in ("[/a]", "[red]x", ":smile:"):
        task = replace(arc1[0], task_id=task_id)
        write_challenges(run_here / "c.json", [task])
        write_solutions(run_here / "a.json", [task])
        submission, _ = build_submission([task], {})
        write_submission(run_here / "s.json", submission, [task])
        files = ["--submission", "s.json", "--challenges", "c.json", "--solutions", "a.json"]
        assert call("score", *files, changes=()) == 0
        assert task_id in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (["build", "--recipe", "nope"], [], "recipe 'nope' is not known; choose from demo, arc1"),
        (["build"], ["train.speed=1"], "setting 'train.speed' is not known; choose from train."),
        (["build"], ["speed=1"], "choose from data, model, train"),
        (["build"], ["train=1"], "setting 'train' is not known"),
        (["build"], ["train.lr.x=1"], "setting 'train.lr.x' is not known"),
        (["build"], ["train.lr"], "expected name=value"),
        (["build"], ["train.lr=fast"], "setting train.lr=fast: Input should be a valid number"),
        (["build"], ["train.num_steps=1.5"], "setting train.num_steps=1.5: Input should be"),
        (["build"], ["model.variant=cnn"], "Input should be 'attention' or 'mlp'"),
        (["build"], ["engine.dtype=int8"], "Input should be 'auto', 'bfloat16'"),
        (["build"], ["train.global_batch=0"], "global_batch must be at least 1, got 0"),
        (["build"], ["data.predicted=arc3/training"], "source 'arc3/training' is not known; choo"),
        (["build"], ["data.predicted=folder:nowhere"], "nowhere: not a folder"),
        (["build"], ["data.predicted=kaggle/test:nowhere"], "challenges.json: cannot be read"),
        (["build"], ["data.predicted=arc1/training,arc1/training"], "'007bbfb7' comes twice"),
        (["build"], ["data.left_out=abc"], "data.left_out: abc not in data.trained"),
        (["build"], ["data.trained=arc1/training"], "training would see answers of"),
        (["build"], ["train.lr='3"], "No closing quotation"),
        (["build"], ["train.lr=nan"], "lr must be a number below 2147483648, got nan"),
        (["build"], ["train.rows_lr=inf"], "rows_lr must be a number"),
        (["build"], ["data.seed=-1"], "seed must be at least 0, got -1"),
        (["build"], ["train.betas=0.9,1"], "betas must be in [0, 1)"),
        (["build"], ["train.num_steps=99999999999999999999"], "num_steps must be a number below"),
        (["build"], ["model.dim=0"], "dim must be at least 2"),
        (["build"], ["engine.tokens_per_pass=-1"], "tokens_per_pass must be at least 0"),
        (["build", "--run-name", "a/b"], [], "run 'a/b': a run's name is one folder name"),
        (["build", "--run-name", ".."], [], "run '..'"),
        (["predict"], ["weights=nowhere"], "nowhere: no such checkpoint"),
        (["predict", "--recipe", "arc1"], [], "no checkpoint; pretrain first"),
        (["predict"], ["data.max_side=1"], "no task to predict"),
        (["score"], None, "score needs --run-name, or --submission"),
        (["score", "--run-name", "nope"], None, "challenges.json: cannot be read"),
        (["data", "nope"], None, "source 'nope' is not known"),
    ],
)
def test_errors_are_one_line(run_here, capsys, arguments, changes, named):
    assert call(*arguments, changes=changes) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert not list(run_here.rglob("dataset.json"))
    # Where the tasks are known there is a valid file, whatever else is wrong.
    knows_tasks = arguments[0] == "predict" and "data.max_side=1" not in changes
    assert len(list(run_here.rglob("submission.json"))) == knows_tasks


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
    assert "runs/a/dataset is whole and built from the same: kept" in capsys.readouterr().out


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
    index = stages.build(load_recipe("demo", []), Run.named("a")).index
    assert index.digest == "864b41f4bc8681d6139afbe3e23908368bfc24f23513f5c3fde275c3ca04e2e3"


def test_the_files_of_every_source_are_known(run_here, arc1):
    write_challenges(run_here / "arc-agi_test_challenges.json", arc1[:1])
    names = [*BUNDLED, "kaggle/test:."]
    before = [fingerprint_sources([name]) for name in names]
    assert before == [fingerprint_sources([name]) for name in names]
    assert len(set(before)) == len(names)
    write_solutions(run_here / "arc-agi_test_solutions.json", arc1[:1])
    assert [fingerprint_sources([name]) for name in names[:-1]] == before[:-1]
    assert fingerprint_sources(names[-1:]) != before[-1]


def test_settings_are_read_by_their_type():
    settings = load_recipe(
        "arc1", ["train.lr=3e-4", "train.betas=0.8,0.9", "data.trained=", "engine.compile=true"]
    )
    assert settings.train.lr == 3e-4
    assert settings.train.betas == (0.8, 0.9)
    assert settings.data.trained == ()
    assert settings.engine.compile == "true"
    assert asdict(settings)["train"]["lr"] == 3e-4


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_is_explained(recipe, capsys):
    described = list(describe_settings(RECIPES[recipe]()))
    assert len({name for name, _, _ in described}) == len(described)
    assert all(len(meaning) > 5 for _, _, meaning in described)
    assert RECIPES[recipe].__doc__
    assert call("pretrain", "--help", changes=()) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}=" in shown for name, _, _ in described)


def test_recipes_of_the_reference_have_its_settings():
    for recipe in ("arc1", "arc2"):
        model, train = RECIPES[recipe]().model, RECIPES[recipe]().train
        assert (model.dim, model.num_heads, model.num_layers, model.prefix_length) == (
            512, 8, 2, 16
        )  # fmt: skip
        assert (model.num_cycles, model.num_latent_steps, model.max_supervision_steps) == (3, 4, 16)
        assert (train.lr, train.betas, train.weight_decay) == (1e-4, (0.9, 0.95), 0.1)
        assert (train.rows_lr, train.rows_weight_decay, train.warmup_steps) == (1e-2, 0.1, 2000)
        assert (train.global_batch, train.ema_rate, train.atan2_scale) == (768, 0.999, 1.0)


SIZES = {
    "arc1/training": (400, 416),
    "arc1/evaluation": (400, 419),
    "arc2/training": (1000, 1076),
    "arc2/evaluation": (120, 172),
    "arc2-167/training": (1000, 1076),
    "arc2-167/evaluation": (120, 167),
    "concept": (160, 480),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_concept) if n == "concept" else n for n in BUNDLED]
)
def test_sources_are_whole(name):
    tasks = load_source(name)
    num_outputs = sum(len(task.answers) for task in tasks)
    assert (len(tasks), num_outputs) == SIZES[name]


@needs_concept
def test_data_prints_every_source(capsys):
    stages.data()
    printed = capsys.readouterr().out
    assert all(name in printed for name in BUNDLED)


def test_kaggle_files_with_and_without_solutions(run_here, arc1):
    write_challenges(run_here / "arc-agi_evaluation_challenges.json", arc1[:3])
    tasks = load_source(f"kaggle/evaluation:{run_here}")
    assert [task.task_id for task in tasks] == [task.task_id for task in arc1[:3]]
    assert all(task.answers is None for task in tasks)
    write_solutions(run_here / "arc-agi_evaluation_solutions.json", arc1[:3])
    assert all(t.answers is not None for t in load_source(f"kaggle/evaluation:{run_here}"))


@pytest.fixture
def repository(tmp_path, monkeypatch, arc1):
    """A repository with two one-task files on loopback, and the registry of their hashes."""
    served = tmp_path / "served"
    lines = [
        f"corpus/Group/{path.name} sha256:{hash_file(path)}"
        for path in write_task_folder(served / "corpus" / "Group", arc1[:2])
    ]
    (tmp_path / "registry").write_text("\n".join(lines))
    handler = partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "_CONCEPT_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(sources, "_CONCEPT_REGISTRY", tmp_path / "registry")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield served
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_concept_is_downloaded_once_and_checked(repository, arc1):
    downloaded = load_source("concept")
    expected = sorted(task.task_id for task in arc1[:2])
    assert [task.task_id for task in downloaded] == expected
    shutil.rmtree(repository / "corpus")
    assert [task.task_id for task in load_source("concept")] == expected


def test_a_changed_or_missing_download_is_refused(repository):
    path = next(repository.rglob("*.json"))
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match="source concept: the download failed"):
        load_source("concept")
    path.unlink()
    with pytest.raises(InputError, match="set ARC_DATA_DIR to a folder"):
        load_source("concept")


def test_the_registry_names_the_whole_corpus():
    lines = sources._CONCEPT_REGISTRY.read_text().splitlines()
    assert len(lines) == SIZES["concept"][0]
    assert all(re.fullmatch(r"corpus/\w+/\w+\.json sha256:[0-9a-f]{64}", line) for line in lines)


@pytest.mark.parametrize(
    ("trained", "predicted", "count"),
    [
        ("arc2/training", "arc1/evaluation", 376),
        ("arc1/evaluation", "arc2/evaluation", 7),
        ("arc1/training", "arc1/evaluation", 1),
        ("arc2/training", "arc2/evaluation", 0),
        ("arc2/training", "arc2-167/evaluation", 0),
    ],
)
def test_leaks_are_found_by_content(trained, predicted, count):
    """Also the one inside ARC-AGI-1: task 40853293 gives the answer of 070dd51e away."""
    teachers = load_source(trained)
    for asked in (load_source(predicted), [t.without_answers() for t in load_source(predicted)]):
        renamed = [type(t)(f"r{n}", t.train, t.test_inputs, t.answers) for n, t in enumerate(asked)]
        for tasks in (asked, renamed):
            if count == 0:
                refuse_leaks(teachers, tasks)
                continue
            with pytest.raises(InputError) as caught:
                refuse_leaks(teachers, tasks)
            assert f"answers of {count} tasks" in str(caught.value)
            assert str(caught.value).count("(") == count


@needs_concept
@pytest.mark.parametrize("recipe", ["arc1", "arc2"])
def test_recipes_of_the_reference_leak_nothing(recipe):
    data = RECIPES[recipe]().data
    kept = [t for t in load_sources(data.trained) if t.task_id not in data.left_out]
    refuse_leaks(kept, load_sources(data.predicted))


def test_the_code_names_its_version():
    assert code_version() != "unknown"


HEAVY = {"torch", "numba", "rich", "tqdm"}


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["data", "arc1/training"], {"rich"}),
        (["build", "--set", "data.max_side=3"], {"numba", "rich", "tqdm"}),
        (
            ["score", "--submission", "s.json", "--challenges", "c.json", "--solutions", "a.json"],
            {"rich"},
        ),
    ],
)
def test_light_commands_import_nothing_heavy(run_here, arc1, arguments, needed):
    write_challenges(run_here / "c.json", arc1[:1])
    write_solutions(run_here / "a.json", arc1[:1])
    write_submission(run_here / "s.json", build_submission(arc1[:1], {})[0], arc1[:1])
    script = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=run_here,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(done.stdout.splitlines()[-1].split()) == needed
