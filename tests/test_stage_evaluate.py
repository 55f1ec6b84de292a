"""The stage evaluate: tables, resumption, deadlines, and what it refuses."""

import json
import os
import signal

import pytest

from augment.errors import InputError
from augment.puzzle_set import PuzzleSet
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.settings import change_settings
from pipeline.stages import evaluate as stage
from pipeline.stages.build import build
from pipeline.stages.evaluate import evaluate
from pipeline.stages.predict import predict
from pipeline.stages.pretrain import pretrain

SMALL = (
    "puzzles.num_trained=40", "train.num_steps=2", "train.global_batch=8", "model.dim=16",
    "model.num_heads=2", "engine.dtype=float32", "model.max_supervision_steps=2",
    "puzzles.num_predicted=70", "puzzles.steps=1,3", "log.form=quiet",
)  # fmt: skip


def small(*changes, name="sudoku/30"):
    sources = (f"data.trained={name}", f"data.predicted={name}")
    return load_recipe("sudoku-small", [*sources, *SMALL, *changes])


@pytest.fixture
def trained(run_here):
    run = Run.named("a")
    pretrain(small(), run)
    return run


def read(run):
    return json.loads((run.evaluation / "evaluation.json").read_text())


def test_answers_are_scored_by_steps_and_rating_and_kept(trained, monkeypatch):
    evaluate(small(), trained)
    result = read(trained)
    assert (result["kind"], result["puzzles"], result["predicted"]) == ("sudoku", 70, 70)
    assert [line["steps"] for line in result["by_step"]] == [1, 3]
    assert all(0 < line["cells"] < 1 for line in result["by_step"])
    assert sum(line["puzzles"] for line in result["by_rating"]) == 70
    assert result["flop"] > 0
    assert b"<script" not in (trained.evaluation / "index.html").read_bytes()
    parts = sorted(trained.evaluation.glob("*/*.npz"))
    assert len(parts) == 2
    parts[1].write_bytes(b"cut")
    asked = []
    predict_by_step = stage.predict_by_step

    def count(weights, examples, steps, engine):
        asked.append(len(examples.inputs))
        return predict_by_step(weights, examples, steps, engine)

    monkeypatch.setattr(stage, "predict_by_step", count)
    evaluate(small(), trained)
    assert asked == [6]
    assert read(trained)["by_step"] == result["by_step"]
    assert read(trained)["flop"] == pytest.approx(result["flop"])  # of both calls
    evaluate(small("puzzles.steps=1,2"), trained)  # other answers take the place of these
    assert asked == [6, 64, 6]
    assert len(list(trained.evaluation.glob("*/"))) == 1


def test_another_number_of_puzzles_is_another_data_set(trained, capsys):
    build(small(), trained)
    assert "kept" in capsys.readouterr().out
    build(small("puzzles.num_predicted=5", "data.num_evaluated=5"), trained)
    assert "kept" in capsys.readouterr().out
    build(small("puzzles.num_trained=50"), trained)
    assert "kept" not in capsys.readouterr().out
    assert len(PuzzleSet.load(trained.dataset).questions) == 50


def test_when_the_time_is_over_what_is_answered_counts(trained, monkeypatch):
    predict_by_step = stage.predict_by_step

    def once(weights, examples, steps, engine):
        os.kill(os.getpid(), signal.SIGTERM)
        return predict_by_step(weights, examples, steps, engine)

    monkeypatch.setattr(stage, "predict_by_step", once)
    with pytest.raises(KeyboardInterrupt):
        evaluate(small(), trained)
    assert read(trained)["predicted"] == 64
    monkeypatch.setattr(stage, "predict_by_step", predict_by_step)
    evaluate(small(), trained)
    assert read(trained)["predicted"] == 70


def test_without_time_nothing_is_said_to_be_scored(trained):
    with pytest.raises(InputError, match="before any puzzle was predicted"):
        evaluate(small("predict.time_limit_seconds=0.0001"), trained)
    assert not (trained.evaluation / "evaluation.json").exists()


def test_mazes_count_any_shortest_path_too(run_here):
    run = Run.named("m")
    mazes = small("model.canvas_side=5", "puzzles.num_predicted=5", name="maze/5")
    pretrain(mazes, run)
    evaluate(mazes, run)
    assert all(line["shortest"] is not None for line in read(run)["by_step"])


def test_puzzles_that_were_trained_on_are_refused(trained):
    known = small("data.predicted=sudoku/30", "puzzles.num_trained=1", "puzzles.num_predicted=10")
    with pytest.raises(InputError, match="trained on 10 of the 10 puzzles to evaluate"):
        evaluate(known, trained)
    evaluate(change_settings(known, ["predict.refuse_leaks=false"]), trained)
    assert read(trained)["predicted"] == 10


def test_grids_of_another_size_and_tasks_are_one_line(trained, run_here):
    with pytest.raises(InputError, match=r"for grids of 9x9, and these are of 6x6"):
        evaluate(small("data.predicted=maze/6", "puzzles.num_predicted=2"), trained)
    with pytest.raises(InputError, match="not trained on the kind maze"):
        evaluate(small("data.predicted=maze/9", "puzzles.num_predicted=2"), trained)
    with pytest.raises(InputError, match=r"model\.canvas_side is 9"):
        pretrain(small(name="maze/6"), Run.named("b"))
    with pytest.raises(InputError, match="holds puzzles"):
        predict(small(), trained)
    with pytest.raises(InputError, match="for puzzles it is one of"):
        evaluate(load_recipe("demo", []), trained)
