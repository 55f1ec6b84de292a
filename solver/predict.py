"""Views of test inputs to predictions, with each view undone.

Shapes: B views, G of them in a pass, N their positions, S cells of the canvas, D width, V tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
from solver.model import State
from solver.packing import Packed, boxes_for, lengths_of, pack, plan_passes, upload
from solver.settings import ModelSettings, PredictSettings

_LEAST_GROUPS = 8
_LEAST_TOKENS = 8192  # positions of a group, where the engine plans for that many


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
    has_time_for: Callable[[float], bool] = lambda flop: True,
) -> list[Prediction | None]:
    """Return the predictions of ``work``, planned for ``weights`` and ``tasks``, in its order.

    A view whose answer reaches beyond the box inferred for it is answered again on the full
    canvas. ``on_views`` is told how many views this process finished, and the FLOP they took.
    Groups are the same whatever the number of processes, which share them by the FLOP they take,
    so the predictions are the same too. Each process answers its shortest views first and stops
    where ``has_time_for`` the next one's FLOP says no; what was not answered is None.
    """
    model = engine.prepare(weights.model).eval()
    side = model.settings.canvas_side
    views = make_views(model.settings, tasks, work)
    canvases, qs, answered = answer(weights, views, settings, engine, on_views, has_time_for)
    outgrown_B = reaches_border(canvases.reshape(-1, side, side), views.boxes) & answered
    again = np.flatnonzero(outgrown_B)
    if len(again):
        if engine.world.leads:
            engine.say(
                f"predict: {len(again)} of {len(qs)} answers reach beyond the box inferred for "
                "them; these views are answered again on the full canvas"
            )
        full = full_boxes(len(again), side)
        outgrown = Views(views.inputs[again], work.rows[again], work.codes[again], full)
        larger, larger_qs, reached = answer(
            weights, outgrown, settings, engine, lambda _, flop: on_views(0, flop), has_time_for
        )
        canvases[again[reached]], qs[again[reached]] = larger[reached], larger_qs[reached]
    grids = decode_grids(canvases.reshape(-1, side, side), work.codes)
    columns = (work.tasks, work.tests, grids, qs.tolist(), work.views.tolist(), answered)
    return [
        Prediction(tasks[task].task_id, int(test), grid, q, view) if is_answered else None
        for task, test, grid, q, view, is_answered in zip(*columns, strict=True)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Demonstrations:
    """What checks the views of a piece of work: their tasks' demonstrations, as if tests."""

    tasks: Sequence[Task]
    work: Work
    of_work: NDArray[np.int64]
    """The task and view of each item of the original work, as a number (N,)."""
    of_demonstration: NDArray[np.int64]
    """The same of each demonstration under a view (M,)."""


def plan_demonstrations(tasks: Sequence[Task], work: Work) -> Demonstrations:
    """Return every demonstration of the tasks in ``work`` under every view in it."""
    asked = [
        replace(task, test_inputs=tuple(pair.input for pair in task.train), answers=None)
        for task in tasks
    ]
    (numbers, _), firsts, of_work = np.unique(
        [work.tasks, work.views], axis=1, return_index=True, return_inverse=True
    )
    counts = np.array([len(tasks[number].train) for number in numbers])
    of_demonstration = np.repeat(np.arange(len(counts)), counts)
    tests = np.concatenate([np.arange(count) for count in counts])
    at = firsts[of_demonstration]
    checked = Work(work.tasks[at], tests, work.views[at], work.rows[at], work.codes[at])
    return Demonstrations(asked, checked, of_work.ravel(), of_demonstration)


def reproduce_demonstrations(
    weights: Weights,
    tasks: Sequence[Task],
    work: Work,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int, float], object],
    has_time_for: Callable[[float], bool] = lambda flop: True,
) -> NDArray[np.float64]:
    """Return of every task and view in ``work`` (N,) which share of the demonstrations comes out.

    The outputs of demonstrations are predicted as if they were tests. NaN where time was short.
    """
    plan = plan_demonstrations(tasks, work)
    found = predict(weights, plan.tasks, plan.work, settings, engine, on_views, has_time_for)

    def is_right(prediction: Prediction | None, task: int, demonstration: int) -> float:
        if prediction is None:
            return np.nan
        expected = tasks[task].train[demonstration].output
        return float(prediction.grid is not None and np.array_equal(prediction.grid, expected))

    right = list(map(is_right, found, plan.work.tasks, plan.work.tests))
    counts = np.bincount(plan.of_demonstration)
    shares: NDArray[np.float64] = np.bincount(plan.of_demonstration, weights=right) / counts
    return shares[plan.of_work]


def flop_of_work(
    model: ModelSettings, tasks: Sequence[Task], work: Work, settings: PredictSettings
) -> float:
    """Return the FLOP that ``work`` takes, checks and all, unless answers outgrow their boxes."""
    pieces = [(tasks, work)]
    if settings.checks_demonstrations:
        plan = plan_demonstrations(tasks, work)
        pieces.append((plan.tasks, plan.work))
    flop, num_steps = 0.0, settings.num_supervision_steps_of(model)
    for some, part in pieces:
        boxes = infer_test_boxes(some, part.tasks, part.tests, part.codes, model.canvas_side)
        lengths = lengths_of(boxes_for(model, boxes), model)
        flop += flop_of_prediction(model, lengths, num_steps)
    return flop


