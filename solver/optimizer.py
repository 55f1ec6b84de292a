"""The optimiser of the model: AdamATan2, or NorMuon for the matrices of its networks."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from adam_atan2_pytorch import AdamAtan2, MuonAdamAtan2
from adam_atan2_pytorch.muon_adam_atan2 import neuronwise_normalize, newtonschulz5
from torch import Tensor
from torch.optim import Optimizer

from solver.layers import Linear
from solver.model import Model
from solver.settings import TrainSettings


def make_optimizer(
    model: Model, settings: TrainSettings, dtype: torch.dtype = torch.float32
) -> Optimizer:
    """Return the optimiser of ``settings``; groups keep their initial rate as ``initial_lr``.

    NorMuon (arXiv 2510.05491) takes the matrices of the networks. Its steps are scaled to the size
    of Adam's, so that both take about the same learning rates. ``dtype``: that in which the model
    computes.
    """
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, "a": settings.atan2_scale}
    optimizer: AdamAtan2 | BatchedMuon
    if settings.optimizer == "adam_atan2":
        optimizer = AdamAtan2(list(model.parameters()), betas=settings.betas, **common)
    else:
        networks = [model.get_submodule(name) for name in model.NETWORKS]
        matrices = {m.weight for net in networks for m in net.modules() if isinstance(m, Linear)}
        optimizer = BatchedMuon(
            [p for p in model.parameters() if p in matrices],
            [p for p in model.parameters() if p not in matrices],
            muon_lr=settings.matrix_lr or settings.lr,
            betas=settings.betas,
            use_normuon=True,
            remove_muon_params_from_params=False,
            **common,
        )
        optimizer.in_bfloat16 = dtype == torch.bfloat16
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


class BatchedMuon(MuonAdamAtan2):  # type: ignore[misc]
    """The package's NorMuon and AdamATan2, with all matrices of one shape orthogonalised together.

    Where the model computes in bfloat16 this is done so too, as is common for Muon: its iterations
    still converge, and one batched product takes the place of many small ones in float32.
    """

    in_bfloat16 = False

    param_groups: list[dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update all parameters that have a gradient."""
        assert closure is None
        both = self.param_groups
        others, matrices = both
        self.param_groups = [others]
        super().step()
        self.param_groups = both
        by_shape = defaultdict(list)
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        for same in by_shape.values():
            self._step_matrices(same, matrices)

    def _step_matrices(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Update matrices (I, J) of one shape, as the package does one after another."""
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state["steps"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq_orthog_row"] = torch.zeros_like(parameter[:, :1])
            state["steps"] += 1
        momenta = [state["exp_avg"] for state in states]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["beta1"])
        stacked_PIJ = torch.stack(momenta)
        dtype = torch.bfloat16 if self.in_bfloat16 else torch.float32
        updates_PIJ = newtonschulz5(
            stacked_PIJ.to(dtype),
            steps=group["muon_steps"],
            coefs=group["muon_newton_schulz5_coefs"],
            eps=group["muon_eps"],
        ).float()
        squares = [state["exp_avg_sq_orthog_row"] for state in states]
        squares_PI1 = torch.stack(squares)
        updates_PIJ = neuronwise_normalize(
            updates_PIJ, squares_PI1, group["muon_beta2"], group["normuon_eps"]
        )
        torch._foreach_copy_(squares, list(squares_PI1))
        rate = group["lr"] * group["muon_rms_factor"] * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates_PIJ), alpha=-rate)


def optimizer_tensors(optimizer: Optimizer, model: Model) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors, for a checkpoint."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value)
    return tensors


def outline_optimizer(
    optimizer: Optimizer, model: Model, saved: Iterable[str]
) -> dict[str, Tensor]:
    """Return tensors such as :func:`optimizer_tensors` returns for the parameters in ``saved``.

    A parameter that never had a gradient has none.
    """
    stepped = {name.rpartition(".")[0] for name in saved}
    is_muon = isinstance(optimizer, BatchedMuon)
    matrices = set(optimizer.param_groups[1]["params"]) if is_muon else set()
    tensors = {}
    for name, parameter in model.named_parameters():
        if name in stepped:
            tensors[f"{name}.steps"] = torch.tensor(0)
            tensors[f"{name}.exp_avg"] = parameter
            if parameter in matrices:
                tensors[f"{name}.exp_avg_sq_orthog_row"] = parameter[:, :1]
            else:
                tensors[f"{name}.exp_avg_sq"] = parameter
    return tensors


def restore_optimizer(optimizer: Optimizer, model: Model, tensors: Mapping[str, Tensor]) -> None:
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
