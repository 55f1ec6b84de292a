"""The memory plan: what a pass takes is what is counted, and what does not fit is refused."""

from dataclasses import replace

import pytest
import torch
from conftest import KINDS, SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table

from augment.errors import InputError
from augment.examples import ExampleStream
from pipeline.recipes import RECIPES
from solver.carry import start_carry
from solver.engine import Engine
from solver.kinds import new_model
from solver.loader import batches
from solver.memory import (
    LiveBytes,
    fitting_positions,
    peak_bytes_of_pass,
    plan_memory,
    plan_training,
    require_memory,
)
from solver.packing import lengths_of
from solver.train import supervise

L4_BYTES = 22.0e9
POSITIONS = 32 * 367  # of the lanes of one of four cards, at the mean of ARC-2's evaluation set


def plan_of_kaggle(recompute: bool = False) -> dict[str, float]:
    recipe = RECIPES["kaggle"]()
    model = new_model(recipe.model)
    model.recompute = recompute
    num_rows = 240 * (1 + recipe.data.views_per_task)
    return plan_memory(model, num_rows, POSITIONS, POSITIONS, torch.bfloat16, num_processes=4)


def test_the_recipe_kaggle_is_planned_to_fit_a_card_of_24_gb():
    plan = plan_of_kaggle()
    assert 3e9 < sum(plan.values()) < 8e9
    engine = Engine(torch.device("cpu"), torch.bfloat16)
    line = require_memory(plan, engine, L4_BYTES)
    assert "planned of 22.0" in line
    assert all(f"{name} " in line for name in plan)
    with pytest.raises(InputError, match=r"^memory: .* of 2\.0 .*engine\.positions_per_pass=2048"):
        require_memory(plan, engine, 2e9)
    assert plan_of_kaggle(recompute=True)["activations"] < plan["activations"] / 3


def test_as_much_is_computed_at_once_as_fits():
    model = new_model(RECIPES["arc1-fast"]().model)
    given = (model, 960, 140_000, torch.bfloat16)
    assert fitting_positions(*given, 80e9) == 140_000
    fitting = fitting_positions(*given, 4e9)
    assert model.settings.length <= fitting < 140_000
    plan = plan_memory(model, 960, fitting, 140_000, torch.bfloat16)
    assert sum(plan.values()) == pytest.approx(4e9, rel=1e-3)
    assert fitting_positions(*given, 0.1e9) == 0


def test_a_gpu_computes_as_much_at_once_as_its_memory_holds(small_dataset):
    """As far as planning goes: the engine follows the plan where the settings leave it open."""
    model, stream = new_model(SMALL_MODEL), ExampleStream(small_dataset, 0)
    engine = Engine(torch.device("cpu"), torch.float32, plans_by_memory=True)
    settings = replace(SHORT_TRAINING, global_batch=64)
    plan_training(model, 60, stream, settings, engine, 1.0)
    assert engine.positions_per_pass == 64 * 116
    plan_training(model, 60, stream, settings, engine, 0.02)
    assert 1 < engine.positions_per_pass < 64 * 116
    with pytest.raises(InputError, match=r"^memory: .*\); engine\.recompute"):
        plan_training(model, 60, stream, settings, engine, 0.001)


@pytest.mark.parametrize(
    "settings",
    [
        *KINDS.values(),
        replace(SMALL_MODEL, canvas="box"),
        replace(SMALL_MODEL, canvas="box", rows_per="task", gradient_cycles=2),
    ],
)
def test_what_a_pass_is_planned_to_take_is_what_it_takes(small_tasks, engine, settings):
    model = new_model(settings)
    dataset = make_dataset(small_tasks, model.settings.rows_per)
    settings = replace(SHORT_TRAINING, global_batch=12)
    batch = next(batches(ExampleStream(dataset, 0), settings, model.settings, engine.group, 0))
    carry = start_carry(model, 12, engine.device, engine.dtype)
    table = make_table(dataset)
    with LiveBytes() as live:
        supervise(model, table, carry, batch, engine)
    positions = int(lengths_of(batch.examples.boxes, model.settings).sum())
    constant, each = peak_bytes_of_pass(model, engine.dtype)
    states = len(model.STATES) * engine.dtype.itemsize * model.settings.dim * positions
    assert constant + each * positions + states == pytest.approx(live.peak, rel=0.1)


def test_positions_as_large_as_the_canvas_are_planned_too(engine):
    settings = replace(
        SMALL_MODEL, canvas="box", patch=10, rows_per="task", conditioning="cells", prefix_length=0
    )
    _, each = peak_bytes_of_pass(new_model(settings), engine.dtype)
    assert each > settings.dim * engine.dtype.itemsize
