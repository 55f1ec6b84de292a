"""The trunk's optimiser, its warm-up and its moving average."""

from collections.abc import Iterable, Mapping

import torch
from adam_atan2_pytorch import AdamAtan2
from torch import Tensor, nn

from solver.settings import TrainSettings


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> AdamAtan2:
    """Return AdamATan2 with every parameter in one group."""
    return AdamAtan2(
        list(parameters),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        a=settings.atan2_scale,
    )


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Return what the learning rates are multiplied by in ``step``, counted from 1."""
    return min(1.0, step / max(1, warmup_steps))


def optimizer_tensors(optimizer: AdamAtan2, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors, for a checkpoint."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: AdamAtan2, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` returned."""
    for name, parameter in model.named_parameters():
        state = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.rpartition(".")[0] == name
        }
        if state:
            optimizer.state[parameter] = {
                key: int(value) if key == "steps" else value.to(parameter.device, copy=True)
                for key, value in state.items()
            }


class EMA:
    """A moving average of a model's parameters; buffers are shared, as they never change."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        """Start at the present parameters."""
        self.rate = rate
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move by ``1 - rate`` towards the model."""
        torch._foreach_lerp_(
            list(self.average.values()),
            [p.detach() for p in model.parameters()],
            1 - self.rate,
        )
