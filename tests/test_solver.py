import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table

from augment.boxes import full_boxes
from augment.dataset import ExampleStream
from augment.errors import InputError
from solver.batch import batches, draw_min_steps
from solver.device import choose_dtype
from solver.engine import open_engine
from solver.layers import rms_norm, truncated_normal_
from solver.loss import IGNORED, compute_losses
from solver.model import TRM
from solver.optimizer import EMA
from solver.pace import Pace
from solver.packing import pack
from solver.puzzle_embedding import PuzzleTable
from solver.settings import EngineSettings, ModelSettings, TrainSettings
from solver.train import start_training, take_metrics, train, train_step


def fit(dataset, settings, engine, model_settings=SMALL_MODEL):
    """Train a new model on ``dataset`` and return the run and the metrics it reported."""
    model = TRM(model_settings, settings.seed)
    table = make_table(dataset, model_settings.dim)
    training = start_training(model, table, settings, engine)
    reported = []
    train(
        training,
        ExampleStream(dataset, settings.seed),
        settings,
        engine,
        Pace(settings.num_steps, engine),
        on_step=lambda: None,
        on_metrics=reported.append,
    )
    return training, reported


def pack_canvases(model, tokens):
    """All these full canvases packed, under the view 0."""
    count = len(tokens)
    boxes = full_boxes(count, model.settings.canvas_side)
    codes = np.zeros(count, dtype=np.uint32)
    return pack(model.settings, torch.device("cpu"), np.arange(count), tokens, codes, boxes)


@pytest.mark.parametrize("variant", ["attention", "mlp"])
@pytest.mark.parametrize("rows_per", ["view", "task"])
def test_overfits_two_tasks(arc1, engine, variant, rows_per):
    """A small model learns all pairs of two 3x3 tasks by heart, and halts when it is right."""
    tasks = [task for task in arc1 if task.task_id in ("d037b0a7", "3c9b0459")]
    dataset = make_dataset(tasks, rows_per, views=0, canvas_side=3)
    settings = TrainSettings(num_steps=350, global_batch=8, lr=2e-3, warmup_steps=10, log_every=50)
    model = replace(SMALL_MODEL, canvas_side=3, num_cycles=1, variant=variant, rows_per=rows_per)
    _, reported = fit(dataset, settings, engine, model)
    assert reported[-1].values["exact_accuracy"] > 0.9
    assert reported[-1].values["loss"] < 0.3 * reported[0].values["loss"]
    assert reported[-1].values["supervision_steps"] < model.max_supervision_steps


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_trains_in_every_dtype(small_dataset, dtype):
    engine = open_engine(EngineSettings(device="cpu", dtype=dtype), print)
    training, reported = fit(small_dataset, SHORT_TRAINING, engine)
    assert training.carry.state.y.dtype == getattr(torch, dtype)
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    assert all(math.isfinite(metrics.values["loss"]) for metrics in reported)


def test_published_size():
    """7M parameters, as the paper says."""
    count = sum(p.numel() for p in TRM(ModelSettings()).parameters())
    assert count == 2 * (4 * 512**2 + 3 * 512 * 1536) + 2 * 12 * 512 + 2 * 512 + 2


def test_start_of_the_weights():
    tensor = truncated_normal_(torch.empty(200_000), 0.5, torch.Generator().manual_seed(0))
    assert tensor.std().item() == pytest.approx(0.5, rel=0.01)
    assert tensor.abs().max().item() == pytest.approx(2.274 * 0.5, rel=0.01)
    model = TRM(SMALL_MODEL)
    assert torch.equal(model.halt_head.bias, torch.full((2,), -5.0))
    assert not model.halt_head.weight.any()
    state = model.start(7, torch.float32)
    assert torch.equal(state.y[0], state.y[5])


def test_gradient_flows_through_the_last_cycle_only(small_dataset, engine):
    """The state a step starts from gets no gradient, and the states it returns are detached."""
    model = TRM(SMALL_MODEL)
    packed = pack_canvases(model, np.full((1, 100), 2, dtype=np.uint8))
    x = model.embed(packed, torch.ones(1, 32))
    state, places = model.start(len(x), torch.float32), model.places(packed, x.dtype)
    following, logits, _ = model(state, x, packed)
    assert not following.y.requires_grad
    assert not following.z.requires_grad
    last = model.cycle(x, *model.cycle(x.detach(), *state, places), places)
    assert torch.allclose(logits, model.output_head(last.y), atol=1e-5)


def test_rms_norm_is_computed_in_float32():
    x = torch.full((1, 1000), 300.0, dtype=torch.float16)  # its sum of squares is no float16
    assert torch.equal(rms_norm(x, 1e-5), torch.ones_like(x))


def test_rows_are_told_apart_by_view_only_with_rows_per_task():
    rows = torch.ones(2, 32)
    for rows_per in ("view", "task"):
        model = TRM(replace(SMALL_MODEL, rows_per=rows_per))
        packed = pack_canvases(model, np.full((2, 100), 2, dtype=np.uint8))
        packed.views_GF[1, 0] = 3
        x = model.embed(packed, rows)[: packed.num_positions].view(2, 116, 32)
        assert torch.equal(x[0], x[1]) == (rows_per == "view")
        assert torch.equal(x[0, 2:], x[1, 2:])


def test_examples_without_labels_count_as_right():
    labels = torch.tensor([IGNORED, IGNORED, 3, IGNORED, IGNORED])
    owners = torch.tensor([0, 0, 1, 1, 2])  # the last one is padding
    losses = compute_losses(torch.zeros(5, 12), torch.zeros(2), labels, owners)
    assert losses.exact.tolist() == [True, False]
    assert losses.tokens[0] == 0
    assert losses.tokens[1].item() == pytest.approx(math.log(12))


