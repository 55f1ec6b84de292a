"""Prediction: the queries of a plan to output grids, with each view undone.

A predictor takes a plan chunk by chunk, so that its caller can look at the deadline in between.

Shapes: N queries, G queries of one pass, P positions of a pass, M cells of these, S cells of the
canvas, V tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.boxes import reaches_border
from augment.prediction import Prediction
from augment.tokens import decode_grids
from solver.device import begin_fetch, to_device
from solver.engine import Engine
from solver.flop import flop_of_prediction
from solver.model import Outcome
from solver.packing import Packed, pack, plan_passes, upload, write_cells
from solver.queries import Chunk, Plan, share_chunks
from solver.weights import Weights


class Predictor:
    """Predicts a plan in parts: its caller submits the :attr:`chunks` of a part, and joins.

    The first part is the whole plan. The second one makes predictions again, on the full canvas,
    that reach beyond the box inferred for them. Queries never submitted have no prediction.
    """

    def __init__(
        self, weights: Weights, plan: Plan, engine: Engine, *, stop_when_halted: bool = False
    ) -> None:
        """Begin with ``plan``; with ``stop_when_halted`` a halted query takes no further step."""
        self._model = engine.prepare(weights.model).eval()
        self._table, self._engine, self._stops = weights.table, engine, stop_when_halted
        self._plan = plan
        self._canvases_NS = np.zeros((len(plan.boxes), plan.model.canvas_side**2), dtype=np.uint8)
        self._q_N = np.zeros(len(plan.boxes), dtype=np.float32)
        self._is_done_N = np.zeros(len(plan.boxes), dtype=bool)
        self._running: list[_Output] = []
        self.num_outgrown = 0
        """Predictions that reach beyond the box inferred for them, known after the first join."""
        self._begin_part(plan, np.arange(len(plan.boxes)))

    def _begin_part(self, part: Plan, queries: NDArray[np.int64]) -> None:
        """Take the chunks from ``part``, which is the plan of these queries."""
        self._part, self._queries = part, queries
        self._examples = part.examples()
        self._canvases = np.zeros_like(self._examples.inputs)
        self._q = np.zeros(len(queries), dtype=np.float32)
        self._is_done = np.zeros(len(queries), dtype=np.uint8)
        group = self._engine.group
        chunks = part.chunks(self._engine.planned_positions) if len(queries) else []
        self.chunks = share_chunks(chunks, group.size)[group.rank]
        """The chunks of this process in this part, the shortest queries first."""

    @property
    def is_finished(self) -> bool:
        """Whether no part is left; the same on every process."""
        return len(self._queries) == 0

    def submit(self, chunk: Chunk) -> float:
        """Begin to predict a chunk, and wait for the one before it, whose FLOP are returned."""
        begun = self._engine.retry(self._model, partial(self._begin_chunk, chunk.members))
        flop = self._finish(self._running)  # the device already has the new chunk
        self._running = begun
        return flop

    def join(self) -> float:
        """Wait for all processes to finish the part; return the FLOP of this one's last chunk."""
        flop = self._finish(self._running)
        self._running = []
        group, device = self._engine.group, self._engine.device
        # Each process filled in its own queries of zeroed arrays, so the sums hold all of them.
        canvases, q, is_done = (
            group.all_reduce(to_device(array, device)).cpu().numpy()
            for array in (self._canvases, self._q, self._is_done)
        )
        done = np.flatnonzero(is_done)
        targets = self._queries[done]
        self._canvases_NS[targets], self._q_N[targets] = canvases[done], q[done]
        self._is_done_N[targets] = True
        again = np.empty(0, np.int64)
        if self._part is self._plan:
            outgrows_N = reaches_border(self._grids_on_canvas(), self._plan.boxes)
            again = np.flatnonzero(outgrows_N & self._is_done_N)
            self.num_outgrown = len(again)
        self._begin_part(self._plan.take(again).on_full_canvas(), again)
        return flop

    def predictions(self) -> list[Prediction | None]:
        """Return the prediction of each query, in their order; None where there is none."""
        queries = self._plan.queries
        grids = decode_grids(self._grids_on_canvas(), queries.codes)
        columns = (queries.tasks, queries.tests, grids, self._q_N.tolist(), queries.views.tolist())
        return [
            Prediction(self._plan.tasks[task].task_id, int(test), grid, q, view)
            if is_done
            else None
            for task, test, grid, q, view, is_done in zip(*columns, self._is_done_N, strict=True)
        ]

    def _grids_on_canvas(self) -> NDArray[np.uint8]:
        side = self._plan.model.canvas_side
        return self._canvases_NS.reshape(-1, side, side)

    @torch.no_grad()
    def _begin_chunk(
        self, members: NDArray[np.int64], dtype: torch.dtype | None = None
    ) -> list["_Output"]:
        engine, lengths = self._engine, self._part.lengths
        dtype = dtype or engine.dtype
        passes = plan_passes(lengths[members], engine.positions_per_pass)
        return [out for part in passes for out in self._begin_pass(members[part], dtype)]

    def _begin_pass(self, members: NDArray[np.int64], dtype: torch.dtype) -> Iterator["_Output"]:
        """Yield the outputs of a pass: those of queries that halt early, and of all others."""
        model, plan, settings = self._model, self._part, self._plan.model
        device, lengths = self._engine.device, plan.lengths
        examples = self._examples
        rows_GD = to_device(self._table.look_up(examples.rows[members]), device)
        packed = pack(settings, device, examples, members)
        x_PD = model.embed(packed, rows_GD).to(dtype)
        state, flop = model.start(len(x_PD), dtype), 0.0
        for step in range(1, plan.num_steps + 1):
            outcome = model(state, x_PD, packed)
            state = outcome.state
            flop += flop_of_prediction(settings, lengths[members], 1)
            if step == plan.num_steps:
                yield _Output.of(packed, outcome, flop)
            elif self._stops and (halted := outcome.halts.cpu().numpy()).any():
                # Queries that go on replace this prediction by a later, better one.
                yield _Output.of(packed, outcome, flop)
                flop = 0.0
                if halted.all():
                    return
                members, before = members[~halted], packed
                packed = pack(settings, device, examples, members)
                kept = np.zeros(len(packed.examples_N), dtype=np.int64)
                owners = before.examples_N[: before.num_positions]
                kept[: packed.num_positions] = np.isin(owners, members).nonzero()[0]
                (at,) = upload((kept,), device)
                x_PD, state = x_PD[at], tuple(tensor[at] for tensor in state)

    @torch.no_grad()
    def _finish(self, outputs: Sequence["_Output"], dtype: torch.dtype | None = None) -> float:
        """Wait for the outputs and keep them; return the FLOP they took.

        Queries whose numbers left float16's range are computed again in float32.
        """
        flop = 0.0
        for output in outputs:
            packed = output.packed
            is_finite = output.is_finite().item()  # here the host waits for the device
            flop += output.flop
            if (dtype or self._engine.dtype) == torch.float16 and not is_finite:
                self._engine.say(
                    f"predict: {len(packed.members)} views left float16's range: in float32"
                )
                again = partial(self._begin_chunk, packed.members, torch.float32)
                flop += self._finish(self._engine.retry(self._model, again), torch.float32)
                continue
            write_cells(packed, output.tokens().numpy(), self._canvases)
            self._q[packed.members] = output.q().numpy()
            self._is_done[packed.members] = 1
        return flop


