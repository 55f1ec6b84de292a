"""The stage report: its page has the figures of the score, and comes with a prediction."""

import json
import re
from dataclasses import replace

import pytest
from commands import SHORT, call
from results import data_of, score_of, write_metrics, write_results

from augment.errors import InputError
from augment.prediction import Prediction
from pipeline.page import write_page
from pipeline.run import Run
from pipeline.settings import PredictSettings
from pipeline.vote_store import VoteStore
from submission.rounds import Round
from submission.score import OUTCOMES


def decode(text):
    return [[int(cell) for cell in row] for row in text.split("|")]


@pytest.mark.parametrize("ranking", ["count", "demonstrations"])
def test_every_figure_is_that_of_the_score(tmp_path, arc1, ranking):
    run, tasks = Run(tmp_path / "a"), arc1[:40]
    write_results(run, tasks, ranking)
    run.record("predict", {"predict": {"ranking": ranking}})
    write_page(run)
    data, page = data_of(run)
    score = score_of(run)
    assert {**score, **data["predictions"]["score"]} == score
    assert score["per_task"].keys() >= {"pass@1", "pass@2", "oracle_pass@1"}
    assert set(score["outcomes"]) == set(OUTCOMES[:4])
    submission = json.loads(run.submission.read_bytes())
    shown = data["predictions"]["tasks"]
    assert [task["id"] for task in shown] == list(submission)
    for task, scored in zip(shown, score["tasks"], strict=True):
        for name in ("outcome", "votes", "agreement", "mean_q"):
            assert task[name] == scored[name]
        assert [test["rank"] for test in task["tests"]] == scored["candidate"]
        for test, pair in zip(task["tests"], submission[task["id"]], strict=True):
            assert [decode(grid) for grid in test["attempts"]] == list(pair.values())
            assert test["votes"] == sum(candidate["votes"] for candidate in test["candidates"])
            assert test["votes"] + len(test["dropped"]) in (0, 6)
    assert not re.search(r"https?:|src=|@import|url\(", page)  # it needs no network


def test_predicting_known_answers_writes_the_page(run_here, monkeypatch):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    run = Run.named("a")
    data, _ = data_of(run)
    assert data["predictions"]["score"]["num_tasks"] == len(data["predictions"]["tasks"])
    assert [training["name"] for training in data["training"]] == ["a, pretrain"]
    assert data["versions"].keys() == {"build", "pretrain", "predict"}
    assert {c["reproduced"] for c in data["predictions"]["tasks"][0]["tests"][0]["candidates"]} != {
        None
    }
    for content in ("x\n", '{"step": 1, "loss": "x"}\n'):
        run.metrics_of("pretrain").write_text(content)
        assert call("predict", "--run-name", "a") == 0
        assert data_of(run)[0]["training"] == []
    monkeypatch.setattr("pipeline.stages.predict.write_page", lambda run: 1 / 0)
    assert call("predict", "--run-name", "a") == 0  # what cannot be drawn costs no answer
    assert not run.report.exists()


