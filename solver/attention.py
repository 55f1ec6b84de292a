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

_SCORES_AT_ONCE = 2**20  # what stays in a core's cache


class Sequences(NamedTuple):
    """How sequences lie one after another."""

    starts_E: Tensor
    """Sequence b is ``starts_E[b]`` to ``starts_E[b + 1]``; on the host."""
    pad_BL: Tensor
    """The positions of each sequence; what fills it up is position 0."""
    real_BL: Tensor | None
    """False at what fills a sequence up; None where all are equally long."""
    at_N: Tensor
    """Where each position stands in the flattened ``pad_BL``."""


def attend(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, sequences: Sequences) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (N, H, K) within each sequence."""
    starts_E, pad_BL, real_BL, at_N = sequences
    if q_NHK.device.type == "cpu":
        mixed_NHK: Tensor = _attend_on_cpu(q_NHK, k_NHK, v_NHK, starts_E)[0]
        return mixed_NHK
    if real_BL is None:
        shape = (*pad_BL.shape, *q_NHK.shape[1:])
        q, k, v = (x.view(shape).transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)
    q, k, v = (x[pad_BL].transpose(1, 2) for x in (q_NHK, k_NHK, v_NHK))
    mixed_BHLK = F.scaled_dot_product_attention(q, k, v, attn_mask=real_BL[:, None, None])
    return mixed_BHLK.transpose(1, 2).flatten(0, 1)[at_N]


@torch.library.custom_op("arc_trm::attend_on_cpu", mutates_args=())
def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mixed values (N, H, K) and the log of the sum of exponents (N, H)."""
    mixed = torch.empty(q.shape, dtype=q.dtype)
    log_sums = torch.empty(q.shape[:2], dtype=torch.float32)
    for part in _parts(starts_E):
        q_, k_, v_ = (x[part].transpose(0, 1)[None] for x in (q, k, v))
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_, k_, v_)
        mixed[part] = out[0].transpose(0, 1)
        log_sums[part] = log_sum[0].transpose(0, 1)
    return mixed, log_sums


@_attend_on_cpu.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts_E: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(q.shape, dtype=q.dtype), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("arc_trm::attend_on_cpu_backward", mutates_args=())
def _attend_on_cpu_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixed: Tensor,
    log_sums: Tensor,
    starts_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v (N, H, K)."""
    gradients = tuple(torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    for part in _parts(starts_E):
        length = part.stop - part.start
        heads_at_once = max(1, _SCORES_AT_ONCE // length**2)
        for head in range(0, q.shape[1], heads_at_once):
            heads = slice(head, head + heads_at_once)
            chosen = (x[part, heads].transpose(0, 1) for x in (gradient, q, k, v, mixed, log_sums))
            for all_of_them, found in zip(gradients, _backward(*chosen), strict=True):
                all_of_them[part, heads] = found.transpose(0, 1)
    return gradients  # type: ignore[return-value]


def _backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, log_sum_HL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v (H, L, K) of one sequence, as in FlashAttention."""
    scaled_q = q * q.shape[-1] ** -0.5
    p = (scaled_q @ k.transpose(-1, -2)).float().sub_(log_sum_HL[..., None]).exp_()
    share_HL1 = (gradient.float() * mixed.float()).sum(-1, keepdim=True)
    of_scores = (gradient @ v.transpose(-1, -2)).float().sub_(share_HL1).mul_(p).to(q.dtype)
    of_q = (of_scores @ k).mul_(q.shape[-1] ** -0.5)
    return of_q, of_scores.transpose(-1, -2) @ scaled_q, p.to(q.dtype).transpose(-1, -2) @ gradient


@_attend_on_cpu_backward.register_fake
def _(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixed: Tensor,
    log_sums: Tensor,
    starts_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    return a, b, c


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3], *output, inputs[3])


def _differentiate(ctx, of_mixed, _):  # type: ignore[no-untyped-def]
    return (*_attend_on_cpu_backward(of_mixed, *ctx.saved_tensors), None)


_attend_on_cpu.register_autograd(_differentiate, setup_context=_keep_for_backward)


def _parts(starts_E: Tensor) -> list[slice]:
    starts = starts_E.tolist()
    return [slice(start, stop) for start, stop in pairwise(starts)]
