"""Boxes and packing: what is computed together equals what is computed alone, and plainly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, make_table
from faults import Shortage
from grid_oracle import View, encode_grid
from hypothesis import given
from hypothesis import strategies as st
from oracle import loss as oracle_loss
from oracle import supervision_step

from augment.boxes import full_boxes, infer_test_boxes, reaches_border
from augment.dataset import ExampleStream
from augment.errors import InputError
from augment.tokens import PAD
from augment.view import NUM_VIEWS
from pipeline.sources import load_source
from solver.batch import Batch, batches, start_carry
from solver.model import TRM
from solver.optimizer import LossScale
from solver.packing import lengths_of, plan_passes
from solver.puzzle_embedding import PuzzleTable
from solver.settings import ModelSettings
from solver.train import start_training, supervise, train_step

BOX_MODEL = replace(SMALL_MODEL, canvas="box")


def examples_of(dataset, count=9, start=40):
    return ExampleStream(dataset, 0).examples(start, start + count)


def run_steps(model, examples, engine, steps=2):
    """Supervision steps of slots that all hold their example from the first step on."""
    rows = torch.randn(int(examples.rows.max()) + 1, model.settings.dim, generator=seeded())
    table = make_table_of(rows)
    carry = start_carry(model, len(examples.rows), engine.device, engine.dtype)
    batch = Batch(examples, np.full(len(examples.rows), 99))
    outcomes = []
    for _ in range(steps):
        model.zero_grad()
        outcomes.append(supervise(model, table, carry, batch, engine))
        carry = outcomes[-1].carry
    return outcomes, rows


def make_table_of(rows):
    table = PuzzleTable(len(rows), torch.zeros(rows.shape[1]))
    table.put(np.arange(len(rows)), rows)
    return table


def seeded():
    return torch.Generator().manual_seed(5)


def box_cells(box, side):
    top, left, height, width = box
    grid = np.arange(side * side).reshape(side, side)
    return grid[top : top + height, left : left + width].ravel()


@pytest.mark.parametrize("canvas", ["full", "box"])
@pytest.mark.parametrize("tokens_per_pass", [1, 300, 10**6])
def test_a_pass_equals_the_oracle_on_each_example_alone(
    small_dataset, engine, canvas, tokens_per_pass
):
    """Losses, row gradients and trunk gradients of a second step, which goes on from the first."""
    model = TRM(replace(SMALL_MODEL, canvas=canvas), 3)
    examples = examples_of(small_dataset)
    if canvas == "full":
        examples = replace(examples, boxes=full_boxes(len(examples.rows), 10))
    assert len(set(lengths_of(examples.boxes, model.settings))) == 1 or canvas == "box"
    outcomes, rows = run_steps(model, examples, replace(engine, planned_tokens=tokens_per_pass))
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    p = dict(model.named_parameters())
    for number, box in enumerate(examples.boxes):
        cells = box_cells(box, 10)
        tokens = torch.from_numpy(examples.inputs[None, number, cells]).long()
        labels = torch.from_numpy(examples.labels[None, number, cells]).long()
        row = rows[examples.rows[number]][None].clone().requires_grad_()
        length = SMALL_MODEL.prefix_length + len(cells)
        state = tuple(start.expand(1, length, -1) for start in (model.y_start, model.z_start))
        for step, outcome in enumerate(outcomes):
            logits, halt, state = supervision_step(
                p, SMALL_MODEL, tokens, torch.from_numpy(cells), row, state, torch.float32
            )
            expected = oracle_loss(logits, halt, labels)
            ours = outcome.losses.tokens[number] + 0.5 * outcome.losses.halt[number]
            assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
            if step == 1:
                expected.backward()
        assert torch.allclose(outcomes[1].row_gradients_BD[number], row.grad[0], atol=1e-6)
    for name, gradient in found.items():
        assert torch.allclose(gradient, p[name].grad, rtol=1e-3, atol=1e-5), name


def test_a_box_of_the_full_size_equals_full(small_dataset, engine):
    examples = examples_of(small_dataset)
    examples = replace(examples, boxes=full_boxes(len(examples.rows), 10))
    results = []
    for canvas in ("full", "box"):
        model = TRM(replace(SMALL_MODEL, canvas=canvas), 3)
        outcomes, _ = run_steps(model, examples, engine)
        results.append((outcomes[1].losses, outcomes[1].carry.state))
    for (ours, our_state), (theirs, their_state) in [results]:
        assert all(map(torch.equal, (*ours, *our_state), (*theirs, *their_state)))


def test_passes_computed_again_give_the_same_gradients(small_dataset, engine):
    examples = examples_of(small_dataset)
    found = []
    for recompute in (False, True):
        model = engine.prepare(TRM(BOX_MODEL, 3))
        model.recompute = recompute
        outcomes, _ = run_steps(model, examples, engine)
        found.append([outcomes[1].row_gradients_BD, *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *found))


@given(st.lists(st.integers(17, 916), min_size=1, max_size=60), st.integers(1, 5000))
def test_passes_hold_every_example_once_and_about_what_fits(lengths, tokens_per_pass):
    lengths = np.array(lengths)
    passes = plan_passes(lengths, tokens_per_pass)
    assert sorted(np.concatenate(passes)) == list(range(len(lengths)))
    for members in passes:
        assert lengths[members].sum() - lengths[members].max() < tokens_per_pass
    longest = [lengths[members].max() for members in passes]
    assert longest == sorted(longest, reverse=True)


def test_boxes_hold_all_that_is_on_the_canvas(small_dataset):
    examples = examples_of(small_dataset, 200, 0)
    sides = set()
    for inputs, labels, box in zip(examples.inputs, examples.labels, examples.boxes, strict=True):
        outside = np.ones(100, dtype=bool)
        outside[box_cells(box, 10)] = False
        assert (inputs[outside] == PAD).all()
        assert (labels[outside] == PAD).all()
        # The last row or column is needed: markers or, at the canvas' end, the grid itself.
        for last in (box_cells((*box[:2], 1, box[3]), 10), box_cells((*box[:2], box[2], 1), 10)):
            assert (inputs[last] != PAD).any() or (labels[last] != PAD).any()
        sides.add(tuple(box[2:]))
    assert len(sides) > 5


def test_inferred_boxes_come_from_what_is_visible_and_hold_the_answer():
    """On every task of both ARC-AGI sets; answers play no part."""
    shares = {}
    for source in ("arc1/evaluation", "arc2/evaluation"):
        tasks = load_source(source)
        keys = [(n, t) for n, task in enumerate(tasks) for t in range(len(task.test_inputs))]
        numbers, tests = (np.array(column) for column in zip(*keys, strict=True))
        codes = np.random.default_rng(0).integers(NUM_VIEWS, size=len(keys)).astype(np.uint32)
        boxes = infer_test_boxes(tasks, numbers, tests, codes, 30)
        hidden = [task.without_answers() for task in tasks]
        assert np.array_equal(boxes, infer_test_boxes(hidden, numbers, tests, codes, 30))
        for (number, test), code, box in zip(keys, codes, boxes, strict=True):
            for grid in (tasks[number].test_inputs[test], tasks[number].answers[test]):
                shown = View.from_code(code).apply(grid)
                assert (np.minimum(np.array(shown.shape) + 1, 30) <= box[2:]).all()
        shares[source] = (boxes[:, 2:] == 30).all(axis=1).mean()
    assert shares["arc1/evaluation"] < 0.3
    assert shares["arc2/evaluation"] < 0.5


def test_a_grid_that_reaches_the_border_of_its_box_is_seen():
    canvases = np.stack([encode_grid(np.ones(size, np.uint8), 10) for size in ((3, 4), (10, 2))])
    boxes = np.array([[0, 0, 4, 5], [0, 0, 10, 3]])
    assert reaches_border(canvases, boxes).tolist() == [False, False]
    boxes[:, 3] -= 1
    assert reaches_border(canvases, boxes).tolist() == [True, True]
    assert not reaches_border(canvases, full_boxes(2, 10)).any()


def test_a_box_needs_attention():
    with pytest.raises(InputError, match="canvas=box needs"):
        ModelSettings(canvas="box", variant="mlp")


def train_three_steps(dataset, engine, most=10**9):
    settings = replace(SHORT_TRAINING, num_steps=3)
    training = start_training(TRM(BOX_MODEL), make_table(dataset), settings, engine)
    training.model.forward = Shortage(training.model, most)
    stream = ExampleStream(dataset, 0)
    for batch in batches(stream, settings, BOX_MODEL, engine.world, 0):
        train_step(training, batch, settings, engine)
    return training


def test_training_goes_on_with_half_as_much_at_once_when_memory_runs_out(small_dataset, engine):
    said = []
    short = replace(engine, say=said.append)
    training = train_three_steps(small_dataset, short, most=250)
    assert said[0].endswith("going on with engine.tokens_per_pass=2048 instead of 4096")
    assert short.tokens_per_pass < 250
    undisturbed = train_three_steps(small_dataset, replace(engine))
    for ours, theirs in zip(
        training.model.parameters(), undisturbed.model.parameters(), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)
    with pytest.raises(InputError, match="out of memory with one example at a time"):
        train_three_steps(small_dataset, replace(engine, say=said.append), most=20)


def test_steps_out_of_the_range_of_float16_count_for_nothing(small_dataset, engine):
    """The scale of the loss halves, the slots start afresh, and training goes on."""
    half = replace(engine, dtype=torch.float16)
    settings = replace(SHORT_TRAINING, num_steps=4)
    training = start_training(TRM(BOX_MODEL), make_table(small_dataset), settings, half)
    training.scale.factor = 2.0**40
    before = [p.detach().clone() for p in training.model.parameters()]
    stream = ExampleStream(small_dataset, 0)
    first, *others = batches(stream, settings, BOX_MODEL, half.world, 0)
    train_step(training, first, settings, half)
    assert training.scale.factor == 2.0**39
    assert all(map(torch.equal, before, training.model.parameters()))
    assert not training.table.values.any()
    assert training.carry.halted_B.all()
    training.scale.factor = 2.0**10
    for batch in others:
        train_step(training, batch, settings, half)
    assert training.step == 4
    assert not any(map(torch.equal, before, training.model.parameters()))
    training.scale.factor = 1.0
    with pytest.raises(FloatingPointError, match="float16 is too narrow"):
        training.scale.keep(False)


def test_float16_gradients_point_where_float32_ones_do(small_dataset, engine):
    """Without the scale most of a late row's gradient is lost to zero."""
    examples = examples_of(small_dataset, 32)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        model = TRM(BOX_MODEL, 3)
        chosen = replace(engine, dtype=dtype)
        carry = start_carry(model, 32, engine.device, dtype)
        table = make_table(small_dataset)
        scale = LossScale(dtype).factor
        batch = Batch(examples, np.full(32, 99))
        outcome = supervise(model, table, carry, batch, chosen, scale)
        gradients.append(outcome.row_gradients_BD)
    same = gradients[0].sign() == gradients[1].sign()
    assert same.float().mean() > 0.97


def test_loss_scale_doubles_after_many_good_steps():
    scale = LossScale(torch.float16)
    first = scale.factor
    assert all(scale.keep(True) for _ in range(1000))
    assert scale.factor == 2 * first
    assert LossScale(torch.bfloat16).factor == 1
