"""Views of test inputs to predictions, with each view undone.

Shapes: N views in all, B views of a batch, S canvas cells, D width, F features of a view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.dataset import encode_test_inputs, view_features
from augment.predictions import Prediction
from augment.task import Task
from augment.tokens import decode_grids
from augment.view import ViewCodes
from solver.checkpoint import Weights
from solver.engine import Engine
from solver.model import TRM
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


def predict(
    weights: Weights,
    tasks: Sequence[Task],
    work: Work,
    settings: PredictSettings,
    engine: Engine,
    on_views: Callable[[int], object],
) -> list[Prediction]:
    """Return the predictions of ``work``, planned for ``weights`` and ``tasks``, in its order.

    ``on_views`` is told how many views each finished batch held. Batches are the same whatever
    the number of processes, which take turns at them, so the predictions are the same too.
    """
    device, world = engine.device, engine.world
    model = engine.prepare(weights.model).eval()
    table_ND = weights.table_ND.to(device)
    side = model.settings.canvas_side
    num_steps = settings.num_supervision_steps or model.settings.max_supervision_steps
    inputs = encode_test_inputs(tasks, work.tasks, work.tests, work.codes, side)
    canvases_NS = torch.zeros(inputs.shape, dtype=torch.uint8, device=device)
    halt_N = torch.zeros(len(inputs), device=device)
    starts = range(0, len(inputs), settings.batch)
    for start in starts[world.rank :: world.size]:
        part = slice(start, min(start + settings.batch, len(inputs)))
        canvases_NS[part], halt_N[part] = _answer(
            model,
            torch.from_numpy(inputs[part]).to(device).long(),
            table_ND[torch.from_numpy(work.rows[part]).to(device)],
            torch.from_numpy(view_features(work.codes[part])).to(device),
            num_steps,
            engine.dtype,
        )
        on_views(part.stop - part.start)
    # Each process filled its own batches of a zeroed array, so the sum holds all of them.
    canvases = world.sum_(canvases_NS).cpu().numpy().reshape(-1, side, side)
    grids = decode_grids(canvases, work.codes)
    qs = world.sum_(halt_N).tolist()
    return [
        Prediction(tasks[task].task_id, int(test), grid, q)
        for task, test, grid, q in zip(work.tasks, work.tests, grids, qs, strict=True)
    ]


@torch.inference_mode()
def _answer(
    model: TRM,
    tokens_BS: Tensor,
    rows_BD: Tensor,
    views_BF: Tensor,
    num_steps: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, S) and the halting probability (B,) after all supervision steps."""
    x_BLD = model.embed(tokens_BS, rows_BD, views_BF).to(dtype)
    state = model.start(len(x_BLD), dtype)
    for _ in range(num_steps):
        state, logits_BSV, halt_B = model(state, x_BLD)
    return logits_BSV.argmax(-1).to(torch.uint8), halt_B.sigmoid()