def test_rows_outside_a_batch_stay_and_equal_rows_are_summed():
    start = torch.tensor([6.0, 7.0, 8.0])
    table = PuzzleTable(4, start)
    assert torch.equal(table.mean_row, start)
    gradients = torch.tensor([[1.0, 1.0, 0.0], [-3.0, 1.0, 0.0]])
    table.descend(np.array([2, 2]), gradients, lr=0.5, weight_decay=0.1)
    expected = start * 0.95 - 0.5 * torch.tensor([-1.0, 1.0, 0.0])
    rows = table.look_up(np.arange(4))
    assert torch.allclose(rows[2], expected)
    assert torch.equal(rows[[0, 1, 3]], start.expand(3, 3))
    assert torch.equal(table.mean_row, rows[2])


def test_only_trained_rows_take_memory():
    """100 million rows, of which two were met; they come back from what a checkpoint keeps."""
    table = PuzzleTable(100_000_000, torch.zeros(3))
    rows = np.array([99_999_999, 5])
    for _ in range(2):
        table.descend(rows, torch.ones(2, 3), lr=0.5, weight_decay=0.0)
    assert table.values.tolist() == [[0.0] * 3, [-1.0] * 3, [-1.0] * 3]
    restored = PuzzleTable.from_tensors(table.num_rows, table.tensors())
    numbers = np.array([0, 5, 6, 99_999_999])
    assert restored.look_up(numbers)[:, 0].tolist() == [0.0, -1.0, 0.0, -1.0]
    with pytest.raises(IndexError):
        PuzzleTable.from_tensors(6, table.tensors())


def test_moving_average():
    model = TRM(SMALL_MODEL)
    ema = EMA(model)
    before = {name: tensor.clone() for name, tensor in ema.average.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.update(model, 0.9)
    for name, tensor in ema.average.items():
        assert torch.allclose(tensor, before[name] + 0.1, atol=1e-6)


def test_exploration_draws_a_minimum_for_a_tenth_of_the_slots():
    settings = TrainSettings(global_batch=20_000)
    drawn = draw_min_steps(settings, 16, step=3)
    assert (drawn > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert set(drawn[drawn > 0]) == set(range(2, 17))
    assert np.array_equal(drawn, draw_min_steps(settings, 16, step=3))
    assert not np.array_equal(drawn, draw_min_steps(settings, 16, step=4))


def test_slots_keep_their_example_until_they_halt(small_dataset, engine):
    settings = replace(SHORT_TRAINING, halt_exploration=0.0)
    model = TRM(SMALL_MODEL)
    training = start_training(model, make_table(small_dataset), settings, engine)
    stream = ExampleStream(small_dataset, 0)
    held = []
    for batch in batches(stream, settings, SMALL_MODEL, engine.world, 0):
        train_step(training, batch, settings, engine)
        held.append((training.carry.examples.inputs, training.carry.steps_B.tolist()))
    # The halt bias of -5 makes every slot run all three steps at first.
    assert [steps for _, steps in held[:4]] == [[1] * 8, [2] * 8, [3] * 8, [1] * 8]
    assert np.array_equal(held[0][0], held[2][0])
    assert not np.array_equal(held[2][0], held[3][0])


@pytest.mark.parametrize(("share", "num_steps"), [(1.0, 8), (0.5, 4), (0.5, 5)])
def test_rows_alone_are_trained_for_a_share_of_the_run(small_dataset, engine, share, num_steps):
    """All of it, the first half, and the first half with a step more."""
    settings = replace(SHORT_TRAINING, rows_only_share=share)
    dataset, table = small_dataset, make_table(small_dataset)
    training = start_training(TRM(SMALL_MODEL), table, settings, engine)
    pace = Pace(settings.num_steps, engine, until=num_steps / settings.num_steps)
    quiet = {"on_step": lambda: None, "on_metrics": lambda metrics: None}
    train(training, ExampleStream(dataset, 0), settings, engine, pace, **quiet)
    assert training.step == num_steps
    present = dict(training.model.named_parameters())
    same = [torch.equal(p, present[name]) for name, p in TRM(SMALL_MODEL).named_parameters()]
    assert all(same) == (num_steps != 5)
    assert training.table.values.any()


def test_a_loss_that_is_not_finite_stops_the_run(small_dataset, engine):
    with pytest.raises(FloatingPointError, match="not finite at step"):
        fit(small_dataset, replace(SHORT_TRAINING, rows_lr=1e9, lr=1e9), engine)


def test_metrics_of_steps_without_a_halt_are_nan(small_dataset, engine):
    training, _ = fit(small_dataset, replace(SHORT_TRAINING, num_steps=1), engine)
    values = take_metrics(training, SHORT_TRAINING, engine.world).values
    assert math.isnan(values["exact_accuracy"])
    assert math.isfinite(values["loss"])


def test_devices_and_dtypes_that_are_not_here():
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"^engine\.device=cuda, but"):
            open_engine(EngineSettings(device="cuda"), print)
    chosen = choose_dtype(EngineSettings(), torch.device("cpu"))
    assert chosen in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"canvas_side": 31}, "canvas_side"),
        ({"rows_per": "task", "prefix_length": 10}, "prefix_length"),
        ({"num_cycles": 0}, "num_cycles"),
    ],
)
def test_impossible_models_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(ModelSettings(), **changes)
