"""The evaluation of a pretraining run on held-out tests or puzzles, which are never trained on.

Shapes: N held-out pairs under their views, G of them in a pass, P positions of a pass, M cells of
these, V tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from augment.dataset import Dataset
from augment.errors import InputError
from augment.examples import Examples, encode_test_pairs
from augment.puzzle_index import PuzzleIndex
from augment.puzzle_set import PuzzleSet, encode_puzzles
from augment.task import Task
from solver.engine import Engine
from solver.loss import compute_losses
from solver.model import Model
from solver.packing import boxes_for, lengths_of, pack, plan_passes
from solver.predict import predict
from solver.puzzle_table import PuzzleTable
from solver.queries import Plan, list_queries
from solver.train import Training
from solver.weights import Weights
from submission.score import Score, score_submission
from submission.vote import count_votes
from submission.writer import build_submission

LOSS, EXACT, PASS2 = "eval_loss", "eval_exact_accuracy", "eval_pass@2"
"""Names of what an evaluation measures, in ``metrics.jsonl``."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Held-out pairs, and for tasks the first views of each under which they are predicted."""

    examples: Examples
    engine: Engine
    tasks: Sequence[Task] = ()
    """With their solutions; none where puzzles are evaluated, which have no votes."""
    index: PuzzleIndex | None = None
    """The rows of the tasks."""
    num_views: int = 1

    @classmethod
    def of(
        cls, tasks: Sequence[Task], dataset: Dataset, num_views: int, engine: Engine
    ) -> "Evaluation":
        """Return the evaluation on the tests of ``tasks``, whose demonstrations are trained on.

        Raises :class:`InputError` for a test that does not fit the canvas.
        """
        index = dataset.index
        known = [task for task in tasks if index.find(task) is not None]
        for task in known:
            if (side := task.longest_side(with_solutions=True)) > dataset.canvas_side:
                raise InputError(
                    f"data.evaluated: task {task.task_id!r}: a test has a side of {side}, beyond "
                    f"model.canvas_side={dataset.canvas_side}; data.max_side leaves such tasks out"
                )
        examples = _encode_tests(known, index, num_views, dataset.canvas_side)
        return cls(examples, engine, known, index, num_views)

    @classmethod
    def of_puzzles(cls, puzzles: PuzzleSet, engine: Engine) -> "Evaluation":
        """Return the evaluation on puzzles that are not trained on, each as it is."""
        return cls(encode_puzzles(puzzles), engine)

    def measure(self, training: Training) -> dict[str, float]:
        """Return held-out loss, exact accuracy and, of tasks, pass@2 of the averaged model.

        Loss and exact accuracy are means over pairs under their views, with the true box, after all
        supervision steps. pass@2 is the share of outputs that the two best candidates by votes
        solve, with boxes inferred.
        """
        model = training.ema.averaged(training.model).eval()
        loss, _, exact = self.measure_loss(model, training.table)
        measured = {LOSS: loss, EXACT: exact}
        if self.tasks:
            by_votes = self.score(model, training.table).oracle_pass_at(2)
            assert by_votes is not None
            measured[PASS2] = by_votes[1]
        return measured

    @torch.no_grad()
    def measure_loss(self, model: Model, table: PuzzleTable) -> tuple[float, float, float]:
        """Return held-out loss, accuracy and exact accuracy of a model that does not train."""
        engine, settings = self.engine, model.settings
        boxes = boxes_for(settings, self.examples.boxes)
        examples = replace(self.examples, boxes=boxes)
        passes = plan_passes(lengths_of(examples.boxes, settings), engine.positions_per_pass)
        sums = np.zeros(3)
        for members in passes[engine.group.rank :: engine.group.size]:
            packed = pack(settings, engine.device, examples, members)
            rows_GD = table.look_up(examples.rows[members])
            x_PD = model.embed(packed, rows_GD).to(engine.dtype)
            state = model.start(len(x_PD), engine.dtype)
            for _ in range(settings.max_supervision_steps):
                state, logits_MV, halt_G, _ = model(state, x_PD, packed)
            losses = compute_losses(
                logits_MV, halt_G, packed.labels_M, packed.owners_N, settings.output
            )
            for number, part in enumerate((losses.tokens, losses.accuracy, losses.exact)):
                sums[number] += part.sum().item()
        loss, accuracy, exact = (
            engine.group.sum(total) / len(examples.rows) for total in sums.tolist()
        )
        return loss, accuracy, exact

    def score(self, model: Model, table: PuzzleTable) -> Score:
        """Return the score of the votes."""
        assert self.index is not None, "puzzles have no votes"
        weights = Weights(model, table, self.index, np.empty(0, np.uint64), "evaluation", "")
        queries = list_queries(weights, self.tasks, self.num_views)
        settings = model.settings
        plan = Plan.of(settings, settings.max_supervision_steps, self.tasks, queries)
        candidates = count_votes(filter(None, predict(weights, plan, self.engine))).candidates
        submission, _ = build_submission(self.tasks, candidates)
        return score_submission(submission, self.tasks, candidates)


def _encode_tests(
    tasks: Sequence[Task], index: PuzzleIndex, num_views: int, canvas_side: int
) -> Examples:
    """Return the test pairs of all tasks under their first views, never translated."""
    pairs, positions, views = [], [], []
    for task in tasks:
        position = index.find(task)
        assert position is not None, task.task_id
        known_views = min(num_views, int(index.num_views[position]))
        for pair, view in product(task.test_pairs, range(known_views)):
            pairs.append(pair)
            positions.append(position)
            views.append(view)
    rows, codes = index.rows(np.array(positions), np.array(views))
    return encode_test_pairs(pairs, rows, codes, canvas_side)
