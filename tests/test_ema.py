"""The moving average follows the weights at its rate."""

import torch
from conftest import SMALL_MODEL

from solver.ema import EMA
from solver.kinds import new_model


def test_moving_average():
    model = new_model(SMALL_MODEL)
    ema = EMA(model)
    before = {name: tensor.clone() for name, tensor in ema.average.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.update(model, 0.9)
    for name, tensor in ema.average.items():
        assert torch.allclose(tensor, before[name] + 0.1, atol=1e-6)
