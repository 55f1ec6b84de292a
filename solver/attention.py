"""Attention within each of several sequences that lie one after another.

Shapes: N positions of all sequences, B sequences, E = B + 1, L positions of the longest, H heads,
K head width.

On a CPU every sequence is computed at its own length. torch's fused attention does the forward
pass; its backward pass takes 4-6 times as long as plain products at the lengths used here, so the
backward pass is written out. Elsewhere sequences are filled up to the longest, and masked.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The backward pass on a CPU fills lengths up to multiples of this, because its matrix library
# compiles products for every new size, which takes longer than most of them.
_LENGTH_STEP = 32


class Sequences(NamedTuple):
    """How sequences lie one after another; idle positions may follow them."""

    starts_E: Tensor
    """Sequence b is ``starts_E[b]`` to ``starts_E[b + 1]``; on the host."""
    pad_BL: Tensor
    """The positions of each sequence; what fills it up is position 0."""
    real_BL: Tensor | None
    """False at what fills a sequence up; None where all are equally long."""
    at_N: Tensor
    """Where each position stands in the flattened ``pad_BL``; any place for an idle one."""


def attend(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, sequences: Sequences) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (N, H, K) within each sequence; idle values are finite."""
    if q_NHK.device.type == "cpu":
        mixed_NHK: Tensor = _attend_on_cpu(q_NHK, k_NHK, v_NHK, sequences.starts_E)
        return mixed_NHK
    return attend_filled_up(q_NHK, k_NHK, v_NHK, sequences)


def attend_filled_up(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, sequences: Sequences) -> Tensor:
    """Return what :func:`attend` does, by torch's fused attention, on any device."""
    _, pad_BL, real_BL, at_N = sequences
    if real_BL is None:
        shape = (*pad_BL.shape, *q_NHK.shape[1:])
        q, k, v = (x.view(shape).transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    q, k, v = (x[pad_BL].transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
    mixed_BHLK = F.scaled_dot_product_attention(q, k, v, attn_mask=real_BL[:, None, None])
    return mixed_BHLK.transpose(1, 2).flatten(0, 1)[at_N]


@torch.library.custom_op("arc_trm::attend_on_cpu", mutates_args=())
def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor) -> Tensor:
    """Return the mixed values (N, H, K)."""
    mixed = torch.zeros(q.shape, dtype=q.dtype)
    for part in _parts(starts_E):
        q_, k_, v_ = (x[part].transpose(0, 1)[None] for x in (q, k, v))
        mixed[part] = F.scaled_dot_product_attention(q_, k_, v_)[0].transpose(0, 1)
    return mixed


@_attend_on_cpu.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype)


@torch.library.custom_op("arc_trm::attend_on_cpu_backward", mutates_args=())
def _attend_on_cpu_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v (N, H, K)."""
    found = tuple(torch.zeros(q.shape, dtype=q.dtype) for _ in range(3))
    scale = q.shape[-1] ** -0.5
    for part in _parts(starts_E):
        length = part.stop - part.start
        idle = (0, 0, 0, -length % _LENGTH_STEP)
        g_HLK, q_HLK, k_HLK, v_HLK = (
            F.pad(x[part].transpose(0, 1), idle) for x in (gradient, q, k, v)
        )
        q_HLK = q_HLK * scale
        scores_HLL = q_HLK @ k_HLK.transpose(1, 2)
        scores_HLL[..., length:] = -torch.inf
        p_HLL = scores_HLL.softmax(-1)
        of_p_HLL = g_HLK @ v_HLK.transpose(1, 2)
        of_scores_HLL = torch._softmax_backward_data(of_p_HLL, p_HLL, -1, q.dtype)
        of_qkv = (
            (of_scores_HLL @ k_HLK).mul_(scale),
            of_scores_HLL.transpose(1, 2) @ q_HLK,
            p_HLL.transpose(1, 2) @ g_HLK,
        )
        for whole, of_part in zip(found, of_qkv, strict=True):
            whole[part] = of_part[:, :length].transpose(0, 1)
    return found  # type: ignore[return-value]


@_attend_on_cpu_backward.register_fake
def _(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_q, of_k, of_v = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    return of_q, of_k, of_v


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, gradient):  # type: ignore[no-untyped-def]
    return (*_attend_on_cpu_backward(gradient, *ctx.saved_tensors), None)


_attend_on_cpu.register_autograd(_differentiate, setup_context=_keep_for_backward)


def _parts(starts_E: Tensor) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(starts_E.tolist())]