def share_by_work(costs: Sequence[float], num_processes: int) -> list[list[int]]:
    """Return the numbers of the groups of each process, about equal in cost.

    Groups come with the longest views first; each process takes its own the other way round.
    """
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [0.0] * num_processes
    for number in sorted(range(len(costs)), key=lambda n: (-costs[n], n)):
        lightest = loads.index(min(loads))
        shares[lightest].append(number)
        loads[lightest] += costs[number]
    return [sorted(share, reverse=True) for share in shares]


def tokens_of_group(total: int, planned_tokens: int) -> int:
    """Return the positions of each group of work that has ``total`` of them.

    Little work is split too, the same way for any number of processes, so that several GPUs share
    it; but into groups that a GPU still computes at full speed.
    """
    return min(planned_tokens, max(total // _LEAST_GROUPS, _LEAST_TOKENS))


def answer(
    weights: Weights,
    views: Views,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int, float], object],
    has_time_for: Callable[[float], bool] = lambda flop: True,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the predicted canvases (., S), halting probabilities, and which views have them."""
    model, device, world = weights.model, engine.device, engine.world
    num_steps = settings.num_supervision_steps_of(model.settings)
    canvases = np.zeros_like(views.inputs)
    qs = np.zeros(len(canvases), dtype=np.float32)
    answered = np.zeros(len(canvases), dtype=np.uint8)
    lengths = lengths_of(views.boxes, model.settings)

    def begin(members: NDArray[np.int64], dtype: torch.dtype) -> Iterator[_Answers]:
        rows_GD = to_device(weights.table.look_up(views.rows[members]), device)
        packed = pack(model.settings, device, members, views.inputs, views.codes, views.boxes)
        x_ND = model.embed(packed, rows_GD).to(dtype)
        state, flop = model.start(len(x_ND), dtype), 0.0
        for step in range(1, num_steps + 1):
            state, logits_NV, halt_G = model(state, x_ND, packed)
            flop += flop_of_prediction(model.settings, lengths[members], 1)
            if step == num_steps:
                yield _Answers.of(packed, logits_NV, halt_G, flop)
            elif settings.stop_when_halted and (halted := (halt_G > 0).cpu().numpy()).any():
                # Those that go on will answer again, later, and better.
                yield _Answers.of(packed, logits_NV, halt_G, flop)
                flop = 0.0
                if halted.all():
                    return
                members, before = members[~halted], packed
                packed = pack(
                    model.settings, device, members, views.inputs, views.codes, views.boxes
                )
                going_on = np.zeros(len(packed.examples_N), dtype=np.int64)
                examples_N = before.examples_N[: before.num_positions]
                going_on[: packed.num_positions] = np.isin(examples_N, members).nonzero()[0]
                (at,) = upload((going_on,), device)
                x_ND, state = x_ND[at], State(state.y[at], state.z[at])

    @torch.no_grad()
    def begin_all(members: NDArray[np.int64]) -> list[_Answers]:
        parts = plan_passes(lengths[members], engine.tokens_per_pass)
        return [answers for part in parts for answers in begin(members[part], engine.dtype)]

    @torch.no_grad()
    def finish(running: Iterable[_Answers], dtype: torch.dtype = engine.dtype) -> None:
        for answers in running:
            packed = answers.packed
            is_finite = answers.finite().item()  # Here the host waits for the device.
            on_views(0, answers.flop)
            if dtype == torch.float16 and not is_finite:
                engine.say(f"predict: {len(packed.members)} views left float16's range: in float32")
                finish(begin(packed.members, torch.float32), torch.float32)
                continue
            on_canvas = packed.cells_N >= 0
            at = (packed.examples_N[on_canvas], packed.cells_N[on_canvas])
            canvases[at] = answers.tokens_N().numpy()[on_canvas]
            qs[packed.members] = answers.q_G().numpy()
            answered[packed.members] = 1

    groups = plan_passes(lengths, tokens_of_group(int(lengths.sum()), engine.planned_tokens))
    costs = [flop_of_prediction(model.settings, lengths[group], num_steps) for group in groups]
    members, running = groups[0][:0], list[_Answers]()
    for number in share_by_work(costs, world.size)[world.rank]:
        if not has_time_for(costs[number]):
            break
        following = engine.attempt(model, partial(begin_all, groups[number]))
        finish(running)  # The device already has its next group.
        on_views(len(members), 0.0)
        members, running = groups[number], following
    finish(running)
    on_views(len(members), 0.0)
    # Each process filled its own views of zeroed arrays, so the sums hold all of them.
    canvases, qs, answered = (
        world.sum_(to_device(array, device)).cpu().numpy() for array in (canvases, qs, answered)
    )
    return canvases, qs, answered.astype(bool)


class _Answers(NamedTuple):
    """The answers of a pass, on their way from the device."""

    packed: Packed
    tokens_N: Callable[[], Tensor]
    q_G: Callable[[], Tensor]
    finite: Callable[[], Tensor]
    flop: float
    """What they took since the answers before them."""

    @classmethod
    def of(cls, packed: Packed, logits_NV: Tensor, halt_G: Tensor, flop: float) -> "_Answers":
        tokens_N = logits_NV.argmax(-1).to(torch.uint8)
        finite = logits_NV.isfinite().all() & halt_G.isfinite().all()
        tokens, q, is_finite = map(begin_fetch, (tokens_N, halt_G.sigmoid(), finite))
        return cls(packed, tokens, q, is_finite, flop)
