"""Counted FLOP are those that torch counts, and those that training reports."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL
from passes import fit, packed_examples
from torch.utils.flop_counter import FlopCounterMode

from solver.engine import Engine
from solver.flop import flop_of_prediction, flop_of_training
from solver.kinds import new_model


@pytest.mark.parametrize("changes", [{}, {"num_cycles": 3, "gradient_cycles": 2}])
def test_flop_are_those_that_torch_counts(small_dataset, engine: Engine, monkeypatch, changes):
    """Of training and of prediction, without the heads."""
    model = replace(SMALL_MODEL, **changes)
    monkeypatch.setattr("solver.layers.attend", attend_by_products)
    ours = new_model(model)
    packed, x_ND, state = packed_examples(ours, small_dataset)
    lengths = np.diff(packed.bounds_E.numpy())

    def count(compute) -> float:
        with FlopCounterMode(display=False) as counter:
            compute()
        of_net = counter.get_flop_counts()["TRM.net"]
        return sum(of_net.values())

    def train_once():
        logits_NV, halt_B = ours(state, x_ND, packed)[1:3]
        (logits_NV.sum() + halt_B.sum()).backward()

    @torch.no_grad()
    def predict_once():
        ours(state, x_ND, packed)

    x_ND.requires_grad_()
    assert count(predict_once) == flop_of_prediction(model, lengths, 1)
    assert count(train_once) == flop_of_training(model, lengths)


def attend_by_products(q_NHK, k_NHK, v_NHK, sequences):
    """Attention by products that torch counts, one sequence after another, the padding too."""
    lengths = sequences.bounds_E.diff().tolist()
    parts = (x_NHK.split(lengths) for x_NHK in (q_NHK, k_NHK, v_NHK))
    heads = ([x_LHK.transpose(0, 1) for x_LHK in part] for part in parts)
    return torch.cat([
        ((q @ k.mT).softmax(-1) @ v).transpose(0, 1) for q, k, v in zip(*heads, strict=True)
    ])  # fmt: skip


def test_training_reports_the_flop_it_took(small_dataset, engine: Engine):
    settings = replace(SHORT_TRAINING, num_steps=4, log_every=2)
    _, reported = fit(small_dataset, settings, engine)
    lengths = np.full(settings.global_batch, SMALL_MODEL.length)
    flop = 2 * flop_of_training(SMALL_MODEL, lengths)
    assert [metrics.flop for metrics in reported] == [flop, flop]
