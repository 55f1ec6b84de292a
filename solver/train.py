"""Training with deep supervision: the step, and the one loop around it.

Shapes: B slots of this process, G examples of a pass, N positions of a pass, D width, V tokens.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from augment.dataset import ExampleStream
from solver.batch import (
    Batch,
    Carry,
    StateWriter,
    batches,
    gather_state,
    refill,
    start_carry,
)
from solver.device import begin_fetch, to_device
from solver.engine import Engine
from solver.flop import flop_of_training
from solver.loss import Losses, compute_losses
from solver.model import TRM
from solver.optimizer import EMA, LossScale, ema_rate, make_optimizer, rate_factor, set_rates
from solver.pace import Pace
from solver.packing import lengths_of, pack, plan_passes
from solver.puzzle_embedding import PuzzleTable
from solver.settings import ModelSettings, TrainSettings
from solver.world import World

_DROPOUT = 2  # what this generator is for; sampling and exploration have numbers of their own

METRICS = ("loss", "accuracy", "exact_accuracy", "halt_accuracy", "supervision_steps")


@dataclass(slots=True)
class Training:
    """Everything a run changes as it goes on."""

    model: TRM
    table: PuzzleTable
    optimizer: Optimizer
    ema: EMA
    scale: LossScale
    carry: Carry
    step: int
    passed: float
    """Share of the run that lies before the next step."""
    sums: Tensor
    """Since the last report: FLOP, steps, halted slots, then the sums behind :data:`METRICS`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over the steps since the last report, over all processes, and the FLOP these took.

    The loss is per slot and step; all others are over the slots that halted. NaN where there is
    nothing to take the mean of.
    """

    step: int
    lr: float
    """The trunk's learning rate in the next step."""
    flop: float
    values: dict[str, float]


def start_training(
    model: TRM, table: PuzzleTable, settings: TrainSettings, engine: Engine
) -> Training:
    """Return the beginning of a run that trains ``model`` and ``table``, in place."""
    engine.prepare(model)
    share = engine.world.share(settings.global_batch)
    return Training(
        model,
        table.to(engine.device),
        make_optimizer(model, settings),
        EMA(model),
        LossScale(engine.dtype),
        start_carry(model, share.stop - share.start, engine.device, engine.dtype),
        step=0,
        passed=0.0,
        sums=torch.zeros(3 + len(METRICS), dtype=torch.float64, device=engine.device),
    )


@dataclass(frozen=True, slots=True)
class Supervision:
    """The outcome of one supervision step, in the order of the slots, before any weight changed."""

    carry: Carry
    losses: Losses
    row_gradients_BD: Tensor
    halt_B: Tensor


def supervise(
    model: TRM,
    table: PuzzleTable,
    carry: Carry,
    batch: Batch,
    engine: Engine,
    loss_scale: float = 1.0,
) -> Supervision:
    """Let halted slots take their entry, run one supervision step, and decide who halts.

    The gradients of the summed loss, times ``loss_scale``, are added to those of the model.
    """
    settings, device = model.settings, engine.device
    examples = refill(carry, batch)
    steps_B = np.where(carry.halted_B, 0, carry.steps_B) + 1
    wants_to_halt_B = np.empty(len(steps_B), dtype=bool)
    lengths_B = lengths_of(examples.boxes, settings)
    states = StateWriter(lengths_B, carry.state)
    parts: list[tuple[Losses, Tensor, Tensor]] = []
    fetches = []
    columns = (examples.inputs, examples.codes, examples.boxes, examples.labels)
    for members in plan_passes(lengths_B, engine.tokens_per_pass):
        packed = pack(settings, device, members, *columns)
        rows_GD = table.look_up(examples.rows[members]).requires_grad_()
        x_ND = model.embed(packed, rows_GD).to(engine.dtype)
        state, logits_NV, halt_G = model(gather_state(carry, model, packed), x_ND, packed)
        states.write(packed, state)
        fetches.append((members, begin_fetch(halt_G.detach() > 0)))
        losses = compute_losses(logits_NV, halt_G, packed.labels_N, packed.owners_N)
        (losses.total * loss_scale).backward()  # type: ignore[no-untyped-call]
        assert rows_GD.grad is not None
        parts.append((Losses(*(part.detach() for part in losses)), rows_GD.grad, halt_G.detach()))
    # Only here the host waits for the device, which has the last backward pass before it.
    for members, wait in fetches:
        wants_to_halt_B[members] = wait().numpy()
    halted_B = wants_to_halt_B & (steps_B >= batch.min_steps_B)
    halted_B |= steps_B >= settings.max_supervision_steps

    order = np.concatenate([members for members, _ in fetches])
    slots = to_device(np.argsort(order), device)
    all_losses, row_gradients, halts = zip(*parts, strict=True)
    return Supervision(
        Carry(examples, steps_B, halted_B, states.finish()),
        Losses(*(torch.cat(part)[slots] for part in zip(*all_losses, strict=True))),
        torch.cat(row_gradients)[slots],
        torch.cat(halts)[slots],
    )


