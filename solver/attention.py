"""Attention within each of several sequences that lie one after another.

Shapes: N positions of all sequences, B sequences, E = B + 1, L positions of the longest, H heads,
K head width.

On a CPU every sequence is computed at its own length. torch's fused attention does the forward
pass; its backward pass takes 4-6 times as long as plain products at the lengths used here, so the
backward pass is written out. On a GPU torch's kernels for sequences of different lengths do both.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]

_FLASH = (8, 0)  # the compute capability from which GPUs run FlashAttention
_NO_MASK = 0  # of the memory-efficient kernel

# The backward pass on a CPU fills lengths up to multiples of this, because its matrix library
# compiles products for every new size, which takes longer than most of them.
_LENGTH_STEP = 32


Kernel = Literal["cpu", "flash", "efficient"]


class Sequences(NamedTuple):
    """How sequences lie end to end, and which kernel computes attention within them."""

    bounds_E: Tensor
    """cu_seqlens (int32): sequence b is ``bounds_E[b]`` to ``bounds_E[b + 1]``; together they
    cover all positions, because kernels leave what lies outside unwritten."""
    longest: int
    """The positions of the longest one, or more."""
    kernel: Kernel


def choose_kernel(device: torch.device, dtype: torch.dtype) -> Kernel:
    """Return the kernel for a device and the dtype of its queries.

    FlashAttention for half precision on GPUs from compute capability 8.0 on, torch's
    memory-efficient kernel for older ones and for float32.
    """
    if device.type == "cpu":
        return "cpu"
    is_half = dtype in (torch.bfloat16, torch.float16)
    has_flash = varlen_attn is not None and torch.cuda.get_device_capability(device) >= _FLASH
    return "flash" if is_half and has_flash else "efficient"


def attend(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, sequences: Sequences) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (N, H, K) within each sequence."""
    bounds_E, longest, kernel = sequences
    if kernel == "cpu":
        mixed_NHK: Tensor = _attend_on_cpu(q_NHK, k_NHK, v_NHK, bounds_E)
        return mixed_NHK
    bounds = (bounds_E, bounds_E, longest, longest)
    if kernel == "flash":  # by position: the names of these arguments changed with torch 2.11
        return varlen_attn(q_NHK, k_NHK, v_NHK, *bounds)  # type: ignore[return-value]
    batch = (q_NHK[None], k_NHK[None], v_NHK[None])
    mixed_1NHK: Tensor = torch.ops.aten._efficient_attention_forward(
        *batch, None, *bounds, 0.0, _NO_MASK, compute_log_sumexp=True
    )[0]
    return mixed_1NHK[0]


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
