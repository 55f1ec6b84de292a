"""What to train for so much compute: the width, canvas and batch of which the rule expects most.

Shapes: R resamples of the rule, N tasks that fit the canvas.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.scaling import BATCH, Rule, visible_cells
from pipeline.settings import Settings, change_settings
from pipeline.sources import load_sources, within_side
from pipeline.workload import read_workload
from solver.cards import Card
from solver.flop import flop_of_training
from solver.roofline import Time, training_time

WIDTHS = (64, 128, 192, 256, 384, 512, 768, 1024)
SIDES = (10, 12, 16, 20, 24, 30)
BATCHES = (64, 128, 256, 512, 1024, 2048)

# The rates rise and fall in no fewer; as many with a batch larger than those of most runs.
_LEAST_STEPS, _LEAST_STEPS_OF_LARGE = 500, 5000
_WARMUP_SHARE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One way to spend compute on training."""

    side: int
    """Of the canvas, and of the largest grid."""
    dim: int
    batch: int
    num_steps: int
    lr: float
    num_fitting: int
    """Tasks to predict that fit the canvas."""
    presentations: float
    """Of each pair."""
    flop: float
    time: Time
    """Of a step on the card."""
    solved_R: NDArray[np.float64]
    """Expected share of all tasks to predict, by every resample."""

    @property
    def expected(self) -> float:
        """The median of what is expected."""
        return float(np.median(self.solved_R))

    @property
    def changes(self) -> tuple[str, ...]:
        """The settings in which it differs from a recipe."""
        return (
            f"data.max_side={self.side}",
            f"model.canvas_side={self.side}",
            *_width_changes(self.dim),
            f"train.global_batch={self.batch}",
            f"train.num_steps={self.num_steps}",
            f"train.warmup_steps={round(_WARMUP_SHARE * self.num_steps)}",
            f"train.lr={self.lr:.2g}",
        )


def list_choices(
    settings: Settings, card: Card, rule: Rule, flop: float = math.inf, seconds: float = math.inf
) -> Iterator[Choice]:
    """Yield the ways to spend so many FLOP, or seconds of ``card``, on training a recipe."""
    tasks = load_sources(settings.data.predicted)
    for side in SIDES:
        fitting = within_side(tasks, side)
        if not fitting or side % settings.model.patch:
            continue
        changes = (f"data.max_side={side}", f"model.canvas_side={side}")
        work = read_workload(change_settings(settings, changes)).training
        if work is None:
            continue
        cells_N = np.array([visible_cells(task) for task in fitting])
        for dim, batch in product(WIDTHS, BATCHES):
            if batch % card.count:
                continue
            model = change_settings(settings, (*changes, *_width_changes(dim))).model
            train = replace(work.settings, global_batch=batch)
            positions = int(batch / card.count * work.lengths.max())
            time = training_time(card, model, train, work.lengths, positions)
            flop_of_step = batch * flop_of_training(model, work.lengths) / len(work.lengths)
            num_steps = int(min(flop / flop_of_step, seconds / time.seconds))
            presentations = num_steps * batch / model.max_supervision_steps / work.num_pairs
            least_steps = _LEAST_STEPS if batch <= BATCH else _LEAST_STEPS_OF_LARGE
            if num_steps < least_steps or presentations < 1:
                continue
            share = len(fitting) / len(tasks)
            solved_R = share * rule.solved(rule.exact(dim, presentations, batch), cells_N)
            yield Choice(
                side, dim, batch, num_steps, learning_rate(settings, dim, batch), len(fitting),
                presentations, num_steps * flop_of_step, time, solved_R,
            )  # fmt: skip


def best_of_each_width(choices: Iterator[Choice]) -> list[Choice]:
    """Return of each width the choice of which most is expected, by width."""
    best: dict[int, Choice] = {}
    for choice in choices:
        if choice.dim not in best or choice.expected > best[choice.dim].expected:
            best[choice.dim] = choice
    return [best[dim] for dim in sorted(best)]


def learning_rate(settings: Settings, dim: int, batch: int) -> float:
    """Return the rate at another width and batch than those of ``settings``.

    It grows with the root of the batch, as is common, and falls with the root of the width, so that
    NorMuon's steps stay as large beside the weights; both were tried at two points only
    (docs/EXPERIMENTS.md).
    """
    return settings.train.lr * math.sqrt(
        batch / settings.train.global_batch * settings.model.dim / dim
    )


def _width_changes(dim: int) -> tuple[str, str]:
    """Return the settings of a width: heads of 32 as in the runs, of 64 from 512 on."""
    return f"model.dim={dim}", f"model.num_heads={dim // (64 if dim >= 512 else 32)}"
