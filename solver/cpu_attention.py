"""Attention on a CPU, within each of several sequences that lie end to end.

Shapes: N positions of all sequences, B sequences, E = B + 1, L positions of the longest, H heads,
K head width. Backward on a CPU also: R = N * H rows, one for each position and head, M such rows
after sequences were padded, I heads of sequences computed together, S columns that may be padding.

torch's fused attention does the forward pass, for neighbours of equal length at once. Its
backward pass takes 4-6 times as long as plain products at the lengths used here, so the backward
pass is written out: heads of sequences of almost the same length are multiplied together, padded
to a multiple of a few positions. Their scores are few enough to stay in the caches from one product
to the next, and lie in memory that is taken once: to take new memory costs more than to fill it.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# The backward pass on a CPU pads sequences to multiples of this: products are slower where the
# rows of scores do not begin where a vector register does.
_LENGTH_STEP = 8
# The same where numbers take less than 32 bits: there the matrix library compiles products for
# every new size, which takes longer than most of them.
_LENGTH_STEP_IF_COMPILED = 32
# Scores that it computes together: 1 MB in float32, of which two are in use at a time.
_MOST_SCORES = 2**18


@torch.library.custom_op("arc_trm::attend_on_cpu", mutates_args=())
def attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, bounds_E: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (N, H, K) within each sequence of ``bounds_E``; 0 beyond."""
    starts = bounds_E.tolist()
    mixed = q.new_empty(q.shape)
    mixed[starts[-1] :] = 0.0
    for part, length in _runs(starts):
        q_BHLK, k_BHLK, v_BHLK, mixed_BHLK = (
            x[part].view(-1, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v, mixed)
        )
        mixed_BHLK.copy_(F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK))
    return mixed


@attend_on_cpu.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bounds_E: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype)


