"""Numbers the TRM reference computes, from the folder in GOLDEN_DIR (default: tests/golden)."""

import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from adam_atan2_pytorch import AdamAtan2
from grid_oracle import View, decode_grid, encode_grid
from passes import pack_canvases

from augment.boxes import full_boxes
from augment.examples import Examples
from augment.grid import GridStore
from augment.prediction import Prediction
from augment.task_files import parse_task
from augment.tokens import PAD, decode_grids, encode_grids
from solver import train
from solver.carry import start_carry
from solver.loader import Batch
from solver.loss import HALT_WEIGHT, IGNORED, stablemax_cross_entropy
from solver.packing import pack
from solver.puzzle_table import PuzzleTable
from solver.reference import convert_reference, reference_names
from solver.train import supervise
from submission.score import score_submission
from submission.vote import count_votes
from submission.writer import build_submission

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).with_name("golden")))


def read_json(name):
    return json.loads((GOLDEN / name).read_text())


def read_npz(name):
    with np.load(GOLDEN / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


def read_model(golden):
    weights = {k[2:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith("w:")}
    model, rows = convert_reference(weights, json.loads(str(golden["config_json"])))
    numbers = torch.arange(len(rows))
    tensors = {"start": torch.zeros(rows.shape[1]), "numbers": numbers, "rows": rows}
    return model, PuzzleTable.from_tensors(len(rows), tensors)


def make_batch(inputs, labels, rows):
    """Golden examples on the full canvas, under the view 0, without exploration."""
    zeros = np.zeros(len(rows), dtype=np.int64)
    side = math.isqrt(inputs.shape[1])
    tokens = (inputs.astype(np.uint8), np.where(labels == IGNORED, PAD, labels).astype(np.uint8))
    boxes = full_boxes(len(rows), side)
    return Batch(Examples(*tokens, rows.astype(np.int64), zeros.astype(np.uint32), boxes), zeros)


def relative(ours, expected):
    expected = torch.from_numpy(expected)
    return ((ours.detach() - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def canvas_arrays(record):
    """The two canvases of a tokens record; their side is what the tokens fill."""
    arrays = [np.array(record[key], dtype=np.uint8) for key in ("input_tokens", "output_tokens")]
    side = round(arrays[0].size ** 0.5)
    return [array.reshape(side, side) for array in arrays]


def test_views():
    records = read_json("augment.json")
    assert records
    for record in records:
        view = View(record["dihedral"], tuple(record["colors"]))
        grid = np.array(record["grid"], dtype=np.uint8)
        assert view.apply(grid).tolist() == record["augmented"]
        assert view.invert().apply(view.apply(grid)).tolist() == record["grid"]


def test_views_in_a_batch_of_canvases():
    records = read_json("augment.json")
    store = GridStore.of(np.array(record["grid"], dtype=np.uint8) for record in records)
    codes = np.array(
        [View(r["dihedral"], tuple(r["colors"])).code for r in records], dtype=np.uint32
    )
    offsets = np.zeros((len(records), 2), dtype=np.int64)
    tokens = encode_grids(store, np.arange(len(records)), codes, offsets, 30).reshape(-1, 30, 30)
    for record, canvas, grid in zip(records, tokens, decode_grids(tokens, codes), strict=True):
        expected = np.array(record["augmented"], dtype=np.uint8)
        assert np.array_equal(canvas, encode_grid(expected, 30))
        assert grid.tolist() == record["grid"]


def test_tokens():
    records = read_json("tokens.json")
    assert records
    unchanged, at_origin = np.zeros(1, dtype=np.uint32), np.zeros((1, 2), dtype=np.int64)
    for record in records:
        for key, expected in zip(("input", "output"), canvas_arrays(record), strict=True):
            grid, side = np.array(record[key], dtype=np.uint8), len(expected)
            tokens = encode_grids(GridStore.of([grid]), np.arange(1), unchanged, at_origin, side)
            assert np.array_equal(tokens.reshape(side, side), expected)
            assert np.array_equal(encode_grid(grid, side), expected)
            (decoded,) = decode_grids(tokens.reshape(1, side, side), unchanged)
            assert decoded.tolist() == record[key]


def test_crop():
    canvases, grids = read_npz("crop.npz")["raw"], read_json("crop.json")
    decoded = decode_grids(canvases, np.zeros(len(canvases), dtype=np.uint32))
    for canvas, grid, expected in zip(canvases, decoded, grids, strict=True):
        assert ([] if grid is None else grid.tolist()) == expected
        plain = decode_grid(canvas)
        assert ([] if plain is None else plain.tolist()) == expected


def test_stablemax():
    golden = read_npz("stablemax.npz")
    labels = torch.from_numpy(golden["labels"])
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        loss = stablemax_cross_entropy(torch.from_numpy(golden["logits"]).to(dtype), labels)
        assert np.abs(loss.numpy() - golden["loss"]).max() <= tolerance


@pytest.mark.parametrize("name", ["trm_attention.npz", "trm_mlp.npz"])
class TestModel:
    def test_evaluation(self, name, engine):
        golden = read_npz(name)
        model, table = read_model(golden)
        rows = table.look_up(golden["puzzle_identifiers"])
        with torch.inference_mode():
            count = len(rows)
            packed = pack_canvases(model, golden["inputs"].astype(np.uint8))
            x = model.embed(packed, rows)
            state = model.start(len(x), torch.float32)
            for logits, halt in zip(golden["eval_logits"], golden["eval_q_halt"], strict=True):
                state, our_logits, our_halt, _ = model(state, x, packed)
                our_cells = our_logits[: packed.num_positions].unflatten(0, (count, -1))[
                    :, model.settings.prefix_length :
                ]
                assert np.abs(our_cells.numpy() - logits).max() <= 1e-3
                assert np.abs(our_halt.numpy() - halt).max() <= 1e-3

    def test_training_step(self, name, engine, monkeypatch):
        golden = read_npz(name)
        # The labels of the MLP's golden step teach padding too, which ARC's encoding never does.
        labels = torch.from_numpy(golden["train_labels"]).long()
        model, table = read_model(golden)
        labels = torch.nn.functional.pad(labels, (model.settings.prefix_length, 0), value=IGNORED)

        def pack_with_labels(*arguments):
            packed = pack(*arguments)
            packed.labels_M[: packed.num_positions] = labels[packed.members].flatten()
            return packed

        monkeypatch.setattr(train, "pack", pack_with_labels)
        batch = make_batch(golden["inputs"], golden["train_labels"], golden["puzzle_identifiers"])
        carry = start_carry(model, len(batch.min_steps_B), engine.device, engine.dtype)
        outcome = supervise(model, table, carry, batch, engine)
        losses = outcome.losses
        assert losses.total.item() == pytest.approx(float(golden["train_loss"]), rel=1e-4)
        tokens, halt = losses.tokens.sum().item(), losses.halt.sum().item()
        assert tokens == pytest.approx(float(golden["train_lm_loss"]), rel=1e-4)
        assert halt == pytest.approx(float(golden["train_q_halt_loss"]), rel=1e-4)
        assert losses.total.item() == pytest.approx(tokens + HALT_WEIGHT * halt)
        assert np.array_equal(outcome.carry.halted_B, golden["train_halted"])
        assert np.array_equal(outcome.carry.steps_B, golden["train_steps"])
        assert relative(outcome.row_gradients_BD, golden["g:puzzle_emb_rows"]) <= 1e-4
        parameters = dict(model.named_parameters())
        theirs = {ours: name for name, ours in reference_names(model).items()}
        for ours, parameter in parameters.items():
            assert relative(parameter.grad, golden[f"g:{theirs[ours]}"]) <= 1e-4, ours


def test_trajectory(engine):
    golden = read_npz("trm_trajectory.npz")
    model, table = read_model(golden)
    optimizer = AdamAtan2(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, a=1.27, b=1.0
    )
    num_lanes = golden["inputs"].shape[1]
    carry = start_carry(model, num_lanes, engine.device, engine.dtype)
    for step in range(len(golden["inputs"])):
        batch = make_batch(
            golden["inputs"][step], golden["labels"][step], golden["puzzle_identifiers"][step]
        )
        outcome = supervise(model, table, carry, batch, engine)
        losses, carry = outcome.losses, outcome.carry
        for parameter in model.parameters():
            parameter.grad /= num_lanes
        table.sign_sgd_step(carry.examples.rows, outcome.row_gradients_BD, 1e-2, 0.1)
        optimizer.step()
        optimizer.zero_grad()
        ours = (losses.total, losses.tokens.sum(), losses.halt.sum())
        for value, key in zip(ours, ("loss", "lm_loss", "q_halt_loss"), strict=True):
            assert value.item() == pytest.approx(float(golden[key][step]), rel=1e-3), (step, key)
        assert np.array_equal(carry.steps_B, golden["carry_steps"][step])
        assert np.array_equal(carry.halted_B, golden["carry_halted"][step])
    assert relative(table.values[1:], golden["final_puzzle_emb"]) <= 1e-3
    tensors = model.state_dict()
    for theirs, ours in reference_names(model).items():
        if f"final:{theirs}" in golden:
            assert relative(tensors[ours], golden[f"final:{theirs}"]) <= 1e-3, ours


def read_votes():
    """The golden votes as predictions, and the tasks they belong to."""
    golden, arrays = read_json("votes.json"), read_npz("votes.npz")
    tasks = {task_id: parse_test_only(task_id, task) for task_id, task in golden["tasks"].items()}
    predictions = []
    for number, (view, tokens) in enumerate(zip(arrays["view"], arrays["inputs"], strict=True)):
        task_id, *transform = golden["view_names"][view].split("|||")
        dihedral, colors = transform or ("t0", "0123456789")
        shown = View(int(dihedral[1:]), tuple(map(int, colors)))
        canvases = [
            np.ascontiguousarray(c.reshape(30, 30)) for c in (tokens, arrays["predictions"][number])
        ]
        codes = np.array([shown.code] * 2, dtype=np.uint32)
        test_input, grid = decode_grids(np.stack(canvases), codes)
        test = next(
            n
            for n, candidate in enumerate(tasks[task_id].test_inputs)
            if np.array_equal(candidate, test_input)
        )
        q = 1 / (1 + np.exp(-np.float64(arrays["q_halt"][number])))
        predictions.append(Prediction(task_id, test, grid, float(q)))
    return golden, list(tasks.values()), predictions


def parse_test_only(task_id, task):
    """A golden task may carry its tests alone; a demonstration is what the parser asks for."""
    train = task.get("train") or [task["test"][0]]
    return parse_task(task_id, {"train": train, "test": task["test"]}, "votes.json")


def test_votes():
    golden, tasks, predictions = read_votes()
    tally = count_votes(predictions)
    submission, _ = build_submission(tasks, tally.candidates)
    score = score_submission(submission, tasks, tally.candidates)
    assert golden["pass_at_k"]
    for name, expected in golden["pass_at_k"].items():
        k = int(name.partition("@")[2])
        assert score.oracle_pass_at(k)[0] == pytest.approx(expected), name

    compared = defaultdict(int)
    for task in tasks:
        # The reference leaves tests without votes out, and so its later attempts move up (trap 1).
        voted = [n for n in range(len(task.test_inputs)) if (task.task_id, n) in tally.candidates]
        expected_tests = golden["submission"].get(task.task_id, [])
        assert len(expected_tests) == len(voted)
        for test, expected in zip(voted, expected_tests, strict=True):
            attempts = [grid.tolist() for grid in submission.attempts[task.task_id][test]]
            num_compared = min(2, len(tally.candidates[task.task_id, test]))
            names = ("attempt_1", "attempt_2")[:num_compared]
            assert attempts[:num_compared] == [expected[name] for name in names]
            compared[num_compared] += 1
        assert len(submission.attempts[task.task_id]) == len(task.test_inputs)
    assert compared[2] > 0


def test_votes_name_every_test_of_every_task():
    _, tasks, predictions = read_votes()
    submission, coverage = build_submission(tasks, count_votes(predictions).candidates)
    answered = [len(submission.attempts[task.task_id]) for task in tasks]
    assert answered == [len(task.test_inputs) for task in tasks]
    assert coverage.model + coverage.fallback == sum(answered)
