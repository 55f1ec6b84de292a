"""Attention within each of several sequences that lie end to end.

Shapes: N positions of all sequences, B sequences, E = B + 1 bounds, H heads, K head width.

Nothing is padded or masked: torch's kernels for sequences of different lengths do it on GPUs,
and :mod:`solver.cpu_attention` on a CPU.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from solver.cpu_attention import attend_on_cpu

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]

HAS_VARLEN = varlen_attn is not None
"""Whether this torch has FlashAttention for sequences of different lengths."""

_FLASH = (8, 0)  # the compute capability from which GPUs run FlashAttention
_HEAD_WIDTH_STEP = 8  # GPUs' kernels read this many values of a head at once
_NO_MASK = 0  # of the memory-efficient kernel

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
    has_flash = HAS_VARLEN and torch.cuda.get_device_capability(device) >= _FLASH
    return "flash" if is_half and has_flash else "efficient"


def attend(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, sequences: Sequences) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v (N, H, K) within each sequence."""
    bounds_E, longest, kernel = sequences
    if kernel == "cpu":
        mixed_NHK: Tensor = attend_on_cpu(q_NHK, k_NHK, v_NHK, bounds_E)
        return mixed_NHK
    width = q_NHK.shape[-1]
    if missing := -width % _HEAD_WIDTH_STEP:
        # Zeros change no product; the scale of the kernel is that of the larger width.
        q_NHK = q_NHK * math.sqrt((width + missing) / width)
        q_NHK, k_NHK, v_NHK = (F.pad(x_NHK, (0, missing)) for x_NHK in (q_NHK, k_NHK, v_NHK))
        return attend(q_NHK, k_NHK, v_NHK, sequences)[..., :width]
    bounds = (bounds_E, bounds_E, longest, longest)
    if kernel == "flash":  # by position: the names of these arguments changed with torch 2.11
        return varlen_attn(q_NHK, k_NHK, v_NHK, *bounds)  # type: ignore[return-value]
    batch = (q_NHK[None], k_NHK[None], v_NHK[None])
    mixed_1NHK: Tensor = torch.ops.aten._efficient_attention_forward(
        *batch, None, *bounds, 0.0, _NO_MASK, compute_log_sumexp=True
    )[0]
    return mixed_1NHK[0]