def test_no_page_is_written_when_time_is_short(run_here, monkeypatch, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    monkeypatch.setattr("pipeline.stages.predict._LEAST_SECONDS_FOR_PAGE", 1e8)
    for limit, is_written in (("2e8", True), ("5e7", False)):  # an earlier page is no page of it
        changes = [*SHORT, f"predict.time_limit_seconds={limit}"]
        assert call("predict", "--run-name", "a", changes=changes) == 0
        assert Run.named("a").report.exists() == is_written
    assert "no page, as the time is over: make report RUN=a" in capsys.readouterr().out


def test_views_that_nobody_checked_have_no_share_of_demonstrations(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a", changes=[*SHORT, "predict.ranking=count"]) == 0
    tasks = data_of(Run.named("a"))[0]["predictions"]["tasks"]
    candidates = [c for task in tasks for test in task["tests"] for c in test["candidates"]]
    assert {candidate["reproduced"] for candidate in candidates} == {None}


def test_votes_of_older_weights_are_shown_but_not_counted(tmp_path, arc1):
    run, task = Run(tmp_path / "a"), arc1[0]
    (answer,) = task.solutions
    votes_on_disk = VoteStore([task], run, PredictSettings(ranking="count"))
    for step, grids in ((0, [answer + 1, answer + 2]), (5, [answer, answer, None, answer + 2])):
        votes = [Prediction(task.task_id, 0, grid, 0.5, view) for view, grid in enumerate(grids)]
        votes_on_disk.add(Round("somebody", step, (task.task_id,), 0, len(grids), True, votes))
    votes_on_disk.finish()
    write_page(run)
    (shown,) = data_of(run)[0]["predictions"]["tasks"]
    assert (shown["votes"], shown["agreement"]) == (3, pytest.approx(2 / 3))
    (test,) = shown["tests"]
    assert (test["votes"], test["num_candidates"], test["num_older"]) == (3, 2, 1)
    assert [(c["votes"], c["is_older"]) for c in test["candidates"]] == [
        (2, False), (1, False), (1, True)
    ]  # fmt: skip
    assert test["dropped"] == [2]
    assert {**score_of(run)["tasks"][0], "votes": 3, "agreement": shown["agreement"]} == (
        score_of(run)["tasks"][0]
    )


def test_training_that_answers_do_not_come_from_is_forgotten(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    names = []
    for steps in (3, 0):
        changes = [*SHORT, "predict.adapt=all", f"adapt.num_steps={steps}", "adapt.log_every=1"]
        assert call("predict", "--run-name", "a", changes=changes) == 0
        names.append([training["name"] for training in data_of(Run.named("a"))[0]["training"]])
    assert names == [["a, pretrain", "a, adapt"], ["a, pretrain"]]


NOTES = [
    ("3", "expected a JSON object"),
    ("x", "not JSON"),
    ('{"predict', "not JSON"),
    ('{"predict": 3}', "not the settings of stages: ['predict']"),
    ('{"predict": {"settings": 3, "code_version": "1"}}', "not the settings of stages"),
    ('{"predict": {"settings": {}, "code_version": [1]}}', "not the settings of stages"),
    ('{"predict": {"settings": {"x": %s}}}' % ("[" * 800 + "]" * 800), "config.json: "),
    ("[" * 100_000, "config.json: "),
    ('{"predict": {"settings": {"x": 1%s}, "code_version": "1"}}' % ("0" * 99), "64-bit"),
]


@pytest.mark.parametrize(("content", "reason"), NOTES)
def test_notes_of_a_run_that_are_none_cost_nothing(arc1, run_here, capsys, content, reason):
    run = Run.named("a")
    write_results(run, arc1[:3])
    for stage in ("score", "report"):
        (run.folder / "config.json").write_text(content)
        capsys.readouterr()
        assert call(stage, "--run-name", "a", changes=[]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.count("left out") == 1
        assert reason in printed
    run.record("predict", {})
    assert run.recorded().keys() == {"predict"}


@pytest.mark.parametrize(
    "settings",
    [
        {"predict": 3},
        {"predict": {"ranking": "x", "pool": 3}, "data": []},
        {"predict": {"ranking": ["count"], "pool": {}}, "data": {"predicted": 3}},
        {"model": {"canvas_side": [1]}, "data": {"predicted": {"arc1/evaluation": 1}}},
        {"model": {"canvas_side": True}, "data": {"predicted": [[]]}},
    ],
)
def test_settings_of_odd_types_are_as_good_as_none(arc1, run_here, settings):
    run = Run.named("a")
    write_results(run, arc1[:3])
    run.record("predict", settings)
    for stage in ("score", "report"):
        assert call(stage, "--run-name", "a", changes=[]) == 0
    assert data_of(run)[0]["predictions"]["canvas_side"] is None


def test_a_run_without_answers_has_a_page(tmp_path, arc1):
    run = Run(tmp_path / "a")
    write_results(run, [task.without_solutions() for task in arc1[:5]])
    write_page(run)
    data, _ = data_of(run)
    assert data["predictions"]["score"] is None
    assert [task["outcome"] for task in data["predictions"]["tasks"]] == [None] * 5
    with pytest.raises(InputError, match=r"challenges.json: no score, as the solutions"):
        score_of(run)


@pytest.mark.parametrize(
    ("sources", "count", "expected"),
    [
        (["arc1/evaluation"], 400, "ARC-AGI-1"),
        (["arc1/evaluation"], 399, None),
        (["arc1/training"], 400, None),
        (["arc1/evaluation", "arc2/evaluation"], 400, None),
    ],
)
def test_published_scores_compare_with_all_evaluation_tasks_only(
    tmp_path, arc1, sources, count, expected
):
    run = Run(tmp_path / "a")
    small = replace(arc1[0], train=arc1[0].train[:1])
    write_results(run, [replace(small, task_id=f"t{number:03}") for number in range(count)])
    run.record("predict", {"data": {"predicted": sources}})
    write_page(run)
    assert data_of(run)[0]["predictions"]["benchmark"] == expected


def test_runs_are_drawn_beside_each_other(run_here, capsys):
    for name in "ab":
        write_metrics(Run.named(name).metrics_of("pretrain"), 5)
    write_metrics(Run.named("b").metrics_of("adapt"), 5)
    assert call("report", "--run-name", "a", "--beside", "b", changes=[]) == 0
    data, _ = data_of(Run.named("a"))
    assert data["predictions"] is None
    assert [training["name"] for training in data["training"]] == [
        "a, pretrain",
        "b, pretrain",
        "b, adapt",
    ]
    assert call("report", "--run-name", "a", "--beside", "c", changes=[]) == 2
    assert "runs/c/metrics.jsonl: no metrics of training" in capsys.readouterr().err
    assert call("report", "--run-name", "c", changes=[]) == 2
    assert "runs/c: nothing to report" in capsys.readouterr().err
    Run.named("b").metrics_of("pretrain").write_text('{"step": 1}\n{"loss": 1}\n')
    assert call("report", "--run-name", "b", "--beside", "a b", changes=[]) == 0
    assert "runs/b/metrics.jsonl: line 2 is not of the metrics" in capsys.readouterr().out
    data, _ = data_of(Run.named("b"))
    assert [training["name"] for training in data["training"]] == ["b, adapt", "a, pretrain"]
