"""Training with deep supervision: the supervision step, the training step and the loop.

Shapes: B lanes of this process, G lanes of one pass, N positions of a pass, M cells of these, D
width, V tokens, C lanes of all processes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from augment.examples import Stream
from solver.carry import Carry, StateWriter, gather_state, refill, start_carry
from solver.device import begin_fetch, to_device
from solver.ema import EMA
from solver.engine import Engine
from solver.flop import flop_of_training
from solver.loader import Batch, batches
from solver.loss import Losses, compute_losses
from solver.loss_scale import LossScale
from solver.model import Model
from solver.optimizer import make_optimizer
from solver.packing import lengths_of, pack, plan_passes
from solver.process_group import ProcessGroup
from solver.progress import TrainingProgress
from solver.puzzle_table import PuzzleTable
from solver.schedule import ema_rate, lr_multiplier, set_learning_rates
from solver.settings import ModelSettings, TrainSettings

# Part of the seed of this random generator; sampling and exploration have other numbers.
_DROPOUT = 2

METRICS = ("loss", "accuracy", "exact_accuracy", "halt_accuracy", "supervision_steps")


@dataclass(slots=True)
class Training:
    """The state of a training run: all that a step changes."""

    model: Model
    table: PuzzleTable
    optimizer: Optimizer
    ema: EMA
    scale: LossScale
    carry: Carry
    step: int
    progress: float
    """The share of the run before the next step, 0..1."""
    sums: Tensor
    """Since the last report: FLOP, steps, halted lanes, then the sums behind :data:`METRICS`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Means over the steps since the last report, over all processes, and the FLOP these took.

    The loss is per lane and step; all others are over the lanes that halted, NaN where none did.
    """

    step: int
    lr: float
    """The trunk's learning rate in the next step."""
    flop: float
    values: dict[str, float]


def start_training(
    model: Model, table: PuzzleTable, settings: TrainSettings, engine: Engine
) -> Training:
    """Return the beginning of a run that trains ``model`` and ``table``, in place."""
    engine.prepare(model)
    share = engine.group.share(settings.global_batch)
    return Training(
        model,
        table.to(engine.device),
        make_optimizer(model, settings, engine.dtype),
        EMA(model),
        LossScale(engine.dtype),
        start_carry(model, share.stop - share.start, engine.device, engine.dtype),
        step=0,
        progress=0.0,
        sums=torch.zeros(3 + len(METRICS), dtype=torch.float64, device=engine.device),
    )


@dataclass(frozen=True, slots=True)
class Supervision:
    """The outcome of one supervision step, in the order of the lanes, before any weight changed."""

    carry: Carry
    losses: Losses
    row_gradients_BD: Tensor
    halt_B: Tensor


def supervise(
    model: Model,
    table: PuzzleTable,
    carry: Carry,
    batch: Batch,
    engine: Engine,
    loss_scale: float = 1.0,
) -> Supervision:
    """Refill halted lanes, run one supervision step with its backward pass, update the halt flags.

    The gradients of the summed loss, times ``loss_scale``, are added to those of the model.
    """
    settings, device = model.settings, engine.device
    examples = refill(carry, batch)
    steps_B = np.where(carry.halted_B, 0, carry.steps_B) + 1
    all_halt = settings.max_supervision_steps == 1
    wants_to_halt_B = np.full(len(steps_B), all_halt)
    is_last_B = steps_B >= settings.max_supervision_steps
    lengths_B = lengths_of(examples.boxes, settings)
    states = StateWriter(lengths_B, carry.state)
    parts: list[tuple[Losses, Tensor, Tensor]] = []
    fetches = []
    passes = plan_passes(lengths_B, engine.positions_per_pass)
    for members in passes:
        packed = pack(settings, device, examples, members)
        rows_GD = table.look_up(examples.rows[members]).requires_grad_()
        x_ND = model.embed(packed, rows_GD).to(engine.dtype)
        outcome = model(gather_state(carry, model, packed), x_ND, packed)
        states.write(packed, outcome.state)
        if not all_halt:
            fetches.append((members, begin_fetch(outcome.halts)))
        losses = compute_losses(
            outcome.logits_MV,
            outcome.halt_G,
            packed.labels_M,
            packed.owners_N,
            settings.output,
            model.look_ahead(outcome, x_ND, packed, is_last_B[members]),
        )
        (losses.total * loss_scale).backward()  # type: ignore[no-untyped-call]
        assert rows_GD.grad is not None
        detached = Losses(*(part.detach() for part in losses))
        parts.append((detached, rows_GD.grad, outcome.halt_G.detach()))
    # The host waits for the device only here, after it has queued the last backward pass; where
    # every lane halts anyway it waits for nothing, and goes on to the next step.
    for members, wait in fetches:
        wants_to_halt_B[members] = wait().numpy()
    halted_B = is_last_B | wants_to_halt_B & (steps_B >= batch.min_steps_B)

    order = np.concatenate(passes)
    lanes_B = to_device(np.argsort(order), device)
    all_losses, row_gradients, halts = zip(*parts, strict=True)
    return Supervision(
        Carry(examples, steps_B, halted_B, states.state),
        Losses(*(torch.cat(part)[lanes_B] for part in zip(*all_losses, strict=True))),
        torch.cat(row_gradients)[lanes_B],
        torch.cat(halts)[lanes_B],
    )


