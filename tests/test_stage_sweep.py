"""The stage sweep scores every number of views and supervision steps."""

import json

import pytest
from commands import SHORT, call, write_task_folder

from pipeline.sources import load_source, within_side


def test_a_sweep_scores_every_number_of_views_and_steps(run_here, capsys):
    """With the numbers of `predict` it has the score of `predict`."""
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.num_supervision_steps=2", "predict.ranking=count"]
    assert call("predict", "--run-name", "a", changes=changes) == 0
    capsys.readouterr()
    assert call("score", "--run-name", "a", "--json", changes=[]) == 0
    score = json.loads(capsys.readouterr().out)
    assert call("sweep", "--run-name", "a", "--views", "1,3", "--steps", "1,2") == 0
    written = json.loads((run_here / "runs" / "a" / "sweep.json").read_text())
    lines = {(line["views"], line["steps"]): line for line in written["scores"]}
    assert list(lines) == [(1, 1), (3, 1), (1, 2), (3, 2)]
    for k in (1, 2):
        for metric in ("per_task", "per_output"):
            swept = lines[3, 2][f"pass@{k} {metric.replace('_', ' ')}"]
            assert swept == score[metric][f"pass@{k}"]
    flop = {key: line["flop"] for key, line in lines.items()}
    assert flop[3, 2] == pytest.approx(2 * flop[3, 1])
    assert flop[3, 1] > 2 * flop[1, 1]
    assert call("sweep", "--run-name", "a", "--views", "5,1000", "--steps", "1") == 0
    written = json.loads((run_here / "runs" / "a" / "sweep.json").read_text())
    assert [line["views"] for line in written["scores"]] == [5, 7]  # as many as there are
    hidden = [t.without_solutions() for t in within_side(load_source("arc1/training"), 3)]
    write_task_folder(run_here / "hidden", hidden)
    assert call("sweep", "--run-name", "a", changes=[*SHORT, "data.predicted=folder:hidden"]) == 2
    assert "the solutions of some of these tasks are not known" in capsys.readouterr().err
    assert call("sweep", "--run-name", "a", "--views", "1,x") == 2
    assert "expected numbers such as 1,8,32" in capsys.readouterr().err
