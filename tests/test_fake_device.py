"""What would run on a GPU runs on a device without values: see fake_device.py and card.py."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from card import ROOT
from fake_device import HRM, TRANSFORMER, longest_training

from pipeline.puzzle_sources import are_puzzles
from pipeline.recipes import RECIPES, load_recipe
from solver.kinds import new_model
from solver.memory import plan_memory

# A recipe of each kind: the others differ from these in what is no matter of shapes.
NAMES = ("arc1", "arc1-fast", "arc1-small", "demo")
# Operations that a step of one process may launch, in bfloat16 and uncompiled.
MOST_OPERATIONS = {
    "arc1": 2300,
    "arc1-fast": 2350,
    "arc1-small": 1450,
    "demo": 1200,
}
# Cases with the recipes and settings of their models.
PLANNED = {
    "arc1 training bfloat16 1": ("arc1", {}),
    "arc1-fast training bfloat16 1": ("arc1-fast", {}),
    "arc1-fast training bfloat16 4": ("arc1-fast", {}),
    "recompute": ("arc1-fast", {}),
    "gradient_cycles": ("arc1-fast", {"num_cycles": 3, "gradient_cycles": 2}),
    "full canvas": ("arc1-fast", {"canvas": "full"}),
    "hrm": ("arc1-fast", HRM),
    "transformer": ("arc1-fast", TRANSFORMER),
}
# The first fault of each case with one put in: the operation, and where our code called it.
PLANTED = {
    "an index on the host": (
        "index_copy_ takes tensors of card and cpu: solver/carry.py:", " in StateWriter.write"),
    "an item in the step": (
        "_local_scalar_dense waits for the device: solver/train.py:", " in supervise"),
    "a mask on the host": (
        "where takes tensors of card and cpu: solver/train.py:", " in supervise"),
    "a wait too early": (
        "a fetch is awaited before the last backward pass has ended: solver/train.py:",
        " in supervise"),
    "a copy that waits": (
        "_to_copy from cpu to card waits for the device: solver/predict.py:",
        " in Predictor._begin_pass"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> dict[str, dict]:
    """All cases by their names; two processes share them."""
    program = [sys.executable, ROOT / "tests" / "fake_device.py"]
    processes = [
        subprocess.Popen(
            [*program, *names],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for names in (("arc1", "arc1-small"), ("arc1-fast", "demo", "options", "plants"))
    ]
    printed = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = [json.loads(line) for text in printed for line in text.splitlines()]
    return {line["case"]: line for line in lines}


def test_the_recipes_of_trm_on_tasks_are_of_four_kinds():
    recipes = {name: load_recipe(name, []) for name in RECIPES}
    recipes = {
        name: recipe
        for name, recipe in recipes.items()
        if recipe.model.kind == "trm" and not are_puzzles(recipe.data.trained)
    }
    longest = {name: longest_training(recipe) for name, recipe in recipes.items()}
    kinds = {
        name: str((recipe.model, longest[name].global_batch, longest[name].optimizer))
        for name, recipe in recipes.items()
    }
    assert set(kinds.values()) == {kinds[name] for name in NAMES}


def test_steps_and_predictions_neither_mix_devices_nor_wait(cases):
    """At the recipes' sizes, in each arithmetic, alone and among four, and with every option."""
    sound = {name: line["faults"] for name, line in cases.items() if name not in PLANTED}
    assert len(sound) == 5 * len(NAMES) + 12
    assert not {name: faults for name, faults in sound.items() if faults}
    assert cases["arc1-fast training bfloat16 4"]["lanes"] == 192
    assert cases["arc1 training bfloat16 1"]["lanes"] == 768
    for name in ("two steps", "out of range"):
        assert cases[name]["outgrown"] > 0
    assert "float16's range" in cases["out of range"]["lines"][0]
    # One for each of up to eight groups and of those predicted again, after the first of two steps.
    assert cases["stop_when_halted"]["waits"]["Predictor._begin_pass"] <= 16
    assert cases["passes"]["uploads"] > cases["arc1-fast training bfloat16 4"]["uploads"]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_fault_is_seen_and_its_place_is_named(cases, plant):
    (first, *_), (begin, end) = cases[plant]["faults"], PLANTED[plant]
    assert first.startswith(begin)
    line, _, place = first.removeprefix(begin).partition(" ")
    assert line.isdigit()
    assert end.strip() in place


@pytest.mark.parametrize("name", NAMES)
def test_a_step_launches_few_operations(cases, name):
    assert cases[f"{name} training bfloat16 1"]["operations"] < MOST_OPERATIONS[name]


@pytest.mark.parametrize("name", PLANNED)
def test_a_step_takes_the_memory_that_was_planned(cases, name):
    """Weights, moments and average are on the device too, and so count; its own memory does not."""
    recipe, changes = PLANNED[name]
    case, model = cases[name], new_model(replace(RECIPES[recipe]().model, **changes))
    model.recompute = name == "recompute"
    positions, num_processes = case["positions"], 4 if name.endswith(" 4") else 1
    plan = plan_memory(
        model, case["rows"], positions, positions, torch.bfloat16,
        num_processes=num_processes, on_gpu=False,
    )  # fmt: skip
    # The moments come to be at the end of the first step, after its peak.
    counted = case["peak_bytes"] + case["moments_bytes"]
    assert sum(plan.values()) == pytest.approx(counted, rel=0.1)
