"""Weights that were never trained, changed to answer in a known way, and what they predict."""

from dataclasses import replace

import numpy as np
import torch
from conftest import SMALL_MODEL

from solver.kinds import new_model
from solver.predict import predict
from solver.puzzle_table import PuzzleTable
from solver.queries import Plan, list_queries
from solver.weights import Weights


def random_weights(dataset, settings=SMALL_MODEL, seed=0):
    """An untrained model whose rows differ, so that predictions differ too."""
    model = replace(settings, rows_per=dataset.index.rows_per)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(dataset.index.num_rows, model.dim, generator=generator)
    table = PuzzleTable(len(rows), torch.zeros(model.dim))
    table.put(np.arange(len(rows)), rows)
    return Weights(
        new_model(model, seed).requires_grad_(False),
        table,
        dataset.index,
        dataset.trained_on,
        "test",
        "0",
    )


def as_lists(predictions):
    return [
        (p.task_id, p.test, None if p.grid is None else p.grid.tolist(), p.q) for p in predictions
    ]


def plan_of(weights, tasks, num_views, num_steps=0):
    """The plan of the first views of every test; 0 steps are as many as in training."""
    model = weights.model.settings
    queries = list_queries(weights, tasks, num_views)
    return Plan.of(model, num_steps or model.max_supervision_steps, tasks, queries)


def run(dataset, tasks, engine, settings, weights=None):
    weights = weights or random_weights(dataset)
    plan = plan_of(weights, tasks, settings.num_views, settings.num_supervision_steps)
    return predict(weights, plan, engine, stop_when_halted=settings.stop_when_halted)


def with_halt(weights, halt_bias=-5.0, canvas="full"):
    """The same weights with a halt logit that says so always or never."""
    model = new_model(replace(weights.model.settings, canvas=canvas)).requires_grad_(False)
    model.load_state_dict(weights.model.state_dict())
    model.halt_head.weight.zero_()
    model.halt_head.bias.fill_(halt_bias)
    return replace(weights, model=model)


def paint(weights, token):
    """The weights changed so that the token is the answer everywhere."""
    model = new_model(weights.model.settings).requires_grad_(False)
    model.load_state_dict(weights.model.state_dict())
    model.output_head.forward = lambda y: torch.eye(12)[token].expand(len(y), 12)
    return replace(weights, model=model)
