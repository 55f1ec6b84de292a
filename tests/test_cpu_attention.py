"""Attention on a CPU equals plain formulas on each sequence alone."""

import pytest
import torch

from solver.cpu_attention import attend_on_cpu

# Lengths around those that sequences are filled up to, equal neighbours, an order of their own, one
# that is computed in parts, and an idle tail: of positions, or of none.
MIXES = ([5, 40, 2, 40, 39, 33, 1], [137] * 9 + [130, 128, 126, 64], [600, 200, 200, 197, 0], [1])


def plainly(q, k, v, lengths):
    """Attention of each sequence alone, by its definition."""
    parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    mixed = []
    for q_LHK, k_LHK, v_LHK in parts:
        scores = torch.einsum("qhk,lhk->hql", q_LHK, k_LHK) * q.shape[-1] ** -0.5
        mixed.append(torch.einsum("hql,lhk->qhk", scores.softmax(-1), v_LHK))
    return torch.cat(mixed)


def with_gradients(function, gradient, q, k, v, rest):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    mixed = function(*leaves, rest)
    mixed.backward(gradient.to(mixed.dtype))
    return mixed.detach(), *(x.grad for x in leaves)


@pytest.mark.parametrize("lengths", MIXES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_sequences_together_equal_each_alone(lengths, dtype, tolerance):
    """Values and gradients, twice to the bit; positions after the last sequence are zero."""
    generator, num_idle = torch.Generator().manual_seed(0), 3
    starts = torch.tensor([0, *lengths]).cumsum(0)
    count = int(starts[-1])
    # Values lie in one tensor of queries, keys and values, as a layer's projection leaves them.
    together = torch.randn(count + num_idle, 4, 2, 16, generator=generator).to(dtype)
    q, k, v, gradient = together.unbind(1)
    inputs = [x[:count].double() for x in (gradient, q, k, v)]
    expected = with_gradients(plainly, *inputs, lengths)
    first, again = (with_gradients(attend_on_cpu, gradient, q, k, v, starts) for _ in range(2))
    for ours, same, theirs in zip(first, again, expected, strict=True):
        assert ours.shape == q.shape
        assert torch.equal(ours, same)
        assert torch.allclose(ours[:count].double(), theirs, rtol=tolerance, atol=tolerance)
        assert not ours[count:].any()


def test_large_scores_and_no_sequence_at_all_stay_finite():
    starts = torch.tensor([0, 70, 132])
    q = 100 * torch.randn(132, 2, 16, generator=torch.Generator().manual_seed(0))
    for part in with_gradients(attend_on_cpu, q, q, q, q, starts):
        assert part.isfinite().all()
    for part in with_gradients(attend_on_cpu, q, q, q, q, torch.tensor([0, 0])):
        assert not part.any()


@pytest.mark.parametrize("lengths", MIXES, ids=str)
def test_the_operator_keeps_its_promises(lengths):
    """Its gradient, its shapes under compilation, and that it leaves its inputs as they are."""
    q, k, v = torch.randn(3, sum(lengths), 2, 16, generator=torch.Generator().manual_seed(0))
    arguments = (*(x.requires_grad_() for x in (q, k, v)), torch.tensor([0, *lengths]).cumsum(0))
    torch.library.opcheck(attend_on_cpu, arguments)
