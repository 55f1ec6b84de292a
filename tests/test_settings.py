"""Settings of all packages: read by their types, explained, and refused where they cannot be."""

from dataclasses import asdict, replace

import pytest
from commands import call
from conftest import SMALL_MODEL

from augment.errors import InputError
from pipeline.recipes import RECIPES, load_recipe
from pipeline.settings import describe_settings
from solver.settings import ModelSettings


def test_settings_are_read_by_their_type():
    settings = load_recipe(
        "arc1", ["train.lr=3e-4", "train.betas=0.8,0.9", "data.trained=", "engine.compile=true"]
    )
    assert settings.train.lr == 3e-4
    assert settings.train.betas == (0.8, 0.9)
    assert settings.data.trained == ()
    assert settings.engine.compile == "true"
    assert asdict(settings)["train"]["lr"] == 3e-4


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_is_explained(recipe, capsys):
    described = list(describe_settings(RECIPES[recipe]()))
    assert len({name for name, _, _ in described}) == len(described)
    assert all(len(meaning) > 5 for _, _, meaning in described)
    assert RECIPES[recipe].__doc__
    assert call("pretrain", "--help", changes=()) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}=" in shown for name, _, _ in described)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_heads": 7}, "model.dim // model.num_heads must be even and not 0, got 73"),
        ({"num_heads": 600}, "model.num_heads"),
        ({"kind": "transformer"}, "num_cycles must be 1 with model.kind=transformer, got 3"),
        ({"kind": "transformer", "num_cycles": 1}, "num_latent_steps must be 1 with model.kind=tr"),
        ({"kind": "hrm", "gradient_cycles": 2}, "gradient_cycles must be 1 with model.kind=hrm"),
        ({"canvas_side": 31}, "canvas_side"),
        ({"rows_per": "task", "prefix_length": 10}, "prefix_length"),
        ({"num_cycles": 0}, "num_cycles"),
    ],
)
def test_impossible_models_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        replace(ModelSettings(), **changes)


def test_settings_given_together_are_checked_together():
    """In any order; each alone would be refused."""
    changes = ["model.dim=96", "model.num_heads=6"]
    for order in (changes, changes[::-1]):
        model = load_recipe("demo", order).model
        assert (model.dim, model.num_heads) == (96, 6)
    with pytest.raises(InputError, match=r"model\.dim // model\.num_heads must be even"):
        load_recipe("demo", changes[1:])


def test_refused_values_name_their_section():
    for name in ("train", "adapt"):
        with pytest.raises(InputError, match=rf"^{name}\.global_batch must be at least 1, got 0$"):
            load_recipe("demo", [f"{name}.global_batch=0"])
        changes = [f"{name}.matrix_lr=1", f"{name}.optimizer=adam_atan2"]
        with pytest.raises(InputError, match=rf"^{name}\.matrix_lr needs {name}\.optimizer=norm"):
            load_recipe("demo", changes)
    with pytest.raises(InputError, match=r"^model\.dim must be at least 2, got 0$"):
        ModelSettings(dim=0)


def test_sections_given_together_are_checked_together():
    changes = ["model.gradient_cycles=3", "model.num_cycles=3", "adapt.num_cycles=3"]
    assert load_recipe("demo", changes).model.gradient_cycles == 3
    with pytest.raises(InputError, match=r"^model\.gradient_cycles must be at most adapt\.num_cyc"):
        load_recipe("demo", [*changes, "adapt.num_cycles=2"])
    changes = ["model.kind=transformer", "model.num_cycles=1", "model.num_latent_steps=1"]
    with pytest.raises(InputError, match=r"^model\.num_cycles must be 1 with model\.kind=trans"):
        load_recipe("demo", [*changes, "adapt.num_cycles=2"])


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("model.dim", "make .* parameters; at most 1e\\+09 are allowed"),
        ("model.expansion", "make .* parameters; at most 1e\\+09 are allowed"),
        ("model.num_layers", "at most 1000"),
        ("model.num_latent_steps", "at most 1000"),
        ("model.prefix_length", "at most 1000"),
        ("adapt.num_cycles", "at most 1000"),
        ("train.global_batch", "at most 100000"),
        ("adapt.log_every", "at most 1000000"),
        ("train.eval_views", "at most 2903040"),
        ("predict.num_views", "at most 2903040"),
        ("predict.early_views", "at most 2903040"),
        ("predict.num_supervision_steps", "at most 1000"),
        ("data.views_per_task", "at most 2903039"),
    ],
)
def test_sizes_beyond_all_sense_are_refused_with_their_limit(name, limit):
    with pytest.raises(InputError, match=f"{name}[, ].*{limit}"):
        load_recipe("demo", [f"{name}=2147483646"])


@pytest.mark.parametrize(
    "text", ["1_000", "\uff11", "nan", "inf", "1e400", "", "9" * 4000, "1\n2", "\udcff"]
)
def test_odd_values_are_refused_in_a_short_line(text):
    for name in ("train.num_steps", "train.lr", "train.betas"):
        with pytest.raises(InputError, match=name) as raised:
            load_recipe("demo", [f"{name}={text}"])
        assert len(str(raised.value)) < 200
        assert str(raised.value).isprintable() or text == "\uff11"


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nb", "\udcff", "x" * 5000, "a," + "c" * 5000])
def test_odd_texts_are_refused_in_a_short_line(text):
    for name in ("weights", "data.predicted", "no.such", "no"):
        with pytest.raises(InputError, match=name) as raised:
            load_recipe("demo", [f"{name}={text}"])
        assert len(str(raised.value)) < 200
        assert str(raised.value).isprintable()
    with pytest.raises(InputError, match="recipe ") as raised:
        load_recipe(text, [])
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary": "grid", "dim": 12, "num_heads": 2}, "multiple of 4"),
        ({"gradient_cycles": 3}, "at most model.num_cycles 2"),
        ({"gradient_cycles": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL_MODEL, **changes)


def test_a_box_needs_attention():
    with pytest.raises(InputError, match="canvas=box needs"):
        ModelSettings(canvas="box", variant="mlp")
