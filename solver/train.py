"""Training with deep supervision: the step, and the one loop around it.

Shapes: B slots of this process, D width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from adam_atan2_pytorch import AdamAtan2
from torch import Tensor

from augment.dataset import ExampleStream
from solver.batch import Batch, Carry, batches, refill, start_carry
from solver.engine import Engine
from solver.loss import Losses, compute_losses
from solver.model import TRM
from solver.optimizer import EMA, make_optimizer, warmup_factor
from solver.puzzle_embedding import update_rows
from solver.settings import TrainSettings
from solver.world import World

_STEPS_BETWEEN_STOP_CHECKS = 10  # with several processes, who must all agree to stop

METRICS = ("loss", "accuracy", "exact_accuracy", "halt_accuracy", "supervision_steps")


@dataclass(slots=True)
class Training:
    """Everything a run changes as it goes on."""

    model: TRM
    table_ND: Tensor
    optimizer: AdamAtan2
    ema: EMA
    carry: Carry
    step: int
    sums: Tensor
    """Since the last report: steps and halted slots, then the sums behind :data:`METRICS`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over the steps since the last report, over all processes.

    The loss is per slot and step; all others are over the slots that halted, NaN if none did.
    """

    step: int
    values: dict[str, float]


def start_training(
    model: TRM,
    table_ND: Tensor,
    settings: TrainSettings,
    engine: Engine,
) -> Training:
    """Return the beginning of a run that trains ``model`` and ``table_ND``, in place."""
    engine.prepare(model)
    share = engine.world.share(settings.global_batch)
    model.requires_grad_(not settings.rows_only)
    return Training(
        model,
        table_ND.to(engine.device),
        make_optimizer(model.parameters(), settings),
        EMA(model, settings.ema_rate),
        start_carry(model, share.stop - share.start, engine),
        step=0,
        sums=torch.zeros(2 + len(METRICS), dtype=torch.float64, device=engine.device),
    )


@dataclass(frozen=True, slots=True)
class Supervision:
    """The outcome of one supervision step, before any weight has changed."""

    carry: Carry
    losses: Losses
    rows_BD: Tensor
    """The slots' puzzle rows, a leaf that receives their gradients."""
    halt_B: Tensor


def supervise(model: TRM, table_ND: Tensor, carry: Carry, batch: Batch) -> Supervision:
    """Let halted slots take their entry, run one supervision step, and decide who halts."""
    carry = refill(carry, batch, model)
    rows_BD = table_ND[carry.rows_B].requires_grad_()
    x_BLD = model.embed(carry.tokens_BS, rows_BD, carry.views_BF)
    state, logits_BSV, halt_B = model(carry.state, x_BLD.to(carry.state.y.dtype))
    steps_B = carry.steps_B + 1
    wants_to_halt_B = (halt_B.detach() > 0) & (steps_B >= batch.min_steps_B)
    halted_B = wants_to_halt_B | (steps_B >= model.settings.max_supervision_steps)
    return Supervision(
        carry._replace(state=state, steps_B=steps_B, halted_B=halted_B),
        compute_losses(logits_BSV, halt_B, carry.labels_BS),
        rows_BD,
        halt_B.detach(),
    )


def train_step(training: Training, batch: Batch, settings: TrainSettings, world: World) -> None:
    """Run one supervision step of every slot and update trunk, rows and moving average."""
    model = training.model
    outcome = supervise(model, training.table_ND, training.carry, batch)
    outcome.losses.total.backward()  # type: ignore[no-untyped-call]

    training.step += 1
    warmup = warmup_factor(training.step, settings.warmup_steps)
    assert outcome.rows_BD.grad is not None
    update_rows(
        training.table_ND,
        world.concat(outcome.carry.rows_B),
        world.concat(outcome.rows_BD.grad),
        settings.rows_lr * warmup,
        settings.rows_weight_decay,
    )
    if not settings.rows_only:
        _sum_gradients(model, settings.global_batch, world)
        for group in training.optimizer.param_groups:
            group["lr"] = settings.lr * warmup
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.ema.update(model)

    training.carry = outcome.carry
    training.sums += _sum_metrics(outcome)


def _sum_gradients(model: TRM, global_batch: int, world: World) -> None:
    """Turn the gradients of this process' summed loss into those of the global mean."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if world.size > 1:
        flat = world.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))
    torch._foreach_div_(gradients, global_batch)


@torch.no_grad()
def _sum_metrics(outcome: Supervision) -> Tensor:
    losses, halted_B = outcome.losses, outcome.carry.halted_B
    of_halted = (
        losses.accuracy,
        losses.exact,
        (outcome.halt_B > 0) == losses.exact,
        outcome.carry.steps_B,
    )
    return torch.stack(
        [
            halted_B.new_ones((), dtype=torch.float64),
            halted_B.sum().double(),
            losses.total.double(),
            *(values.double().where(halted_B, 0.0).sum() for values in of_halted),
        ]
    )


def take_metrics(training: Training, global_batch: int, world: World) -> Metrics:
    """Return the means since the last report, and start anew."""
    steps, halted, loss, *of_halted = world.sum_(training.sums).tolist()
    training.sums.zero_()
    # Every process counted its steps, and its share of the batch in each.
    num_slots = steps / world.size * global_batch
    means = [loss / num_slots, *(v / halted if halted else math.nan for v in of_halted)]
    return Metrics(training.step, dict(zip(METRICS, means, strict=True)))


def require_finite(training: Training, world: World) -> None:
    """Raise ``FloatingPointError`` on every process unless loss, trunk and rows are finite."""
    tensors = (training.sums, training.table_ND, *training.model.parameters())
    finite = all(bool(tensor.detach().sum().isfinite()) for tensor in tensors)
    if world.any(not finite, training.table_ND.device):
        raise FloatingPointError(f"the loss or the weights are not finite at step {training.step}")


def train(
    training: Training,
    stream: ExampleStream,
    settings: TrainSettings,
    engine: Engine,
    *,
    should_stop: Callable[[], bool],
    on_step: Callable[[], None],
    on_metrics: Callable[[Metrics], None],
    checkpoint_every: int | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Go on with ``training`` until ``settings.num_steps`` or until ``should_stop``.

    ``on_checkpoint`` is called on every process at regular steps and at the end, but only with
    finite weights: see :func:`require_finite`.
    """
    world = engine.world
    saved_step = training.step
    training.model.train()
    upcoming = batches(
        stream,
        settings,
        training.model.settings.max_supervision_steps,
        engine,
        training.step,
    )
    for batch in upcoming:
        train_step(training, batch, settings, world)
        on_step()
        if training.step % settings.log_every == 0:
            require_finite(training, world)
            on_metrics(take_metrics(training, settings.global_batch, world))
        if checkpoint_every is not None and training.step % checkpoint_every == 0:
            require_finite(training, world)
            on_checkpoint()
            saved_step = training.step
        may_stop = world.size == 1 or training.step % _STEPS_BETWEEN_STOP_CHECKS == 0
        if may_stop and world.any(should_stop(), engine.device):
            break
    if saved_step != training.step:
        require_finite(training, world)
        on_checkpoint()
