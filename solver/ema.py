"""The moving average of a model's parameters, with which predictions are made."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA:
    """A moving average of a model's parameters; buffers are shared, as they never change."""

    def __init__(self, model: nn.Module) -> None:
        """Start at the present parameters."""
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, rate: float) -> None:
        """Move by ``1 - rate`` towards the model."""
        torch._foreach_lerp_(
            list(self.average.values()),
            [p.detach() for p in model.parameters()],
            1 - rate,
        )

    def averaged(self, model: Model) -> Model:
        """Return a copy of the model, without gradients, whose parameters are the averages."""
        average = copy.deepcopy(model).requires_grad_(False)
        average.load_state_dict(self.state_of(average))
        return average

    def state_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state with the averages in place of its parameters."""
        return {**model.state_dict(), **self.average}
