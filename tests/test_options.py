"""What the recipes add to the reference: each option does what it says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from adam_atan2_pytorch import AdamAtan2, MuonAdamAtan2
from conftest import SHORT_TRAINING, SMALL_MODEL, make_table, needs_concept
from torch.utils.flop_counter import FlopCounterMode

from augment.dataset import ExampleStream
from augment.errors import InputError
from pipeline.recipes import load_recipe
from pipeline.runs import Run
from pipeline.stages import build
from solver.batch import batches
from solver.engine import Engine
from solver.flop import flop_of_prediction, flop_of_training
from solver.layers import Places, Rotary, SequenceConvolution, turn
from solver.model import TRM
from solver.optimizer import ema_rate, make_optimizer, optimizer_tensors, rate_factor, set_rates
from solver.pace import Pace
from solver.packing import pack
from solver.settings import ModelSettings, TrainSettings
from solver.train import start_training, train, train_step

GRID = replace(SMALL_MODEL, rotary="grid", rotary_base=100.0)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def scores(settings: ModelSettings, cells: list[tuple[int, int]]) -> torch.Tensor:
    """The products of one query and one key when they stand at the cells (row, column)."""
    width = settings.dim // settings.num_heads
    q, k = torch.randn(2, 1, 1, width, generator=seeded())
    side, prefix = settings.canvas_side, settings.prefix_length
    at = torch.tensor([prefix + row * side + column for row, column in cells])
    places = Places(*Rotary(settings)(at), None)
    q, k = (turn(x.expand(len(cells), 1, width), places)[:, 0] for x in (q, k))
    return q @ k.T


def test_positions_on_the_grid_count_rows_and_columns():
    """A product depends on how far apart two cells lie in either direction, and on no more."""
    found = scores(GRID, [(0, 0), (2, 3), (4, 1), (6, 4), (2, 0), (0, 3)])
    assert found[0, 1].item() == pytest.approx(found[2, 3].item(), abs=1e-5)
    assert found[0, 4].item() == pytest.approx(found[5, 1].item(), abs=1e-5)
    others = {round(value, 4) for value in found[0].tolist()}
    assert len(others) == 6
    # Flat positions cannot tell the end of a row from the beginning of the next one.
    cells = [(0, 9), (1, 0), (3, 4), (3, 5)]
    flat, grid = scores(SMALL_MODEL, cells), scores(GRID, cells)
    assert flat[0, 1].item() == pytest.approx(flat[2, 3].item(), abs=1e-5)
    assert grid[0, 1].item() != pytest.approx(grid[2, 3].item(), abs=1e-2)


def test_every_place_has_an_angle_of_its_own():
    rotary = Rotary(GRID)
    turns = torch.cat([rotary.cos_MK, rotary.sin_MK], dim=1)
    assert len(torch.unique(turns.round(decimals=5), dim=0)) == GRID.length == 116


def test_the_convolution_stays_within_each_example():
    """It equals torch's own, causal and depth-wise, on each example alone."""
    lengths, width = [5, 2, 7], 6
    conv = SequenceConvolution(3, width)
    with torch.no_grad():
        conv.taps_TD.copy_(torch.randn(3, width, generator=seeded()))
    x_ND = torch.randn(sum(lengths), width, generator=seeded())
    offsets_N = torch.cat([torch.arange(length) for length in lengths])
    kernel = conv.taps_TD.flip(0).T[:, None]
    alone = [
        part + F.conv1d(F.pad(part.T, (2, 0))[None], kernel, groups=width)[0].T
        for part in x_ND.split(lengths)
    ]
    torch.testing.assert_close(conv(x_ND, offsets_N), torch.cat(alone))


