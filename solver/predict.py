"""Views of test inputs to predictions, with each view undone.

Shapes: B views of a group, N their positions, S cells of the canvas, D width, V tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.boxes import Boxes, full_boxes, infer_test_boxes, reaches_border
from augment.dataset import encode_test_inputs
from augment.predictions import Prediction
from augment.task import Task
from augment.tokens import decode_grids
from augment.view import ViewCodes
from solver.checkpoint import Weights
from solver.device import begin_fetch, to_device
from solver.engine import Engine
from solver.flop import flop_of_prediction
from solver.groups import Group, boxes_for, lengths_of, make_group, plan_groups
from solver.model import State
from solver.settings import ModelSettings, PredictSettings


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What to predict: task (its number among those asked for), test, view (its number), row, code.

    All columns are (N,).
    """

    tasks: NDArray[np.int64]
    tests: NDArray[np.int64]
    views: NDArray[np.int64]
    rows: NDArray[np.int64]
    codes: ViewCodes

    def between(self, first: int, stop: int) -> "Work":
        """Return what concerns the views ``first`` to ``stop`` (excluded) of every test."""
        chosen = (first <= self.views) & (self.views < stop)
        return Work(*(getattr(self, field.name)[chosen] for field in fields(self)))


def plan_work(weights: Weights, tasks: Sequence[Task], num_views: int) -> Work:
    """Return every test of ``tasks``, all known to ``weights``, under its first views."""
    index = weights.index
    columns = []
    for number, task in enumerate(tasks):
        position = index.find(task)
        assert position is not None, task.task_id
        views = np.arange(min(num_views, index.num_views[position]))
        rows, codes = index.rows(np.full(len(views), position), views)
        for test in range(len(task.test_inputs)):
            numbers = np.full_like(views, number), np.full_like(views, test)
            columns.append((*numbers, views, rows, codes))
    return Work(*(np.concatenate(column) for column in zip(*columns, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The views to answer as arrays: tokens (., S), puzzle rows, codes, boxes (., 4)."""

    inputs: NDArray[np.uint8]
    rows: NDArray[np.int64]
    codes: ViewCodes
    boxes: Boxes


def make_views(model: ModelSettings, tasks: Sequence[Task], work: Work) -> Views:
    """Return the views of ``work`` as a model answers them, in boxes or on the full canvas."""
    asked = (tasks, work.tasks, work.tests, work.codes, model.canvas_side)
    boxes = boxes_for(model, infer_test_boxes(*asked))
    return Views(encode_test_inputs(*asked), work.rows, work.codes, boxes)


def predict(
    weights: Weights,
    tasks: Sequence[Task],
    work: Work,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int, float], object],
) -> list[Prediction]:
    """Return the predictions of ``work``, planned for ``weights`` and ``tasks``, in its order.

    A view whose answer reaches beyond the box inferred for it is answered again on the full
    canvas. ``on_views`` is told how many views this process finished, and the FLOP they took.
    Groups are the same whatever the number of processes, which take turns at them, so the
    predictions are the same too.
    """
    model = engine.prepare(weights.model).eval()
    side = model.settings.canvas_side
    views = make_views(model.settings, tasks, work)
    canvases, qs = answer(weights, views, settings, engine, on_views)
    again = np.flatnonzero(reaches_border(canvases.reshape(-1, side, side), views.boxes))
    if len(again):
        if engine.world.leads:
            engine.say(
                f"predict: {len(again)} of {len(qs)} answers reach beyond the box inferred for "
                "them; these views are answered again on the full canvas"
            )
        full = full_boxes(len(again), side)
        outgrown = Views(views.inputs[again], work.rows[again], work.codes[again], full)
        canvases[again], qs[again] = answer(
            weights, outgrown, settings, engine, lambda _, flop: on_views(0, flop)
        )
    grids = decode_grids(canvases.reshape(-1, side, side), work.codes)
    return [
        Prediction(tasks[task].task_id, int(test), grid, q)
        for task, test, grid, q in zip(work.tasks, work.tests, grids, qs.tolist(), strict=True)
    ]


def answer(
    weights: Weights,
    views: Views,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int, float], object],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the predicted canvases (., S) and the halting probabilities of all views."""
    model, device, world = weights.model, engine.device, engine.world
    num_steps = settings.num_supervision_steps or model.settings.max_supervision_steps
    canvases = np.zeros_like(views.inputs)
    qs = np.zeros(len(canvases), dtype=np.float32)
    lengths = lengths_of(views.boxes, model.settings)

    def begin(members: NDArray[np.int64], dtype: torch.dtype) -> Iterator[_Answers]:
        rows_BD = weights.table.look_up(views.rows[members]).to(device)
        group = make_group(model, device, members, views.inputs, views.codes, views.boxes)
        x_ND = model.embed(group.tokens_N, group.prefix_BP, rows_BD, group.views_BF).to(dtype)
        state = model.start(len(x_ND), dtype)
        for step in range(1, num_steps + 1):
            state, logits_NV, halt_B = model(state, x_ND, group.places, group.prefix_BP)
            on_views(0, flop_of_prediction(model.settings, lengths[members], 1))
            if step == num_steps:
                yield _Answers.of(group, logits_NV, halt_B)
            elif settings.stop_when_halted and (halted := (halt_B > 0).cpu().numpy()).any():
                # Those that go on will answer again, later, and better.
                yield _Answers.of(group, logits_NV, halt_B)
                if halted.all():
                    return
                members, before = members[~halted], group
                group = make_group(model, device, members, views.inputs, views.codes, views.boxes)
                going_on = np.zeros(len(group.examples_N), dtype=np.int64)
                examples_N = before.examples_N[: before.num_positions]
                going_on[: group.num_positions] = np.isin(examples_N, members).nonzero()[0]
                at = to_device(going_on, device)
                x_ND, state = x_ND[at], State(state.y[at], state.z[at])

    @torch.inference_mode()
    def begin_all(members: NDArray[np.int64]) -> list[_Answers]:
        parts = plan_groups(lengths[members], engine.tokens_per_pass)
        return [answers for part in parts for answers in begin(members[part], engine.dtype)]

    @torch.inference_mode()
    def finish(running: Iterable[_Answers], dtype: torch.dtype = engine.dtype) -> None:
        for answers in running:
            group = answers.group
            if dtype == torch.float16 and not answers.finite().item():
                engine.say(f"predict: {len(group.members)} views left float16's range: in float32")
                finish(begin(group.members, torch.float32), torch.float32)
                continue
            on_canvas = group.cells_N >= 0
            at = (group.examples_N[on_canvas], group.cells_N[on_canvas])
            canvases[at] = answers.tokens_N().numpy()[on_canvas]
            qs[group.members] = answers.q_B().numpy()

    running: list[_Answers] = []
    for members in plan_groups(lengths, engine.planned_tokens)[world.rank :: world.size]:
        following = engine.within_memory(partial(begin_all, members))
        finish(running)  # The device already has its next group.
        running = following
        on_views(len(members), 0.0)
    finish(running)
    # Each process filled its own views of zeroed arrays, so the sums hold all of them.
    canvases = world.sum_(to_device(canvases, device)).cpu().numpy()
    return canvases, world.sum_(to_device(qs, device)).cpu().numpy()


class _Answers(NamedTuple):
    """The answers of a group, on their way from the device."""

    group: Group
    tokens_N: Callable[[], Tensor]
    q_B: Callable[[], Tensor]
    finite: Callable[[], Tensor]

    @classmethod
    def of(cls, group: Group, logits_NV: Tensor, halt_B: Tensor) -> "_Answers":
        tokens_N = logits_NV.argmax(-1).to(torch.uint8)
        finite = logits_NV.isfinite().all() & halt_B.isfinite().all()
        return cls(group, *map(begin_fetch, (tokens_N, halt_B.sigmoid(), finite)))
