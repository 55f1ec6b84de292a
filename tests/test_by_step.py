"""Predictions after several numbers of supervision steps."""

from dataclasses import replace

import numpy as np
import torch
from conftest import SMALL_MODEL
from faults import Shortage

from augment.puzzle_set import PuzzleSet, encode_questions
from augment.sudoku import generate_sudokus
from solver.by_step import predict_by_step
from solver.engine import Engine
from solver.flop import flop_of_prediction
from solver.kinds import new_model
from solver.packing import pack
from solver.puzzle_table import PuzzleTable
from solver.weights import Weights

MODEL = replace(SMALL_MODEL, canvas_side=9, prefix_length=2)


def test_each_number_of_steps_has_its_own_predictions_in_any_passes():
    puzzles = PuzzleSet("sudoku", *generate_sudokus(3, 0, (30, 30)))
    examples = encode_questions(puzzles)
    model = new_model(MODEL).eval()
    table = PuzzleTable(puzzles.index.num_rows, torch.ones(MODEL.dim))
    weights = Weights(model, table, puzzles.index, np.empty(0, np.uint64), "", "")
    whole = Engine(torch.device("cpu"), torch.float32)
    tokens_KNC, flop = predict_by_step(weights, examples, (1, 2, 4), whole)
    assert tokens_KNC.shape == (3, 3, 81)
    assert flop == flop_of_prediction(MODEL, np.full(3, 83), 4)
    one_by_one = Engine(torch.device("cpu"), torch.float32, planned_positions=1)
    assert np.array_equal(predict_by_step(weights, examples, (1, 2, 4), one_by_one)[0], tokens_KNC)
    printed = []
    short = Engine(torch.device("cpu"), torch.float32, say=printed.append)
    model.forward = Shortage(model, 150)  # of memory, beyond one puzzle
    assert np.array_equal(predict_by_step(weights, examples, (1, 2, 4), short)[0], tokens_KNC)
    assert "out of memory" in printed[0]
    del model.forward

    packed = pack(MODEL, torch.device("cpu"), examples, np.array([1]))
    with torch.no_grad():
        x_ND = model.embed(packed, table.look_up(examples.rows[[1]]))
        state = model.start(len(x_ND), torch.float32)
        expected = []
        for _ in range(4):
            outcome = model(state, x_ND, packed)
            state = outcome.state
            expected.append(outcome.logits_MV.argmax(-1)[2:83].numpy())
    assert np.array_equal(tokens_KNC[:, 1], np.array(expected)[[0, 1, 3]])


def test_numbers_beyond_float16_are_computed_again_in_float32():
    puzzles = PuzzleSet("sudoku", *generate_sudokus(3, 0, (30, 30)))
    model = new_model(MODEL).eval()
    with torch.no_grad():
        model.output_head.weight.mul_(1e8)
    table = PuzzleTable(puzzles.index.num_rows, torch.ones(MODEL.dim))
    weights = Weights(model, table, puzzles.index, np.empty(0, np.uint64), "", "")
    exact, half = (
        predict_by_step(
            weights, encode_questions(puzzles), (1, 2), Engine(torch.device("cpu"), dtype)
        )[0]
        for dtype in (torch.float32, torch.float16)
    )
    assert np.array_equal(half, exact)
    assert len(np.unique(exact)) > 1