def packed_examples(model: TRM, dataset):
    examples = ExampleStream(dataset, 0).examples(0, 3)
    packed = pack(
        model.settings, torch.device("cpu"), np.arange(3), examples.inputs, examples.codes,
        examples.boxes,
    )  # fmt: skip
    rows_GD = torch.randn(3, model.settings.dim, generator=seeded())
    x_ND = model.embed(packed, rows_GD)
    return packed, x_ND, model.start(len(x_ND), torch.float32)


def test_a_convolution_changes_nothing_at_first(small_dataset):
    plain, conv = TRM(SMALL_MODEL), TRM(replace(SMALL_MODEL, conv_width=3))
    outputs = []
    for model in (plain, conv):
        packed, x_ND, state = packed_examples(model, small_dataset)
        outputs.append(model(state, x_ND, packed))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("gradient_cycles", [1, 2, 3])
def test_the_gradient_flows_through_the_last_cycles(small_dataset, gradient_cycles):
    settings = replace(SMALL_MODEL, num_cycles=3, gradient_cycles=gradient_cycles)
    model = TRM(settings)
    packed, x_ND, state = packed_examples(model, small_dataset)
    before = model(state, x_ND, packed)[1]
    (found,) = torch.autograd.grad(before.square().sum(), model.net.layers[0].mlp.down.weight)
    y, z = state
    for cycle in range(3):
        if cycle == 3 - gradient_cycles:
            y, z = y.detach(), z.detach()
        y, z = model.cycle(x_ND, y, z, model.places(packed, x_ND.dtype))
    loss = model.output_head(y).square().sum()
    (expected,) = torch.autograd.grad(loss, model.net.layers[0].mlp.down.weight)
    torch.testing.assert_close(found, expected)


def test_dropout_drops_in_training_only(small_dataset):
    plain, dropping = TRM(SMALL_MODEL), TRM(replace(SMALL_MODEL, dropout=0.5))
    packed, x_ND, state = packed_examples(plain, small_dataset)
    expected = plain(state, x_ND, packed)[1]
    torch.testing.assert_close(dropping.eval()(state, x_ND, packed)[1], expected)
    torch.manual_seed(0)
    changed = dropping.train()(state, x_ND, packed)[1]
    assert not torch.allclose(changed, expected)