def train_step(training: Training, batch: Batch, settings: TrainSettings, engine: Engine) -> None:
    """Run one supervision step of every slot and update trunk, rows and moving average."""
    model, table, world, scale = training.model, training.table, engine.world, training.scale
    carry = training.carry
    rows_B = np.where(carry.halted_B, batch.examples.rows, carry.examples.rows)
    rows_of_all = _begin_concat(rows_B, engine)
    trains_trunk = training.passed >= settings.rows_only_share
    model.requires_grad_(trains_trunk)

    def compute() -> Supervision:
        training.optimizer.zero_grad()
        if model.settings.dropout:
            # Dropout draws from torch's own generator; a run that goes on draws the same again.
            torch.manual_seed(_dropout_seed(settings.seed, training.step, world.rank))
        return supervise(model, table, carry, batch, engine, scale.factor)

    outcome = engine.attempt(model, compute)
    training.step += 1
    training.carry = outcome.carry
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    _sum_over_processes(gradients, world)
    row_gradients_BD = world.concat(outcome.row_gradients_BD)
    if scale.is_used and not scale.keep(_all_finite([*gradients, row_gradients_BD])):
        # States may be out of range too, so every slot starts afresh.
        training.carry = replace(outcome.carry, halted_B=np.ones_like(outcome.carry.halted_B))
        return

    factor = rate_factor(training.step, training.passed, settings)
    rows_lr = settings.rows_lr * factor
    table.descend(rows_of_all(), row_gradients_BD, rows_lr, settings.rows_weight_decay)
    if trains_trunk:
        torch._foreach_div_(gradients, settings.global_batch * scale.factor)
        set_rates(training.optimizer, factor)
        training.optimizer.step()
        training.ema.update(model, ema_rate(training.step, settings))
    training.sums += _sum_metrics(outcome, model.settings, engine.device)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, _DROPOUT, step, rank]).generate_state(1)[0])


def _begin_concat(rows: NDArray[np.int64], engine: Engine) -> Callable[[], NDArray[np.int64]]:
    """Begin to join the rows of all processes; return what waits for that."""
    if engine.world.size == 1:
        return lambda: rows
    wait = begin_fetch(engine.world.concat(to_device(rows, engine.device)))
    return lambda: wait().numpy()


def _sum_over_processes(gradients: list[Tensor], world: World) -> None:
    if world.size > 1 and gradients:
        flat = world.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


@torch.no_grad()
def _sum_metrics(outcome: Supervision, settings: ModelSettings, device: torch.device) -> Tensor:
    losses = outcome.losses
    lengths_B = lengths_of(outcome.carry.examples.boxes, settings)
    halted_B = to_device(outcome.carry.halted_B, device)
    of_halted = (
        losses.accuracy,
        losses.exact,
        (outcome.halt_B > 0) == losses.exact,
        to_device(outcome.carry.steps_B, device),
    )
    return torch.stack(
        [
            halted_B.new_full((), flop_of_training(settings, lengths_B), dtype=torch.float64),
            halted_B.new_ones((), dtype=torch.float64),
            halted_B.sum().double(),
            losses.total.double(),
            *(values.double().where(halted_B, 0.0).sum() for values in of_halted),
        ]
    )


def take_metrics(training: Training, settings: TrainSettings, world: World) -> Metrics:
    """Return the means since the last report, and start anew."""
    flop, steps, halted, loss, *of_halted = world.sum_(training.sums).tolist()
    training.sums.zero_()
    # Every process counted its steps, and its share of the batch in each.
    num_slots = steps / world.size * settings.global_batch
    sums = ((loss, num_slots), *((value, halted) for value in of_halted))
    means = [value / count if count else math.nan for value, count in sums]
    lr = settings.lr * rate_factor(training.step + 1, training.passed, settings)
    return Metrics(training.step, lr, flop, dict(zip(METRICS, means, strict=True)))


def require_finite(training: Training, world: World) -> None:
    """Raise ``FloatingPointError`` on every process unless loss, trunk and rows are finite."""
    tensors = (training.sums, training.table.values, *training.model.parameters())
    finite = torch.stack([tensor.detach().sum().isfinite() for tensor in tensors]).all()
    if world.any(not finite.item(), finite.device):
        raise FloatingPointError(f"the loss or the weights are not finite at step {training.step}")


def train(
    training: Training,
    stream: ExampleStream,
    settings: TrainSettings,
    engine: Engine,
    pace: Pace,
    *,
    on_step: Callable[[], None],
    on_metrics: Callable[[Metrics], None],
    checkpoint_every: int | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Go on with ``training`` until ``settings.num_steps`` or until ``pace`` says stop.

    ``on_checkpoint`` is called on every process at regular steps, when ``pace`` wants it, and at
    the end, but only with finite weights: see :func:`require_finite`.
    """
    world = engine.world
    saved_step = training.step
    training.model.train()
    upcoming = batches(
        stream,
        settings,
        training.model.settings,
        world,
        training.step,
    )
    goes_on = pace.goes_on(training.step)
    training.passed = pace.passed
    for batch in upcoming:
        if not goes_on:
            break
        train_step(training, batch, settings, engine)
        on_step()
        goes_on = pace.goes_on(training.step)
        training.passed = pace.passed
        if training.step % settings.log_every == 0:
            require_finite(training, world)
            on_metrics(take_metrics(training, settings, world))
        by_steps = checkpoint_every is not None and training.step % checkpoint_every == 0
        if by_steps or pace.wants_checkpoint():
            require_finite(training, world)
            on_checkpoint()
            saved_step = training.step
    if saved_step != training.step:
        require_finite(training, world)
        on_checkpoint()
