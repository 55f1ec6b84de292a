"""The engine halves what it computes at once when memory runs out, and refuses what cannot run."""

from dataclasses import replace

import pytest
import torch
from conftest import BOX_MODEL, SHORT_TRAINING, make_table
from faults import Shortage

from augment.errors import InputError
from augment.examples import ExampleStream
from solver.kinds import new_model
from solver.loader import batches
from solver.train import start_training, train_step


def train_three_steps(dataset, engine, most=10**9):
    settings = replace(SHORT_TRAINING, num_steps=3)
    training = start_training(new_model(BOX_MODEL), make_table(dataset), settings, engine)
    training.model.forward = Shortage(training.model, most)
    stream = ExampleStream(dataset, 0)
    for batch in batches(stream, settings, BOX_MODEL, engine.group, 0):
        train_step(training, batch, settings, engine)
    return training


def test_training_goes_on_with_half_as_much_at_once_when_memory_runs_out(small_dataset, engine):
    printed = []
    short = replace(engine, say=printed.append)
    training = train_three_steps(small_dataset, short, most=250)
    assert printed[0].endswith("going on with engine.positions_per_pass=2048 instead of 4096")
    assert short.positions_per_pass < 250
    undisturbed = train_three_steps(small_dataset, replace(engine))
    for ours, theirs in zip(
        training.model.parameters(), undisturbed.model.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)
    with pytest.raises(InputError, match="out of memory with one example at a time"):
        train_three_steps(small_dataset, replace(engine, say=printed.append), most=20)
