"""Counted FLOP are those that torch counts, and those that training reports."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KINDS, SHORT_TRAINING, SMALL_MODEL
from passes import fit, packed_examples
from torch.utils.flop_counter import FlopCounterMode

from solver.engine import Engine
from solver.flop import flop_of_prediction, flop_of_training
from solver.kinds import new_model


@pytest.mark.parametrize(
    "model", [*KINDS.values(), replace(SMALL_MODEL, num_cycles=3, gradient_cycles=2)]
)
def test_flop_are_those_that_torch_counts(small_dataset, engine: Engine, monkeypatch, model):
    """Of training and of prediction, without the heads."""
    monkeypatch.setattr("solver.layers.attend", attend_by_products)
    ours = new_model(model)
    packed, x_ND, state = packed_examples(ours, small_dataset)
    lengths = np.diff(packed.bounds_E.numpy())

    def count(compute) -> float:
        with FlopCounterMode(display=False) as counter:
            compute()
        counts = counter.get_flop_counts()
        names = (f"{type(ours).__name__}.{network}" for network in ours.NETWORKS)
        return sum(sum(counts[name].values()) for name in names)

    def train_once():
        outcome = ours(state, x_ND, packed)
        ours.look_ahead(outcome, x_ND, packed, np.zeros(3, dtype=bool))
        (outcome.logits_MV.sum() + outcome.halt_G.sum()).backward()

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
