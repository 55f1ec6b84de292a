"""The loss of each example, and which examples are exact."""

import math

import pytest
import torch
from conftest import seeded

from solver.loss import IGNORED, compute_losses


def test_examples_without_labels_count_as_right():
    labels = torch.tensor([IGNORED, IGNORED, 3, IGNORED, IGNORED])
    owners = torch.tensor([0, 0, 1, 1, 2])  # the last one is padding
    losses = compute_losses(torch.zeros(5, 12), torch.zeros(2), labels, owners)
    assert losses.exact.tolist() == [True, False]
    assert losses.tokens[0] == 0
    assert losses.tokens[1].item() == pytest.approx(math.log(12))


def test_softmax_is_that_of_torch():
    labels = torch.tensor([4, IGNORED, 3, 2, IGNORED])
    owners = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.randn(5, 12, generator=seeded())
    losses = compute_losses(logits, torch.zeros(2), labels, owners, "softmax")
    log_p = logits.log_softmax(-1)
    assert losses.tokens[0].item() == pytest.approx(-(log_p[0, 4] + log_p[2, 3]).item() / 2)
    assert losses.tokens[1].item() == pytest.approx(-log_p[3, 2].item())