def train_step(training: Training, batch: Batch, settings: TrainSettings, engine: Engine) -> None:
    """Run one supervision step of every lane and update trunk, rows and moving average."""
    model, table, group, scale = training.model, training.table, engine.group, training.scale
    carry = training.carry
    rows_B = np.where(carry.halted_B, batch.examples.rows, carry.examples.rows)
    rows_of_all = _begin_gathering(rows_B, group)
    trains_trunk = training.progress >= settings.rows_only_share
    model.requires_grad_(trains_trunk)

    def compute() -> Supervision:
        training.optimizer.zero_grad()
        if model.settings.dropout:
            # Dropout draws from torch's global generator; a resumed run must draw the same.
            torch.manual_seed(_dropout_seed(settings.seed, training.step, group.rank))
        return supervise(model, table, carry, batch, engine, scale.factor)

    outcome = engine.retry(model, compute)
    training.step += 1
    training.carry = outcome.carry
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    _sum_over_processes(gradients, group)
    row_gradients_CD = group.all_gather(outcome.row_gradients_BD)
    if scale.is_used and not scale.update(_all_finite([*gradients, row_gradients_CD])):
        # States may be out of range too, so every lane starts afresh.
        training.carry = replace(outcome.carry, halted_B=np.ones_like(outcome.carry.halted_B))
        return

    multiplier = lr_multiplier(training.step, training.progress, settings)
    rows_lr = settings.rows_lr * multiplier
    table.sign_sgd_step(rows_of_all(), row_gradients_CD, rows_lr, settings.rows_weight_decay)
    if trains_trunk:
        torch._foreach_div_(gradients, settings.global_batch * scale.factor)
        set_learning_rates(training.optimizer, multiplier)
        training.optimizer.step()
        training.ema.update(model, ema_rate(training.step, settings))
    training.sums += _sum_metrics(outcome, model.settings, engine.device)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, _DROPOUT, step, rank]).generate_state(1)[0])


def _begin_gathering(
    rows_B: NDArray[np.int64], group: ProcessGroup
) -> Callable[[], NDArray[np.int64]]:
    """Begin to gather the rows of all processes; return a function that waits for them (C,)."""
    if group.size == 1:
        return lambda: rows_B
    wait = begin_fetch(group.all_gather(to_device(rows_B, group.device)))
    return lambda: wait().numpy()


def _sum_over_processes(gradients: list[Tensor], group: ProcessGroup) -> None:
    if group.size > 1 and gradients:
        flat = group.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
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


def require_finite(training: Training, group: ProcessGroup) -> None:
    """Raise ``FloatingPointError`` on every process unless loss, trunk and rows are finite."""
    tensors = (training.sums, training.table.values, *training.model.parameters())
    finite = torch.stack([tensor.detach().sum().isfinite() for tensor in tensors]).all()
    if group.any(not finite.item()):
        raise FloatingPointError(f"the loss or the weights are not finite at step {training.step}")


def take_metrics(training: Training, settings: TrainSettings, group: ProcessGroup) -> Metrics:
    """Return the means since the last report, and start anew; see :func:`require_finite`."""
    require_finite(training, group)
    flop, steps, halted, loss, *of_halted = group.all_reduce(training.sums).tolist()
    training.sums.zero_()
    # Every process counted each step, and its own lanes in it.
    num_lanes = steps / group.size * settings.global_batch
    sums = ((loss, num_lanes), *((value, halted) for value in of_halted))
    means = [value / count if count else math.nan for value, count in sums]
    lr = settings.lr * lr_multiplier(training.step + 1, training.progress, settings)
    return Metrics(training.step, lr, flop, dict(zip(METRICS, means, strict=True)))


def train(
    training: Training,
    stream: Stream,
    settings: TrainSettings,
    engine: Engine,
    progress: TrainingProgress,
) -> Iterator[int]:
    """Take the steps of a training run one by one; yield the number of steps after each.

    It ends after ``settings.num_steps``, or when ``progress`` says that the run is over.
    """
    training.model.train()
    progress.advance(training.step)
    training.progress = progress.share
    loader = batches(stream, settings, training.model.settings, engine.group, training.step)
    for batch in loader:
        if progress.is_over:
            return
        train_step(training, batch, settings, engine)
        progress.advance(training.step)
        training.progress = progress.share
        yield training.step
