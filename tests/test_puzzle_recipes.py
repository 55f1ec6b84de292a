"""Recipes on puzzles and of other models: the published sizes and settings."""

import pytest

from pipeline.recipes import RECIPES, load_recipe
from solver.kinds import outline

PUBLISHED = {  # millions of parameters
    "sudoku": 5.0, "sudoku-attention": 6.8, "maze": 6.8, "hrm-sudoku": 27.3,
    "transformer-sudoku": 27.1, "arc1-hrm": 27.3, "arc1-transformer": 27.1,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_models_have_the_published_sizes(name):
    recipe = RECIPES[name]()
    parameters = sum(p.numel() for p in outline(recipe.model).parameters())
    assert parameters / 1e6 == pytest.approx(PUBLISHED[name], abs=0.06)


def test_the_recipe_of_sudoku_has_the_published_settings():
    recipe = RECIPES["sudoku"]()
    model, train = recipe.model, recipe.train
    assert (model.length, model.dim, model.num_layers) == (97, 512, 2)
    assert (model.num_cycles, model.num_latent_steps, model.max_supervision_steps) == (3, 6, 16)
    assert (train.lr, train.rows_lr, train.weight_decay) == (1e-4, 1e-4, 1.0)
    assert (train.global_batch, train.num_steps, train.ema_rate) == (768, 65_104, 0.999)


def test_direct_prediction_is_a_change_of_one_setting():
    recipe = load_recipe("transformer-sudoku", ["model.max_supervision_steps=1"])
    assert recipe.model.max_supervision_steps == 1
