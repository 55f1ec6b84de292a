"""Examples that are computed together equal each alone, and plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BOX_MODEL, SMALL_MODEL, seeded
from hypothesis import given
from hypothesis import strategies as st
from oracle import loss as oracle_loss
from oracle import supervision_step
from passes import box_cells, examples_of

from augment.boxes import full_boxes
from augment.tokens import NUM_TOKENS, PAD
from solver.carry import start_carry
from solver.kinds import new_model
from solver.loader import Batch
from solver.loss import IGNORED
from solver.packing import boxes_for, lengths_of, pack, plan_passes
from solver.puzzle_table import PuzzleTable
from solver.train import supervise


def run_steps(model, examples, engine, steps=2):
    """Supervision steps of lanes that all hold their example from the first step on."""
    rows = torch.randn(int(examples.rows.max()) + 1, model.settings.dim, generator=seeded(5))
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


@pytest.mark.parametrize("canvas", ["full", "box"])
@pytest.mark.parametrize("positions_per_pass", [1, 300, 10**6])
def test_a_pass_equals_the_oracle_on_each_example_alone(
    small_dataset, engine, canvas, positions_per_pass
):
    """Losses, row gradients and trunk gradients of a second step, which goes on from the first."""
    model = new_model(replace(SMALL_MODEL, canvas=canvas), 3)
    examples = examples_of(small_dataset)
    if canvas == "full":
        examples = replace(examples, boxes=full_boxes(len(examples.rows), 10))
    assert len(set(lengths_of(examples.boxes, model.settings))) == 1 or canvas == "box"
    outcomes, rows = run_steps(
        model, examples, replace(engine, planned_positions=positions_per_pass)
    )
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
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
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, p[name].grad, rtol=1e-3, atol=1e-5), name


def test_a_box_of_the_full_size_equals_full(small_dataset, engine):
    examples = examples_of(small_dataset)
    examples = replace(examples, boxes=full_boxes(len(examples.rows), 10))
    results = []
    for canvas in ("full", "box"):
        model = new_model(replace(SMALL_MODEL, canvas=canvas), 3)
        outcomes, _ = run_steps(model, examples, engine)
        results.append((outcomes[1].losses, outcomes[1].carry.state))
    (ours, our_state), (theirs, their_state) = results
    assert all(map(torch.equal, (*ours, *our_state), (*theirs, *their_state)))


def test_passes_computed_again_give_the_same_gradients(small_dataset, engine):
    examples = examples_of(small_dataset)
    gradients = []
    for recompute in (False, True):
        model = engine.prepare(new_model(BOX_MODEL, 3))
        model.recompute = recompute
        outcomes, _ = run_steps(model, examples, engine)
        gradients.append([outcomes[1].row_gradients_BD, *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *gradients))


@given(st.lists(st.integers(17, 916), min_size=1, max_size=60), st.integers(1, 5000))
def test_passes_hold_every_example_once_and_about_what_fits(lengths, positions_per_pass):
    lengths = np.array(lengths)
    passes = plan_passes(lengths, positions_per_pass)
    assert sorted(np.concatenate(passes)) == list(range(len(lengths)))
    for members in passes:
        assert lengths[members].sum() - lengths[members].max() < positions_per_pass
    longest = [lengths[members].max() for members in passes]
    assert longest == sorted(longest, reverse=True)


def test_positions_of_four_cells_hold_the_tokens_and_labels_of_their_squares(small_dataset):
    """Every cell of an example's box stands once, at its position, in the order of the square."""
    settings = replace(BOX_MODEL, patch=2)
    examples = examples_of(small_dataset)
    original = examples.boxes
    examples = replace(examples, boxes=boxes_for(settings, original))
    packed = pack(settings, torch.device("cpu"), examples, np.arange(len(examples.rows)))
    labels_NC = packed.labels_M.view(-1, 4).numpy()
    side = settings.canvas_side
    for number, (box, smallest) in enumerate(zip(examples.boxes, original, strict=True)):
        assert not (box % 2).any()
        assert (box[:2] <= smallest[:2]).all()
        assert (box[:2] + box[2:] >= smallest[:2] + smallest[2:]).all()
        first = int(packed.bounds_E[number]) + settings.prefix_length
        here = slice(first, int(packed.bounds_E[number + 1]))
        cells_NC = packed.cells_NC[here]
        assert sorted(cells_NC.ravel()) == sorted(box_cells(box, side))
        row, column = np.divmod(cells_NC, side)
        assert (row - row[:, :1] == [0, 0, 1, 1]).all()
        assert (column - column[:, :1] == [0, 1, 0, 1]).all()
        inputs = packed.sources_NC.numpy()[here] - NUM_TOKENS * np.arange(4)
        assert np.array_equal(inputs, examples.inputs[number, cells_NC])
        expected = examples.labels[number, cells_NC].astype(int)
        assert np.array_equal(labels_NC[here], np.where(expected == PAD, IGNORED, expected))
        places = packed.positions_N.numpy()[here] - settings.prefix_length
        assert np.array_equal(places, row[:, 0] // 2 * 5 + column[:, 0] // 2)
    length = lengths_of(examples.boxes, settings)
    assert np.array_equal(length, np.diff(packed.bounds_E.numpy())[:-1])


def test_a_model_of_larger_positions_learns_and_predicts_alike(small_dataset, small_tasks, engine):
    """Losses of examples packed together are those of each alone, in training and prediction."""
    settings = replace(BOX_MODEL, patch=2, rotary="grid", rotary_base=100.0)
    model, examples = new_model(settings, 3), examples_of(small_dataset)
    examples = replace(examples, boxes=boxes_for(settings, examples.boxes))
    together, _ = run_steps(model, examples, engine)
    alone, _ = run_steps(model, examples, replace(engine, planned_positions=1))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.losses.tokens, other.losses.tokens)
        torch.testing.assert_close(one.row_gradients_BD, other.row_gradients_BD)