class _Output(NamedTuple):
    """The output of a pass, on its way from the device."""

    packed: Packed
    tokens: Callable[[], Tensor]
    """Waits for the tokens (M,)."""
    q: Callable[[], Tensor]
    """Waits for the halting probabilities (G,)."""
    is_finite: Callable[[], Tensor]
    flop: float
    """The FLOP since the output before this one."""

    @classmethod
    def of(cls, packed: Packed, outcome: Outcome, flop: float) -> "_Output":
        logits_MV, halt_G = outcome.logits_MV, outcome.halt_G
        tokens_M = logits_MV.argmax(-1).to(torch.uint8)
        is_finite = logits_MV.isfinite().all() & halt_G.isfinite().all()
        tokens, q, finite = map(begin_fetch, (tokens_M, halt_G.sigmoid(), is_finite))
        return cls(packed, tokens, q, finite, flop)


def predict(
    weights: Weights, plan: Plan, engine: Engine, *, stop_when_halted: bool = False
) -> list[Prediction | None]:
    """Return the predictions of all queries of ``plan``, without a look at the time."""
    predictor = Predictor(weights, plan, engine, stop_when_halted=stop_when_halted)
    while not predictor.is_finished:
        for chunk in predictor.chunks:
            predictor.submit(chunk)
        predictor.join()
    return predictor.predictions()
