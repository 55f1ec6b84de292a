"""Views of test inputs to predictions, with each view undone.

Shapes: N views in all, B views of a group, C cells of its largest box, S cells of the canvas,
L positions, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from solver.groups import Group, boxes_for, make_group, plan_groups
from solver.model import TRM, State
from solver.settings import PredictSettings


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The views to predict: task (its number among the tasks asked for), test, row and view."""

    tasks: NDArray[np.int64]
    tests: NDArray[np.int64]
    rows: NDArray[np.int64]
    codes: ViewCodes


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
            columns.append((np.full_like(views, number), np.full_like(views, test), rows, codes))
    return Work(*(np.concatenate(column) for column in zip(*columns, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The views to answer as arrays: tokens (N, S), puzzle rows (N,), codes (N,), boxes (N, 4)."""

    inputs: NDArray[np.uint8]
    rows: NDArray[np.int64]
    codes: ViewCodes
    boxes: Boxes


def predict(
    weights: Weights,
    tasks: Sequence[Task],
    work: Work,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int], object],
) -> list[Prediction]:
    """Return the predictions of ``work``, planned for ``weights`` and ``tasks``, in its order.

    A view whose answer reaches beyond the box inferred for it is answered again on the full
    canvas. ``on_views`` is told how many views were finished. Groups are the same whatever the
    number of processes, which take turns at them, so the predictions are the same too.
    """
    model = engine.prepare(weights.model).eval()
    side = model.settings.canvas_side
    inputs = encode_test_inputs(tasks, work.tasks, work.tests, work.codes, side)
    boxes = infer_test_boxes(tasks, work.tasks, work.tests, work.codes, side)
    views = Views(inputs, work.rows, work.codes, boxes_for(model.settings, boxes))
    canvases, qs = answer(weights, views, settings, engine, on_views)
    again = np.flatnonzero(reaches_border(canvases.reshape(-1, side, side), views.boxes))
    if len(again):
        if engine.world.leads:
            engine.say(
                f"predict: {len(again)} of {len(qs)} answers reach beyond the box inferred for "
                "them; these views are answered again on the full canvas"
            )
        full = full_boxes(len(again), side)
        outgrown = Views(inputs[again], work.rows[again], work.codes[again], full)
        canvases[again], qs[again] = answer(weights, outgrown, settings, engine, on_views)
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
    on_views: Callable[[int], object],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the predicted canvases (N, S) and the halting probabilities (N,) of all views."""
    model, device, world = weights.model, engine.device, engine.world
    num_steps = settings.num_supervision_steps or model.settings.max_supervision_steps
    canvases = np.zeros_like(views.inputs)
    qs = np.zeros(len(canvases), dtype=np.float32)

    def begin(members: NDArray[np.int64], dtype: torch.dtype) -> _Running:
        group = make_group(model, device, members, views.inputs, views.codes, views.boxes)
        rows_BD = weights.table.look_up(views.rows[members]).to(device)
        stop = settings.stop_when_halted
        answer = _recur(model, group, rows_BD, num_steps, stop, dtype)
        return _Running(group, *map(begin_fetch, answer))

    def begin_all(members: NDArray[np.int64]) -> list[_Running]:
        parts = plan_groups(lengths[members], engine.tokens_per_pass)
        return [begin(members[part], engine.dtype) for part in parts]

    def finish(running: _Running) -> None:
        group = running.group
        if engine.dtype == torch.float16 and not running.finite().item():
            engine.say(f"predict: {len(group.members)} views left float16's range; now in float32")
            running = begin(group.members, torch.float32)
        rows, columns = np.nonzero(group.real_BC)
        tokens_BC = running.tokens_BC().numpy()
        canvases[group.members[rows], group.cells_BC[rows, columns]] = tokens_BC[rows, columns]
        qs[group.members] = running.q_B().numpy()
        on_views(len(group.members))

    lengths = model.settings.prefix_length + views.boxes[:, 2] * views.boxes[:, 3]
    planned = list(plan_groups(lengths, engine.planned_tokens))
    unfinished: list[_Running] = []
    for members in planned[world.rank :: world.size]:
        running = engine.within_memory(partial(begin_all, members))
        # The device has its next group before the host looks at the last one.
        for group in unfinished:
            finish(group)
        unfinished = running
    for group in unfinished:
        finish(group)
    # Each process filled its own views of zeroed arrays, so the sums hold all of them.
    canvases = world.sum_(to_device(canvases, device)).cpu().numpy()
    return canvases, world.sum_(to_device(qs, device)).cpu().numpy()


class _Running(NamedTuple):
    """A group whose answers are on their way from the device."""

    group: Group
    tokens_BC: Callable[[], Tensor]
    q_B: Callable[[], Tensor]
    finite: Callable[[], Tensor]


@torch.inference_mode()
def _recur(
    model: TRM,
    group: Group,
    rows_BD: Tensor,
    num_steps: int,
    stop_when_halted: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (B, C), halting probabilities (B,) and whether all numbers were finite."""
    x_BLD = model.embed(group.tokens_BC, rows_BD, group.views_BF).to(dtype)
    state = model.start(x_BLD.shape[0], x_BLD.shape[1], dtype)
    places = group.places
    tokens_BC = torch.empty_like(group.tokens_BC, dtype=torch.uint8)
    q_B = x_BLD.new_empty(len(x_BLD), dtype=torch.float32)
    finite = torch.ones((), dtype=torch.bool, device=x_BLD.device)
    going = torch.arange(len(x_BLD), device=x_BLD.device)
    for step in range(1, num_steps + 1):
        state, logits_BCV, halt_B = model(state, x_BLD, places)
        if step == num_steps or stop_when_halted:
            tokens_BC[going] = logits_BCV.argmax(-1).to(torch.uint8)
            q_B[going] = halt_B.sigmoid()
            finite &= logits_BCV.isfinite().all() & halt_B.isfinite().all()
        if step < num_steps and stop_when_halted:
            on = (halt_B <= 0).nonzero()[:, 0]
            if len(on) == 0:
                break
            going, x_BLD, state = going[on], x_BLD[on], State(state.y[on], state.z[on])
            places = None if places is None else places.of(on)
    return tokens_BC, q_B, finite