def test_dropout_is_a_function_of_seed_and_step(small_dataset, engine: Engine):
    """Whatever was drawn before it."""
    model, settings = replace(SMALL_MODEL, dropout=0.5), replace(SHORT_TRAINING, lr=1e-3)
    found = []
    for seed, drawn in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(drawn)
        ours = replace(settings, seed=seed)
        training = start_training(TRM(model), make_table(small_dataset), ours, engine)
        upcoming = batches(ExampleStream(small_dataset, 0), settings, model, engine.world, 0)
        train_step(training, next(upcoming), ours, engine)
        found.append(training.model.output_head.weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_matrices_of_one_shape_step_together_as_they_would_alone(name):
    """Three steps of the package's own optimiser lead to the same weights."""
    settings = TrainSettings(optimizer=name, lr=1e-2, weight_decay=0.1)
    ours, theirs = TRM(SMALL_MODEL), TRM(SMALL_MODEL)
    together = make_optimizer(ours, settings)
    alone = MuonAdamAtan2(
        together.param_groups[1]["params"], together.param_groups[0]["params"], lr=1.0
    )
    alone.param_groups = []
    names = {id(p): n for n, p in ours.named_parameters()}
    parameters = dict(theirs.named_parameters())
    for group in together.param_groups:
        twins = [parameters[names[id(p)]] for p in group["params"]]
        alone.param_groups.append({**group, "params": twins})
    for _ in range(3):
        draws = seeded()
        for p, twin in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=draws)
            twin.grad = p.grad.clone()
        together.step()
        alone.step()
    for n, p in ours.named_parameters():
        torch.testing.assert_close(p, parameters[n], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_muon_takes_the_matrices_of_the_network(name):
    """Their steps are orthogonal; all other weights step as under AdamATan2."""
    settings = TrainSettings(optimizer=name, lr=1e-3, matrix_lr=1e-2, weight_decay=0.0)
    model = TRM(replace(SMALL_MODEL, conv_width=2, rows_per="task"))
    plain = TRM(model.settings)
    names = {id(p): n for n, p in model.named_parameters()}
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        ours.grad = torch.randn(ours.shape, generator=seeded())
        theirs.grad = ours.grad.clone()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = make_optimizer(model, settings)
    members = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(before)
    set_rates(optimizer, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [5e-4, 5e-3]
    optimizer.step()
    AdamAtan2(list(plain.parameters()), lr=5e-4, betas=settings.betas, a=1.0).step()
    others = dict(plain.named_parameters())
    for n, p in model.named_parameters():
        step = before[n] - p.detach()
        if n.startswith("net.") and n.endswith("weight"):
            # Of the size of Adam's steps, in all directions alike (to Muon's own roughness).
            assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 5e-3, rel=0.2)
            sizes = torch.linalg.svdvals(step)
            assert name == "normuon" or sizes.max() < 2 * sizes.min()
        else:
            torch.testing.assert_close(p, others[n])


def test_rates_rise_from_the_first_step_and_reach_zero_after_the_last():
    constant = TrainSettings(num_steps=1000, warmup_steps=100)
    assert factor(1, constant) == 1 / 100
    assert factor(100, constant) == factor(1000, constant) == 1
    assert factor(1, replace(constant, warmup_steps=0)) == 1
    wsd = replace(constant, schedule="wsd", decay_share=0.2)
    assert factor(50, wsd) == 1 / 2
    assert factor(801, wsd) == pytest.approx(1)
    assert factor(901, wsd) == pytest.approx(1 / 2)
    assert factor(1000, wsd) == pytest.approx(1 / 200)
    cosine = replace(constant, schedule="cosine")
    assert factor(501, cosine) == pytest.approx(1 / 2)
    assert 0 < factor(1000, cosine) < 1e-5
    # In time that is short, the warm-up takes a tenth of it.
    assert rate_factor(7, 0.05, constant) == pytest.approx(0.5)
    assert rate_factor(7, 0.1, constant) == 1


def factor(step, settings):
    """The factor of a run that is measured in its steps."""
    return rate_factor(step, (step - 1) / settings.num_steps, settings)


def test_the_average_spans_a_share_of_the_steps_up_to_its_rate():
    settings = TrainSettings(ema_rate=0.99)
    assert {ema_rate(step, settings) for step in (1, 10, 10**6)} == {0.99}
    settings = replace(settings, ema_share=0.1)
    spans = [1 / (1 - ema_rate(step, settings)) for step in (1, 10, 100, 10**6)]
    assert spans == pytest.approx([1.1, 2, 11, 100])


def test_rows_follow_the_schedule(small_dataset, engine: Engine):
    settings = replace(SHORT_TRAINING, schedule="wsd", decay_share=1.0, warmup_steps=0)
    settings = replace(settings, num_steps=4, rows_lr=1.0, rows_weight_decay=0.0)
    training = start_training(TRM(SMALL_MODEL), make_table(small_dataset), settings, engine)
    upcoming = batches(ExampleStream(small_dataset, 0), settings, SMALL_MODEL, engine.world, 0)
    sizes = []
    for step in range(3):
        training.passed = step / settings.num_steps
        before = training.table.look_up(np.arange(training.table.num_rows))
        train_step(training, next(upcoming), settings, engine)
        after = training.table.look_up(np.arange(training.table.num_rows))
        sizes.append((after - before).abs().max().item())
    assert sizes == pytest.approx([1.0, 0.75, 0.5])


@pytest.mark.parametrize("changes", [{}, {"num_cycles": 3, "gradient_cycles": 2}])
def test_flop_are_those_that_torch_counts(small_dataset, engine: Engine, monkeypatch, changes):
    """Of training and of prediction, without the heads."""
    model = replace(SMALL_MODEL, **changes)
    monkeypatch.setattr("solver.layers.attend", attend_by_products)
    ours = TRM(model)
    packed, x_ND, state = packed_examples(ours, small_dataset)
    lengths = np.diff(packed.bounds_E.numpy())

    def count(compute) -> float:
        with FlopCounterMode(display=False) as counter:
            compute()
        of_net = counter.get_flop_counts()["TRM.net"]
        return sum(of_net.values())

    def train_once():
        logits_NV, halt_B = ours(state, x_ND, packed)[1:]
        (logits_NV.sum() + halt_B.sum()).backward()

    @torch.no_grad()
    def predict_once():
        ours(state, x_ND, packed)

    x_ND.requires_grad_()
    assert count(predict_once) == flop_of_prediction(model, lengths, 1)
    assert count(train_once) == flop_of_training(model, lengths)


def attend_by_products(q_NHK, k_NHK, v_NHK, sequences):
    """Attention by products that torch counts, one sequence after another, the padding too."""
    lengths = sequences.bounds_E.diff().tolist()
    parts = (x_NHK.split(lengths) for x_NHK in (q_NHK, k_NHK, v_NHK))
    heads = ([x_LHK.transpose(0, 1) for x_LHK in part] for part in parts)
    return torch.cat([
        ((q @ k.mT).softmax(-1) @ v).transpose(0, 1) for q, k, v in zip(*heads, strict=True)
    ])  # fmt: skip


def test_training_reports_the_flop_it_took(small_dataset, engine: Engine):
    settings = replace(SHORT_TRAINING, num_steps=4, log_every=2)
    training = start_training(TRM(SMALL_MODEL), make_table(small_dataset), settings, engine)
    reported = []
    train(
        training,
        ExampleStream(small_dataset, 0),
        settings,
        engine,
        Pace(settings.num_steps, engine),
        on_step=lambda: None,
        on_metrics=lambda metrics: reported.append(metrics.flop),
    )
    lengths = np.full(settings.global_batch, SMALL_MODEL.length)
    assert reported == [2 * flop_of_training(SMALL_MODEL, lengths)] * 2


@pytest.mark.parametrize("name", ["arc1", "arc2"])
def test_the_reference_recipes_have_no_option_on(name):
    recipe = load_recipe(name, [])
    model, train = recipe.model, recipe.train
    assert (model.rows_per, model.rotary, model.rotary_base) == ("view", "flat", 10_000)
    assert (model.gradient_cycles, model.conv_width, model.dropout) == (1, 0, 0)
    assert (model.num_cycles, model.num_latent_steps, model.max_supervision_steps) == (3, 4, 16)
    assert (train.optimizer, train.schedule) == ("adam_atan2", "constant")
    assert recipe.predict.adapt == "unseen"


@needs_concept
def test_a_row_per_task_makes_a_table_that_can_be_shipped(run_here):
    """And a state that can be carried: trunk, average, optimiser and rows."""
    recipe = load_recipe("arc1-fast", [])
    dataset = build(recipe, Run.named("a"))
    assert dataset.index.num_rows == 960
    model = TRM(recipe.model)
    optimizer = make_optimizer(model, recipe.train)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = optimizer_tensors(optimizer, model).values()
    trunk = sum(p.numel() for p in model.parameters())
    numbers = 2 * trunk + sum(t.numel() for t in state) + 960 * recipe.model.dim
    assert 4 * numbers < 60e6
    assert not recipe.checkpoint.carry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary": "grid", "dim": 12, "num_heads": 2}, "multiple of 4"),
        ({"gradient_cycles": 3}, "at most model.num_cycles 2"),
        ({"gradient_cycles": 0}, "at least 1"),
        ({"conv_width": 2, "variant": "mlp"}, "variant=attention"),
        ({"conv_width": 17}, "at most model.prefix_length 16"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL_MODEL, **changes)
