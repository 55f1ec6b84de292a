"""The stage plan: every recipe on every card, and settings that memory demands."""

import json
import re
import time
from dataclasses import replace

import pytest
from commands import call, workload

import solver.memory  # before a test replaces the model that it builds
from pipeline.budget import learning_rate
from pipeline.recipes import RECIPES, load_recipe
from pipeline.stages import plan as stage
from pipeline.workload import read_workload
from solver.cards import Card, choose_card

pytestmark = pytest.mark.usefixtures("no_concept")

GPUS = ("h100", "h200", "l4x4", "t4x2", "4090", "cpu")
CPU = Card("cpu", "float32", 0.1, 0.1, 0.03, 40.0, 16.0, gap_us=0.0, unfused=6.0, overlaps=False)


@pytest.fixture
def counted_memory(monkeypatch):
    """Memory by a formula, as counting it on a model of each recipe takes seconds."""

    class Model:
        def __init__(self, settings):
            self.settings, self.recompute = settings, False

    def position(model):
        return (100 if model.recompute else 500) * model.settings.dim

    def plan_memory(model, num_rows, at_once, positions, dtype, *, num_processes, on_gpu):
        return {"rows": 8.0 * num_rows, "activations": float(position(model) * at_once)}

    def fitting(model, num_rows, positions, dtype, available, *, num_processes, on_gpu):
        most = int(available - 8 * num_rows) // position(model)
        return min(most, positions) if most >= model.settings.length else 0

    monkeypatch.setattr("solver.kinds.new_model", Model)
    monkeypatch.setattr(solver.memory, "plan_memory", plan_memory)
    monkeypatch.setattr(solver.memory, "fitting_positions", fitting)


def test_every_recipe_is_planned_on_every_card(counted_memory, capsys):
    for name in RECIPES:
        settings, work = load_recipe(name, []), workload(name)
        capsys.readouterr()
        start = time.monotonic()
        for gpu in GPUS:
            card = CPU if gpu == "cpu" else choose_card(gpu)
            stage.plan_workload(card, settings, work)
            shown = capsys.readouterr().out
            limits = re.findall(r"(?:examples|views) +[\d.,]+ +(\w+)", shown)
            assert len(limits) == 2, shown
            assert set(limits) <= {"products", "bytes", "launches"}
            assert f"NPROC={card.count}" in shown
        assert time.monotonic() - start < 5


def planned(card, *changes, recipe="demo"):
    settings = load_recipe(recipe, changes)
    training = replace(workload(recipe).training, settings=settings.train)
    fit = stage.fit_training(card, settings, training)
    return fit, stage.choose_settings(settings, training, fit.card if fit else card, fit)


def test_settings_change_only_where_memory_demands_it(counted_memory):
    card = choose_card("l4x4")
    fit, chosen = planned(card)
    assert chosen == "NPROC=4"
    assert not fit.recompute
    few = ("engine.positions_per_pass=100000", "engine.memory_gb=0.1", "train.global_batch=512")
    fit, chosen = planned(card, *few)
    assert chosen == f'NPROC=4 SET="engine.positions_per_pass={fit.positions_at_once}"'
    fit, chosen = planned(card, "engine.memory_gb=0.002")
    assert chosen == 'NPROC=4 SET="engine.recompute=true"'
    fit, chosen = planned(card, "train.global_batch=66")
    assert chosen == "NPROC=3"


def test_no_memory_at_all_is_said(counted_memory, capsys):
    settings = load_recipe("demo", ["engine.memory_gb=0.000001"])
    stage.plan_workload(choose_card("t4"), settings, read_workload(settings))
    assert "does not fit into the memory" in capsys.readouterr().out


def test_the_command_prints_what_memory_and_time_are_expected(capsys):
    assert call("plan", "--gpu", "t4x2") == 0
    shown = capsys.readouterr().out
    assert "expected by a roofline, not measured; calibrated on" in shown
    assert all(word in shown for word in ("in all", "there is", "pretrain", "predict", "NPROC=2"))
    assert call("plan", "--gpu", "t4", changes=["log.form=json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stage"] for line in lines if line["message"] == "plan"] == ["pretrain", "predict"]


def test_what_to_train_for_so_much_compute(monkeypatch, capsys):
    """On one canvas here, as trying all of them takes seconds."""
    monkeypatch.setattr("pipeline.budget.SIDES", (12,))
    gpu = ("--recipe", "arc1-small", "--gpu", "h100x8", "--nodes", "2")
    assert call("plan", *gpu, "--hours", "0.5", changes=["log.form=json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "h100x8 on 2 machines" in lines[0]["message"]
    choices = [line for line in lines if line["message"] == "choices"]
    assert len(choices) > 3
    for choice in choices:
        assert choice["minutes"] == pytest.approx(30, rel=0.01)
        assert 0 < choice["communication"] < 1
        assert choice["pass@2, %: low"] <= choice["expected"] <= choice["high"]
    best = max(choices, key=lambda choice: choice["expected"])
    *_, settings = lines
    assert (
        f'NPROC=8 SET="data.max_side=12 model.canvas_side=12 model.dim={best["width"]} '
        in (settings["message"])
    )


def test_rates_follow_batch_and_width():
    settings = load_recipe("arc1-small", [])
    assert learning_rate(settings, 128, 64) == settings.train.lr
    assert learning_rate(settings, 512, 1024) == pytest.approx(2 * settings.train.lr)


def test_too_little_compute_is_one_line(capsys):
    assert call("plan", "--recipe", "arc1-small", "--flop", "1e6") == 2
    assert "too little compute" in capsys.readouterr().err