@torch.library.custom_op("arc_trm::attend_on_cpu_backward", mutates_args=())
def _attend_on_cpu_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds_E: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v (N, H, K).

    Each overwrites what no later product reads: that of q the gradient g, those of k and v these.
    """
    layout = _layout_of(bounds_E, q)
    g_MK, q_MK, k_MK, v_MK = (_pad(x, layout) for x in (gradient, q, k, v))
    scale = q.shape[-1] ** -0.5
    q_MK.mul_(scale)
    # Queries that are padding must not count for any key.
    g_MK.index_fill_(0, layout.padding, 0.0)
    scores, of_scores = (q.new_empty(layout.most_scores) for _ in range(2))
    for block in layout.blocks:
        g_ILK, q_ILK, k_ILK, v_ILK = (_part(x, block) for x in (g_MK, q_MK, k_MK, v_MK))
        p_ILL = _probabilities(q_ILK, k_ILK, block, scores)
        of_ILL = of_scores[: p_ILL.numel()].view(p_ILL.shape)
        torch.bmm(g_ILK, v_ILK.transpose(1, 2), out=of_ILL)
        torch.bmm(p_ILL.transpose(1, 2), g_ILK, out=v_ILK)
        torch._softmax_backward_data(of_ILL, p_ILL, -1, q.dtype, grad_input=of_ILL)
        torch.bmm(of_ILL, k_ILK, out=g_ILK)
        torch.bmm(of_ILL.transpose(1, 2), q_ILK, out=k_ILK)
    g_MK.mul_(scale)
    of_q, of_k, of_v = (_unpad(x, layout, q) for x in (g_MK, k_MK, v_MK))
    return of_q, of_k, of_v


@_attend_on_cpu_backward.register_fake
def _(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds_E: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_q, of_k, of_v = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    return of_q, of_k, of_v


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gradient):  # type: ignore[no-untyped-def]
    return (*_attend_on_cpu_backward(gradient, *ctx.saved_tensors), None)


attend_on_cpu.register_autograd(_differentiate, setup_context=_keep_for_backward)


def _runs(starts: list[int]) -> Iterator[tuple[slice, int]]:
    """Yield the positions of neighbours that are equally long, and this length; never 0."""
    sizes = (stop - start for start, stop in pairwise(starts))
    stop = starts[0]
    for length, neighbours in groupby(sizes):
        start, stop = stop, stop + length * sum(1 for _ in neighbours)
        if length:
            yield slice(start, stop), length


class _Block(NamedTuple):
    """Heads of sequences that are multiplied together."""

    rows: slice
    """Where they stand among all rows that are padded (M)."""
    shape: tuple[int, int]
    """I and the length L that all are padded to."""
    shortest: int
    """The least length before that."""
    is_padding_IS: Tensor | None
    """True at columns from ``shortest`` on that are padding; None where all of them are."""


class _PaddedLayout(NamedTuple):
    """How the heads of sequences are padded and put together."""

    sources_M: Tensor
    """The row among R that each padded row takes; padding repeats the last."""
    padding: Tensor
    """The numbers of the rows that are padding."""
    places: Tensor
    """Where the rows of the sequences, in their own order, stand among M."""
    blocks: tuple[_Block, ...]
    most_scores: int
    """Of one block."""


def _layout_of(bounds_E: Tensor, like_NHK: Tensor) -> _PaddedLayout:
    step = _LENGTH_STEP if like_NHK.dtype.itemsize >= 4 else _LENGTH_STEP_IF_COMPILED
    return _lay_out(tuple(bounds_E.tolist()), like_NHK.shape[1], step)


# All backward passes through a packed batch ask for the same layout.
@lru_cache(maxsize=4)
def _lay_out(starts: tuple[int, ...], num_heads: int, step: int) -> _PaddedLayout:
    """Return the layout of sequences that start at 0, padded to multiples of ``step``."""
    starts_E = np.array(starts)
    lengths_B = np.diff(starts_E)
    order = np.argsort(-lengths_B, kind="stable")[: np.count_nonzero(lengths_B)]
    first = (starts_E[order, None] * num_heads + np.arange(num_heads)).ravel()
    length = np.repeat(lengths_B[order], num_heads)
    padded = -(-length // step) * step
    begin = np.cumsum(padded) - padded
    owner_M = np.repeat(np.arange(len(padded)), padded)
    offset_M = np.arange(len(owner_M)) - begin[owner_M]
    is_real_M = offset_M < length[owner_M]
    sources_M = first[owner_M] + np.minimum(offset_M, length[owner_M] - 1) * num_heads
    places = np.empty(starts[-1] * num_heads, dtype=np.int64)
    places[sources_M[is_real_M]] = np.flatnonzero(is_real_M)
    blocks = tuple(_blocks(length, padded, begin))
    return _PaddedLayout(
        torch.from_numpy(sources_M),
        torch.from_numpy(np.flatnonzero(~is_real_M)),
        torch.from_numpy(places),
        blocks,
        max((count * size**2 for count, size in (block.shape for block in blocks)), default=0),
    )


def _blocks(
    length: NDArray[np.int64], padded: NDArray[np.int64], begin: NDArray[np.int64]
) -> Iterator[_Block]:
    """Yield blocks of heads of one padded length, the longest first.

    Their counts are powers of two, so that there are few sizes of products.
    """
    first = 0
    while first < len(padded):
        size = int(padded[first])
        count = int(np.count_nonzero(padded[first:] == size))
        count = 1 << min(count, max(1, _MOST_SCORES // size**2)).bit_length() - 1
        lengths_I = length[first : first + count]
        shortest = int(lengths_I[-1])
        is_padding_IS = None
        if shortest < lengths_I[0]:
            is_padding_IS = torch.from_numpy(np.arange(shortest, size) >= lengths_I[:, None])
        rows = slice(int(begin[first]), int(begin[first]) + count * size)
        yield _Block(rows, (count, size), shortest, is_padding_IS)
        first += count


def _pad(x_NHK: Tensor, layout: _PaddedLayout) -> Tensor:
    """Return the rows (M, K), which are of the caller's own."""
    return x_NHK.reshape(-1, x_NHK.shape[-1]).index_select(0, layout.sources_M)


def _part(x_MK: Tensor, block: _Block) -> Tensor:
    """Return (I, L, K), a view."""
    return x_MK[block.rows].view(*block.shape, -1)


def _probabilities(q_ILK: Tensor, k_ILK: Tensor, block: _Block, scores: Tensor) -> Tensor:
    """Return the softmax of q k' (I, L, L), written over ``scores``; 0 at keys that are padding."""
    count, length = block.shape
    scores_ILL = scores[: count * length**2].view(count, length, length)
    torch.bmm(q_ILK, k_ILK.transpose(1, 2), out=scores_ILL)
    if block.is_padding_IS is not None:
        scores_ILL[..., block.shortest :].masked_fill_(block.is_padding_IS[:, None], -torch.inf)
    elif block.shortest < length:
        scores_ILL[..., block.shortest :] = -torch.inf
    return torch.softmax(scores_ILL, -1, out=scores_ILL)


def _unpad(x_MK: Tensor, layout: _PaddedLayout, like_NHK: Tensor) -> Tensor:
    """Return (N, H, K): the rows in the order of the positions, 0 after the last sequence."""
    gathered = x_MK.index_select(0, layout.places)
    num_padding = like_NHK.shape[0] * like_NHK.shape[1] - len(gathered)
    if num_padding:
        gathered = F.pad(gathered, (0, 0, 0, num_padding))
    return gathered.view(like_NHK.shape)
