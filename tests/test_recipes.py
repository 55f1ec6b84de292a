"""Recipes: those of the reference have its settings, and the fast one a table that ships."""

import pytest
from conftest import needs_concept

from pipeline.recipes import RECIPES, load_recipe
from pipeline.run import Run
from pipeline.stages.build import build
from solver.kinds import new_model


@pytest.mark.parametrize("name", ["arc1", "arc2"])
def test_recipes_of_the_reference_have_its_settings_and_no_option_on(name):
    recipe = RECIPES[name]()
    model, train = recipe.model, recipe.train
    assert (model.dim, model.num_heads, model.num_layers, model.prefix_length) == (512, 8, 2, 16)
    assert (model.num_cycles, model.num_latent_steps, model.max_supervision_steps) == (3, 4, 16)
    assert (model.rows_per, model.rotary, model.rotary_base) == ("view", "flat", 10_000)
    assert (model.gradient_cycles, model.dropout) == (1, 0)
    assert (train.optimizer, train.schedule) == ("adam_atan2", "constant")
    assert (train.lr, train.betas, train.weight_decay) == (1e-4, (0.9, 0.95), 0.1)
    assert (train.rows_lr, train.rows_weight_decay, train.warmup_steps) == (1e-2, 0.1, 2000)
    assert (train.global_batch, train.ema_rate, train.atan2_scale) == (768, 0.999, 1.0)
    assert recipe.predict.adapt == "unseen"


@needs_concept
def test_a_row_per_task_makes_weights_that_can_be_shipped(run_here):
    recipe = load_recipe("arc1-fast", [])
    num_rows = build(recipe, Run.named("a")).index.num_rows
    assert num_rows == 1192
    trunk = sum(p.numel() for p in new_model(recipe.model).parameters())
    assert 2 * (trunk + num_rows * recipe.model.dim) < 15e6  # bytes in float16
    assert not recipe.checkpoint.carry
