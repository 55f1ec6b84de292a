"""Whole runs through faults, a short version of ``make chaos``; and what is refused beforehand."""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import SHORT, call
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table
from reliability import ROOT, Trial, chaos, print_chaos
from test_traps import votes_of
from torch.autograd.graph import saved_tensors_hooks

from augment.dataset import ExampleStream
from augment.errors import InputError
from pipeline.recipes import RECIPES
from solver.batch import batches, start_carry
from solver.engine import Engine
from solver.groups import lengths_of
from solver.memory import kept_bytes_per_position, plan_memory, require_memory
from solver.model import TRM
from solver.train import supervise
from solver.world import World


def test_faults_leave_a_valid_file_and_the_same_result(capsys):
    kinds = ("kill worker", "checkpoint altered", "full disk", "NaN")
    trials = chaos(len(kinds), jobs=2, kinds=kinds)
    assert [trial.kind for trial in trials] == list(kinds)
    assert all(trial.reads > 10 for trial in trials)
    for trial in trials:
        assert (trial.invalid, trial.failed) == (0, ""), trial.text
        assert trial.same is not False, trial.text
    assert sum(trial.struck for trial in trials) >= 3
    print_chaos([*trials, Trial("made up", invalid=3)])
    assert "made up" in capsys.readouterr().out


def test_two_nodes_answer_as_one_process(run_here):
    """Two torchrun, as on two machines that share the folder."""
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "weights=runs/a/checkpoints/step_000000006"]
    assert call("predict", "--run-name", "one", changes=changes) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"127.0.0.1:{port}",
        "-m", "pipeline", "predict", "--run-name", "two", "--set", " ".join(changes),
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            launch,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert "2 processes" in "".join(texts)
    one, two = (run_here / "runs" / name for name in ("one", "two"))
    assert votes_of(one) == votes_of(two)
    assert (one / "submission.json").read_bytes() == (two / "submission.json").read_bytes()


def test_a_process_that_waits_in_vain_for_others_to_join_ends_with_a_failure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    script = (
        "import torch, solver.world as world\n"
        "world._LONGEST_JOIN_SECONDS = 0.5\n"
        "world.join_world(torch.device('cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **address, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "RANK": "0"},
        timeout=100,
    )
    assert done.returncode == 1


def l4(**changes) -> Engine:
    """The engine of one of the competition's four cards, as far as planning is concerned."""
    engine = Engine(torch.device("cuda"), torch.bfloat16, planned_tokens=32_768, world=World(0, 4))
    return replace(engine, **changes)


def test_the_recipe_kaggle_is_planned_to_fit_a_card_of_24_gb():
    recipe = RECIPES["kaggle"]()
    model = TRM(recipe.model)
    num_rows = 240 * (1 + recipe.data.views_per_task)
    plan = plan_memory(model, num_rows, recipe.adapt.global_batch, l4())
    assert 6e9 < sum(plan.values()) < 18e9
    line = require_memory(plan, l4(), 24)
    assert "planned of 24.0" in line
    assert all(f"{name} " in line for name in plan)
    with pytest.raises(InputError, match=r"^memory: .* of 8\.0 .*engine\.tokens_per_pass=16384"):
        require_memory(plan, l4(), 8)
    model.recompute = True
    less = plan_memory(model, num_rows, recipe.adapt.global_batch, l4())
    assert less["activations"] < plan["activations"] / 4


def test_a_run_that_does_not_fit_is_refused_before_it_starts(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.adapt=all", "engine.memory_gb=0.001"]
    assert call("predict", "--run-name", "a", changes=changes) == 2
    assert "error: memory: 0." in capsys.readouterr().err
    assert (run_here / "runs" / "a" / "submission.json").exists()


@pytest.mark.parametrize(
    "changes",
    [{}, {"canvas": "box"}, {"canvas": "box", "rows_per": "task", "gradient_cycles": 2}],
)
def test_planned_activations_are_those_that_are_kept(small_tasks, engine, changes):
    model = TRM(replace(SMALL_MODEL, **changes))
    dataset = make_dataset(small_tasks, model.settings.rows_per)
    settings = replace(SHORT_TRAINING, global_batch=6)
    batch = next(batches(ExampleStream(dataset, 0), settings, model.settings, engine.world, 0))
    carry = start_carry(model, 6, engine.device, engine.dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        supervise(model, make_table(dataset), carry, batch, engine)
    positions = lengths_of(batch.examples.boxes, model.settings).sum()
    planned = kept_bytes_per_position(model, engine.dtype) * positions
    actual = sum(storage.nbytes() for storage in kept.values())
    assert planned == pytest.approx(actual, rel=0.3)
    assert np.isfinite(planned)
