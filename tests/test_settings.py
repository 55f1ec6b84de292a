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
        ({"num_heads": 3}, "num_heads"),
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
    with pytest.raises(InputError, match="model.num_heads must divide model.dim 128"):
        load_recipe("demo", changes[1:])


def test_refused_values_name_their_section():
    for name in ("train", "adapt"):
        with pytest.raises(InputError, match=rf"^{name}\.global_batch must be at least 1, got 0$"):
            load_recipe("demo", [f"{name}.global_batch=0"])


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
