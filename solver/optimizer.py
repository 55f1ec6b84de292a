"""The trunk's optimiser, its learning rates, its moving average, and the scale of its loss."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from adam_atan2_pytorch import AdamAtan2, MuonAdamAtan2
from adam_atan2_pytorch.muon_adam_atan2 import neuronwise_normalize, newtonschulz5
from torch import Tensor, nn
from torch.optim import Optimizer

from solver.layers import Linear
from solver.settings import TrainSettings

_LONGEST_WARMUP = 0.1  # share of a run


def make_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """Return the optimiser of ``settings``; groups keep their own rate as ``initial_lr``.

    Muon (and NorMuon, arXiv 2510.05491) takes the matrices inside the network. Its steps are scaled
    to the size of Adam's, so that both take about the same learning rates.
    """
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, "a": settings.atan2_scale}
    optimizer: Optimizer
    if settings.optimizer == "adam_atan2":
        optimizer = AdamAtan2(list(model.parameters()), betas=settings.betas, **common)
    else:
        net = model.get_submodule("net")
        matrices = {m.weight for m in net.modules() if isinstance(m, Linear)}
        optimizer = BatchedMuon(
            [p for p in model.parameters() if p in matrices],
            [p for p in model.parameters() if p not in matrices],
            muon_lr=settings.matrix_lr or settings.lr,
            betas=settings.betas,
            use_normuon=settings.optimizer == "normuon",
            remove_muon_params_from_params=False,
            **common,
        )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


class BatchedMuon(MuonAdamAtan2):  # type: ignore[misc]
    """The package's Muon, NorMuon and AdamATan2; matrices of one shape are orthogonalised together.

    On a GPU in bfloat16, in which Muon is commonly run: its iterations converge all the same, and
    one product of a batch takes the place of many small ones in float32.
    """

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
                if group["use_normuon"]:
                    state["exp_avg_sq_orthog_row"] = torch.zeros_like(parameter[:, :1])
            state["steps"] += 1
        momenta = [state["exp_avg"] for state in states]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["beta1"])
        stacked_PIJ = torch.stack(momenta)
        dtype = torch.bfloat16 if stacked_PIJ.is_cuda else stacked_PIJ.dtype
        updates_PIJ = newtonschulz5(
            stacked_PIJ.to(dtype),
            steps=group["muon_steps"],
            coefs=group["muon_newton_schulz5_coefs"],
            eps=group["muon_eps"],
        ).float()
        if group["use_normuon"]:
            squares = [state["exp_avg_sq_orthog_row"] for state in states]
            squares_PI1 = torch.stack(squares)
            updates_PIJ = neuronwise_normalize(
                updates_PIJ, squares_PI1, group["muon_beta2"], group["normuon_eps"]
            )
            torch._foreach_copy_(squares, list(squares_PI1))
        rate = group["lr"] * group["muon_rms_factor"] * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates_PIJ), alpha=-rate)


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its own."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def rate_factor(step: int, passed: float, settings: TrainSettings) -> float:
    """Return what the learning rates are multiplied by in ``step``, counted from 1.

    ``passed`` is the share of the run, in steps or in time, that lies before the step. The rates
    rise linearly over the warm-up, which ends after a tenth of the run at the latest. Cosine and
    wsd (warm-up, stable, decay) reach zero after the last step, which itself still counts.
    """
    progress = max(step / max(1, settings.warmup_steps), passed / _LONGEST_WARMUP)
    warmup = min(1.0, progress)
    if settings.schedule == "cosine":
        return warmup * (1 + math.cos(math.pi * passed)) / 2
    if settings.schedule == "wsd":
        return warmup * min(1.0, (1 - passed) / settings.decay_share)
    return warmup


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors, for a checkpoint."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
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


def ema_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of the moving average in ``step``, counted from 1.

    It spans a share of the steps so far where the settings say so: then the average has forgotten
    its start after few steps and after many, however many the time is enough for.
    """
    if settings.ema_share == 0:
        return settings.ema_rate
    return min(settings.ema_rate, 1 - 1 / (1 + settings.ema_share * step))


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

    def state_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's state with the averages in place of its parameters."""
        return {**model.state_dict(), **self.average}


class LossScale:
    """The factor that lifts float16 gradients out of the range where they become zero.

    It doubles after many steps whose gradients are all finite and halves after one that is not,
    which then counts for nothing. Other arithmetic needs none: the factor is 1.
    """

    _FIRST = 2.0**12
    _LARGEST = 2.0**24
    _STEPS_TO_DOUBLE = 1000

    def __init__(self, dtype: torch.dtype) -> None:
        """Start for losses computed in ``dtype``."""
        self.is_used = dtype == torch.float16
        self.factor = self._FIRST if self.is_used else 1.0
        self.good_steps = 0

    def keep(self, finite: bool) -> bool:
        """Return ``finite``: whether a step may count; adapt the factor for the next one.

        Raises ``FloatingPointError`` when gradients are not finite even without a factor.
        """
        if finite:
            self.good_steps += 1
            if self.good_steps % self._STEPS_TO_DOUBLE == 0:
                self.factor = min(2 * self.factor, self._LARGEST)
        elif self.factor <= 1:
            raise FloatingPointError(
                "float16 is too narrow for these gradients; choose engine.dtype=float32"
            )
        else:
            self.factor /= 2
            self.good_steps = 0
        return finite
