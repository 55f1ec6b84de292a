"""The compute that training and prediction take, counted and not measured.

Products with weights and attention, a multiplication and an addition as two. A backward pass counts
as two forward passes. Norms, embeddings, heads, losses and optimisers are left out; NorMuon's
iterations are a few per cent of a step of a thousand positions, and next to nothing of larger ones.
"""

import numpy as np
from numpy.typing import NDArray

from solver.settings import ModelSettings, swiglu_width


def flop_of_pass(model: ModelSettings, lengths: NDArray[np.int64]) -> float:
    """Return the FLOP of one pass of a network over sequences of these lengths."""
    weights, attention = 3 * model.dim * swiglu_width(model.dim, model.expansion), 0
    if model.variant == "attention":
        weights += 4 * model.dim * model.attention_width
        attention = 4 * model.attention_width
        weights += 9 * model.dim * model.convolution
    else:
        weights += 3 * model.dim * swiglu_width(model.length, model.expansion)
    flop = 2 * weights * lengths + attention * lengths.astype(float) ** 2
    return model.num_layers * float(flop.sum())


def flop_of_training(model: ModelSettings, lengths: NDArray[np.int64]) -> float:
    """Return the FLOP of one supervision step with its gradient."""
    passes = training_passes(model) + 2 * model.gradient_passes
    return passes * flop_of_pass(model, lengths)


def training_passes(model: ModelSettings) -> int:
    """Return the forward passes of a supervision step in training, with those that look ahead."""
    steps = 2 if model.learns_to_continue else 1
    return steps * model.num_cycles * model.passes_per_cycle


def flop_of_prediction(
    model: ModelSettings, lengths: NDArray[np.int64], num_supervision_steps: int
) -> float:
    """Return the FLOP of predicting with so many supervision steps."""
    passes = num_supervision_steps * model.num_cycles * model.passes_per_cycle
    return passes * flop_of_pass(model, lengths)
