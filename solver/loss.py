"""Stablemax cross-entropy over the tokens, and binary cross-entropy of the halt logit.

Shapes: B batch, S canvas cells, V tokens.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of cells where nothing is to be learned."""

HALT_WEIGHT = 0.5


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label) per cell in float64, 0 where the label is :data:`IGNORED`.

    p = s / sum(s) with s(v) = v + 1 for v >= 0 and 1 / (1 - v) below. Source: "Grokking at the
    Edge of Numerical Stability" (arXiv 2501.04697), in float64 as in the TRM reference.
    """
    logits = logits.double()
    scores = torch.where(logits < 0, 1 / (1 - logits.clamp(max=0)), logits.clamp(min=0) + 1)
    log_p = scores.log() - scores.sum(-1, keepdim=True).log()
    counted = labels != IGNORED
    picked = log_p.gather(-1, labels.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    return -picked.where(counted, 0.0)


class Losses(NamedTuple):
    """Losses and hits of a batch, one number per slot (B,)."""

    tokens: Tensor
    """Mean stablemax cross-entropy over the labelled cells."""
    halt: Tensor
    """Binary cross-entropy of the halt logit against ``exact``, before its weight."""
    accuracy: Tensor
    """Share of the labelled cells that are right."""
    exact: Tensor
    """Whether all labelled cells are right (bool); true when there is none."""

    @property
    def total(self) -> Tensor:
        """The loss to descend, summed over the batch."""
        return (self.tokens + HALT_WEIGHT * self.halt).sum()


def compute_losses(logits_BSV: Tensor, halt_B: Tensor, labels_BS: Tensor) -> Losses:
    """Return the losses of one supervision step."""
    counted_BS = labels_BS != IGNORED
    count_B = counted_BS.sum(-1)
    divisor_B = count_B.clamp(min=1)
    hits_B = ((logits_BSV.detach().argmax(-1) == labels_BS) & counted_BS).sum(-1)
    exact_B = hits_B == count_B
    return Losses(
        tokens=stablemax_cross_entropy(logits_BSV, labels_BS).sum(-1) / divisor_B,
        halt=F.binary_cross_entropy_with_logits(halt_B, exact_B.to(halt_B.dtype), reduction="none"),
        accuracy=hits_B / divisor_B,
        exact=exact_B,
    )
