"""Cross-entropy over the tokens, and binary cross-entropy of the logits of halting.

Shapes: N positions of a packed batch, G examples in it, M cells of the positions, V tokens.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of cells where nothing is to be learned."""

HALT_WEIGHT = 0.5
"""Of the loss of halting beside that of the tokens; the TRM reference's."""


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label) per cell in float64, 0 where the label is :data:`IGNORED`.

    p = s / sum(s) with s(v) = v + 1 for v >= 0 and 1 / (1 - v) below. Source: "Grokking at the
    Edge of Numerical Stability" (arXiv 2501.04697), in float64 as in the TRM reference.
    """
    logits = logits.double()
    scores = torch.where(logits < 0, 1 / (1 - logits.clamp(max=0)), logits.clamp(min=0) + 1)
    log_p = scores.log() - scores.sum(-1, keepdim=True).log()
    counted = labels != IGNORED
    picked = log_p.gather(-1, labels.where(counted, 0).long().unsqueeze(-1)).squeeze(-1)
    return -picked.where(counted, 0.0)


class Losses(NamedTuple):
    """Losses and hits of a batch, one number per example (G,)."""

    tokens: Tensor
    """Mean cross-entropy over the labelled cells."""
    halt: Tensor
    """Binary cross-entropy of the halt logit against ``exact``, before its weight; and of the
    continue logit against what going on is worth, where a model learns that."""
    accuracy: Tensor
    """Share of the labelled cells that are right."""
    exact: Tensor
    """Whether all labelled cells are right (bool); true when there is none."""

    @property
    def total(self) -> Tensor:
        """The loss to descend, summed over the batch."""
        return (self.tokens + HALT_WEIGHT * self.halt).sum()


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label) per cell in float32, 0 where the label is :data:`IGNORED`."""
    return F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORED, reduction="none")


def compute_losses(
    logits_MV: Tensor,
    halt_G: Tensor,
    labels_M: Tensor,
    owners_N: Tensor,
    output: Literal["stablemax", "softmax"] = "stablemax",
    going_on: tuple[Tensor, Tensor] | None = None,
) -> Losses:
    """Return the losses of one supervision step; ``owners_N`` is G where nobody owns a position.

    ``going_on``: the continue logits (G,) and what going on is worth (G,), a probability.
    """
    num_examples = len(halt_G)
    owners_M = owners_N
    if len(labels_M) > len(owners_N):
        owners_M = owners_N.repeat_interleave(len(labels_M) // len(owners_N))

    def sum_of_examples(values_M: Tensor) -> Tensor:
        sums = values_M.new_zeros(num_examples + 1)
        return sums.index_add(0, owners_M, values_M)[:num_examples]

    counted_M = labels_M != IGNORED
    hits_M = (logits_MV.detach().argmax(-1) == labels_M) & counted_M
    count_G, hits_G = sum_of_examples(counted_M.int()), sum_of_examples(hits_M.int())
    divisor_G = count_G.clamp(min=1)
    exact_G = hits_G == count_G
    cross_entropy = stablemax_cross_entropy if output == "stablemax" else softmax_cross_entropy
    halting_G = F.binary_cross_entropy_with_logits(
        halt_G, exact_G.to(halt_G.dtype), reduction="none"
    )
    if going_on is not None:
        halting_G = halting_G + F.binary_cross_entropy_with_logits(*going_on, reduction="none")
    return Losses(
        tokens=sum_of_examples(cross_entropy(logits_MV, labels_M)) / divisor_G,
        halt=halting_G,
        accuracy=hits_G / divisor_G,
        exact=exact_G,
    )
