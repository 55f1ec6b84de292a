"""Recipes on Sudoku puzzles and mazes, and what makes other models of a TRM.

See :mod:`pipeline.recipes`.
"""

from dataclasses import replace

from pipeline.settings import (
    CheckpointSettings,
    DataSettings,
    PredictSettings,
    PretrainSettings,
    PuzzleSettings,
    Settings,
)
from solver.settings import AdaptSettings, EngineSettings, ModelSettings

_SUDOKU_EXTREME = ("sudoku:data/sudoku-extreme",)
_MAZE_HARD = ("maze:data/maze-30x30-hard-1k",)
_EPOCH = 1000 / 768
"""Steps of the reference in which each of a thousand puzzles comes once."""


def sudoku() -> Settings:
    """The reference's TRM-MLP on Sudoku-Extreme: published 87.4 % after under 36 hours of an L40S.

    A thousand puzzles under symmetries; its set of 423,000 to evaluate is drawn from.
    """
    return Settings(
        data=DataSettings(trained=_SUDOKU_EXTREME, predicted=_SUDOKU_EXTREME),
        model=ModelSettings(variant="mlp", canvas_side=9, num_cycles=3, num_latent_steps=6),
        train=PretrainSettings(
            num_steps=round(50_000 * _EPOCH),
            rows_lr=1e-4,
            weight_decay=1.0,
            rows_weight_decay=1.0,
        ),
        checkpoint=CheckpointSettings(),
        adapt=AdaptSettings(num_steps=0),
        predict=PredictSettings(),
        engine=EngineSettings(),
    )


def sudoku_attention() -> Settings:
    """The same with attention between cells: published 74.7 %."""
    recipe = sudoku()
    return replace(recipe, model=replace(recipe.model, variant="attention"))


def hrm_sudoku() -> Settings:
    """The Hierarchical Reasoning Model on Sudoku-Extreme: published 55.0 %."""
    recipe = sudoku()
    return replace(
        recipe,
        model=as_hrm(recipe.model),
        train=replace(recipe.train, num_steps=round(20_000 * _EPOCH)),
    )


def transformer_sudoku() -> Settings:
    """A transformer of eight layers that keeps its state over supervision steps.

    With ``model.max_supervision_steps=1`` it predicts directly: published 0 %.
    """
    recipe = sudoku()
    return replace(recipe, model=as_transformer(recipe.model))


def sudoku_small() -> Settings:
    """Generated Sudoku puzzles with 55 blanks, on a laptop: 83.9 % after 28 minutes of 2 cores.

    With NPROC=2. Direct prediction solves 3.4 % with as many FLOP; see docs/EXPERIMENTS.md.
    Measured over 9,181 steps, with rates that fell in time rather than by steps.
    """
    recipe = sudoku()
    return replace(
        recipe,
        data=DataSettings(trained=("sudoku/55",), predicted=("sudoku/55",)),
        puzzles=PuzzleSettings(num_trained=20_000, steps=(1, 2, 4, 8, 16, 32)),
        model=ModelSettings(
            variant="mlp",
            canvas_side=9,
            dim=64,
            num_heads=2,
            prefix_length=0,
            conditioning="cells",
            output="softmax",
            num_cycles=1,
            num_latent_steps=1,
            max_supervision_steps=8,
        ),
        train=PretrainSettings(
            num_steps=9200,
            global_batch=128,
            optimizer="normuon",
            lr=2e-3,
            schedule="wsd",
            warmup_steps=50,
            ema_rate=0.99,
        ),
        checkpoint=CheckpointSettings(every=1000, carry=False),
    )


def maze() -> Settings:
    """The reference's TRM on Maze-Hard, 30x30: published 85.3 % after under a day of 4 L40S."""
    recipe = sudoku_attention()
    return replace(
        recipe,
        data=DataSettings(trained=_MAZE_HARD, predicted=_MAZE_HARD),
        puzzles=PuzzleSettings(symmetries=False),
        model=replace(recipe.model, canvas_side=30, num_latent_steps=4),
    )


def as_hrm(model: ModelSettings) -> ModelSettings:
    """Return the published Hierarchical Reasoning Model, 27.3M parameters, on the same canvas."""
    return replace(
        model,
        kind="hrm",
        variant="attention",
        num_layers=4,
        prefix_length=1,
        num_cycles=2,
        num_latent_steps=2,
    )


def as_transformer(model: ModelSettings) -> ModelSettings:
    """Return the transformer that the reference compares with, 27.1M parameters."""
    return replace(
        model,
        kind="transformer",
        variant="attention",
        num_layers=8,
        num_heads=12,
        prefix_length=1,
        num_cycles=1,
        num_latent_steps=1,
    )
