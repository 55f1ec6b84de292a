"""What a model predicts after each of several numbers of supervision steps, cell by cell.

Shapes: N examples, K numbers of steps, S cells of the canvas, G examples of a pass, P positions of
it, D width.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from augment.examples import Examples
from solver.device import begin_fetch
from solver.engine import Engine
from solver.flop import flop_of_prediction
from solver.packing import lengths_of, pack, plan_passes, write_cells
from solver.weights import Weights


@torch.no_grad()
def predict_by_step(
    weights: Weights, examples: Examples, steps: Sequence[int], engine: Engine
) -> tuple[NDArray[np.uint8], float]:
    """Return the tokens (K, N, S) after each of the numbers of ``steps``, ascending, and the FLOP.

    No example halts before the last of them. Nothing is predicted outside of the examples' boxes.
    A pass whose numbers leave float16's range is computed again in float32.
    """
    model = engine.prepare(weights.model).eval()
    settings = model.settings
    lengths_N = lengths_of(examples.boxes, settings)
    tokens_KNS = np.zeros((len(steps), *examples.inputs.shape), dtype=np.uint8)

    def predict(members: NDArray[np.int64], dtype: torch.dtype = engine.dtype) -> None:
        packed = pack(settings, engine.device, examples, members)
        rows_GD = weights.table.look_up(examples.rows[members]).to(engine.device)
        x_PD = model.embed(packed, rows_GD).to(dtype)
        state, fetches = model.start(len(x_PD), dtype), []
        is_finite = torch.tensor(True, device=engine.device)
        for step in range(1, steps[-1] + 1):
            outcome = model(state, x_PD, packed)
            state = outcome.state
            is_finite &= outcome.logits_MV.isfinite().all()
            if step in steps:
                fetches.append(begin_fetch(outcome.logits_MV.argmax(-1).to(torch.uint8)))
        if dtype == torch.float16 and not is_finite:
            predict(members, torch.float32)
            return
        for number, fetch in enumerate(fetches):
            write_cells(packed, fetch().numpy(), tokens_KNS[number])

    def predict_all(members: NDArray[np.int64]) -> None:
        for part in plan_passes(lengths_N[members], engine.positions_per_pass):
            predict(members[part])

    for members in plan_passes(lengths_N, engine.positions_per_pass):
        engine.retry(model, partial(predict_all, members))
    return tokens_KNS, flop_of_prediction(settings, lengths_N, steps[-1])
