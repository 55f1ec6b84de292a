"""Predictions: which `queries` are predicted, in which order, and what they do not depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from answering import as_lists, paint, plan_of, random_weights, run, with_halt
from conftest import SMALL_MODEL, make_dataset, seeded
from faults import Shortage

from augment.sizes import infer_output_size
from augment.tokens import END, FIRST_COLOR, NUM_TOKENS
from pipeline.settings import PredictSettings
from solver.flop import flop_of_prediction
from solver.model import Outcome
from solver.predict import Predictor, predict
from solver.process_group import ProcessGroup
from solver.queries import Chunk, list_queries, share_chunks
from solver.trm import TRM


@pytest.mark.parametrize("rows_per", ["view", "task"])
def test_every_test_is_predicted_under_its_first_views(small_tasks, engine, rows_per):
    dataset = make_dataset(small_tasks, rows_per)
    tasks = [task.without_solutions() for task in reversed(small_tasks)]
    settings = PredictSettings(num_views=4)
    weights = random_weights(dataset)
    plan = plan_of(weights, tasks, 4)
    predictor = Predictor(weights, plan, engine)
    flop = sum(map(predictor.submit, predictor.chunks)) + predictor.join()
    assert predictor.is_finished
    predictions = predictor.predictions()
    assert as_lists(predictions) == as_lists(run(dataset, tasks, engine, settings))
    expected = [
        (task.task_id, test)
        for task in tasks
        for test in range(len(task.test_inputs))
        for _ in range(4)
    ]
    assert [(p.task_id, p.test) for p in predictions] == expected
    model = replace(SMALL_MODEL, rows_per=rows_per)
    lengths = np.full(len(expected), model.length)
    steps = model.max_supervision_steps
    assert flop == pytest.approx(flop_of_prediction(model, lengths, steps)) == plan.flop
    assert all(0 < p.q < 1 for p in predictions)


def test_the_batch_plays_no_part(small_tasks, small_dataset, engine):
    single, other = (
        run(
            small_dataset,
            small_tasks,
            replace(engine, planned_positions=tokens),
            PredictSettings(num_views=3),
        )
        for tokens in (1, 5000)
    )
    assert [p[:3] for p in as_lists(single)] == [p[:3] for p in as_lists(other)]
    assert np.allclose([p.q for p in single], [p.q for p in other], atol=1e-5)


def test_supervision_steps_can_be_fewer(small_tasks, small_dataset, engine):
    full, three, single = (
        as_lists(
            run(
                small_dataset,
                small_tasks,
                engine,
                PredictSettings(num_views=2, num_supervision_steps=steps),
            )
        )
        for steps in (0, SMALL_MODEL.max_supervision_steps, 1)
    )
    assert full == three
    assert full != single


def test_rows_and_views_are_those_of_the_index(small_tasks, small_dataset):
    index = small_dataset.index
    queries = list_queries(random_weights(small_dataset), small_tasks[2:4], 100)
    first, last = index.starts[2], index.starts[4]
    assert queries.rows.tolist() == list(range(1 + first, 1 + last))
    assert queries.codes.tolist() == index.codes[first:last].tolist()
    plan = plan_of(random_weights(small_dataset), small_tasks[2:4], 100)
    parts = [plan.between(first, stop).queries for first, stop in ((0, 1), (1, 4), (4, 100))]
    assert sorted(row for part in parts for row in part.rows) == queries.rows.tolist()
    assert parts[0].codes.tolist() == [0] * sum(len(t.test_inputs) for t in small_tasks[2:4])


def test_processes_take_turns_at_the_same_batches(small_tasks, small_dataset, engine, monkeypatch):
    """Each of three processes, its neighbours' part being zero, holds every third batch."""
    monkeypatch.setattr(ProcessGroup, "all_reduce", lambda self, tensor: tensor)
    settings = PredictSettings(num_views=4)
    engine = replace(engine, planned_positions=4 * 116)
    alone = as_lists(run(small_dataset, small_tasks, engine, settings))
    owners = []
    for rank in range(3):
        part = run(
            small_dataset, small_tasks, replace(engine, group=ProcessGroup(rank, 3)), settings
        )
        filled = [n for n, prediction in enumerate(part) if prediction is not None]
        assert all(n // 4 % 3 == rank for n in filled)
        assert as_lists(part[n] for n in filled) == [alone[n] for n in filled]
        owners += filled
    assert sorted(owners) == list(range(len(alone)))


def test_chunks_are_shared_by_their_flop():
    flop = [9.0, 1.0, 1.0, 5.0, 4.0, 2.0, 2.0]
    chunks = [Chunk(np.array([number]), cost) for number, cost in enumerate(flop)]
    shares = share_chunks(chunks, 3)
    numbers = [[int(chunk.members[0]) for chunk in share] for share in shares]
    assert sorted(number for share in numbers for number in share) == list(range(len(flop)))
    assert [sum(chunk.flop for chunk in share) for share in shares] == [9, 8, 7]
    assert all(sorted(share, reverse=True) == share for share in numbers)
    assert share_chunks(chunks[:1], 2) == [chunks[:1], []]


@pytest.mark.parametrize("outgrown", [True, False])
def test_the_shortest_queries_come_first_and_none_depends_on_the_rest(
    small_tasks, engine, outgrown
):
    """Two chunks are submitted, and those made again on the full canvas, or not; no others."""
    dataset = make_dataset(small_tasks)
    weights = with_halt(random_weights(dataset), canvas="box")
    plan = plan_of(weights, small_tasks, 3)
    engine = replace(engine, planned_positions=200)
    predictor = Predictor(weights, plan, engine)
    for chunk in predictor.chunks[:2]:
        predictor.submit(chunk)
    predictor.join()
    reached = predictor.num_outgrown
    assert predictor.is_finished == (reached == 0)
    for chunk in predictor.chunks if outgrown else ():
        predictor.submit(chunk)
    predictor.join()
    part, whole = predictor.predictions(), predict(weights, plan, engine)
    done = [n for n, prediction in enumerate(part) if prediction is not None]
    assert 0 < reached < len(done) < len(part)
    ours, expected = (as_lists(predictions[n] for n in done) for predictions in (part, whole))
    differing = sum(a[:3] != b[:3] for a, b in zip(ours, expected, strict=True))
    assert differing == 0 if outgrown else 0 < differing <= reached
    areas = plan.boxes[:, 2] * plan.boxes[:, 3]
    rest = np.setdiff1d(np.arange(len(part)), done)
    assert areas[done].max() <= areas[rest].min()


def test_views_that_halt_take_no_further_steps(small_tasks, small_dataset, engine):
    """All at once, none at all, and some: then what is left goes on as it would have alone."""
    weights = random_weights(small_dataset)

    def grids(weights, **settings):
        settings = PredictSettings(num_views=2, **settings)
        return as_lists(run(small_dataset, small_tasks, engine, settings, weights))

    always, never = with_halt(weights, 1.0), with_halt(weights, -1.0)
    assert grids(always, stop_when_halted=True) == grids(always, num_supervision_steps=1)
    assert grids(never, stop_when_halted=True) == grids(never)
    sometimes = with_halt(weights)
    sometimes.model.halt_head.weight.copy_(torch.randn(2, 32, generator=seeded(7)))
    sometimes.model.halt_head.bias.zero_()
    qs = torch.tensor([ours[3] for ours in grids(sometimes, num_supervision_steps=1)])
    sometimes.model.halt_head.bias.fill_(-qs.logit().median())  # half of them halt at once
    by_steps = [grids(sometimes, num_supervision_steps=steps) for steps in (1, 2, 3)]
    stopped = grids(sometimes, stop_when_halted=True)
    steps_taken = set()
    for number, ours in enumerate(stopped):
        qs = [predictions[number][3] for predictions in by_steps]
        steps = next((n for n, q in enumerate(qs) if q > 0.5), 2)
        assert ours[:3] == by_steps[steps][number][:3]
        assert ours[3] == pytest.approx(qs[steps], abs=1e-5)
        steps_taken.add(steps)
    assert {0} < steps_taken


def test_predictions_that_outgrow_their_box_are_made_on_the_full_canvas(
    small_tasks, small_dataset, engine
):
    """A model that writes color everywhere reaches every border, and is not cut there."""
    weights = with_halt(random_weights(small_dataset), canvas="box")
    tasks = [t for t in small_tasks if infer_output_size(t, 0) is not None][:3]
    plan = plan_of(weights, tasks, 2)
    smaller = (plan.boxes[:, 2:] < 10).any(axis=1).sum()
    assert 0 < smaller < len(plan.boxes)
    for token, num_outgrown in ((FIRST_COLOR + 3, smaller), (END, 0)):
        predictor = Predictor(paint(weights, token), plan, engine)
        while not predictor.is_finished:
            for chunk in predictor.chunks:
                predictor.submit(chunk)
            predictor.join()
        assert predictor.num_outgrown == num_outgrown
        grids = [prediction.grid for prediction in predictor.predictions()]
        if token == END:
            assert grids == [None] * len(grids)
        else:
            assert {grid.shape for grid in grids} == {(10, 10)}


@pytest.mark.parametrize("stop_when_halted", [False, True])
def test_views_that_leave_the_range_of_float16_are_computed_in_float32(
    small_tasks, small_dataset, engine, stop_when_halted
):
    weights = with_halt(random_weights(small_dataset), canvas="box")
    weights.model.token_embedding.mul_(1e5)
    weights.model.halt_head.weight.copy_(torch.randn(2, 32, generator=seeded(7)))  # some halt
    printed = []
    half = replace(engine, dtype=torch.float16, say=printed.append)
    settings = PredictSettings(num_views=2, stop_when_halted=stop_when_halted)
    ours = as_lists(run(small_dataset, small_tasks, half, settings, weights))
    expected = as_lists(run(small_dataset, small_tasks, engine, settings, weights))
    assert "left float16's range" in printed[0]
    assert ours == expected
    weights.model.forward = Shortage(weights.model, 300, torch.float32)
    ours = as_lists(run(small_dataset, small_tasks, half, settings, weights))
    assert any("out of memory" in line for line in printed)
    assert [p[:3] for p in ours] == [p[:3] for p in expected]


def test_memory_that_runs_out_splits_chunks(small_tasks, small_dataset, engine):
    weights = with_halt(random_weights(small_dataset), canvas="box")
    settings = PredictSettings(num_views=3)
    expected = as_lists(run(small_dataset, small_tasks, engine, settings, weights))
    printed = []
    short = replace(engine, say=printed.append)
    weights.model.forward = Shortage(weights.model, 300)
    ours = as_lists(run(small_dataset, small_tasks, short, settings, weights))
    assert "out of memory" in printed[0]
    assert [p[:3] for p in ours] == [p[:3] for p in expected]


@pytest.mark.parametrize("canvas", ["full", "box"])
@pytest.mark.parametrize("patch", [1, 2])
def test_what_a_model_writes_stands_where_it_wrote_it(
    small_dataset, small_tasks, engine, monkeypatch, canvas, patch
):
    """A model that copies the tokens it is given predicts the input, under every view."""

    def copy_tokens(model, state, x_PD, packed):
        tokens = packed.sources_NC - NUM_TOKENS * torch.arange(patch**2)
        tokens = tokens.clamp(0, NUM_TOKENS - 1).long().flatten()
        one_hot = torch.nn.functional.one_hot(tokens, NUM_TOKENS)
        return Outcome(state, one_hot.float(), torch.zeros(len(packed.members)), None)

    monkeypatch.setattr(TRM, "forward", copy_tokens)
    settings = replace(SMALL_MODEL, canvas=canvas, patch=patch)
    weights = random_weights(small_dataset, settings)
    predictions = run(small_dataset, small_tasks, engine, PredictSettings(num_views=4), weights)
    inputs = {task.task_id: task.test_inputs for task in small_tasks}
    assert len(predictions) > 3 * len(small_tasks)
    for prediction in predictions:
        assert np.array_equal(prediction.grid, inputs[prediction.task_id][prediction.test])
