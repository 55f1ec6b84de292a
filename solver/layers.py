"""The layers of the network: post-norm, no learned gains, weights in float32 cast at use.

Shapes: B batch, L positions, D width, H heads, K head width, N positions in all. Source: the TRM
reference.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def truncated_normal_(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fill with normal values cut at 2 sigma, rescaled so that their std is exactly ``std``."""
    nn.init.trunc_normal_(tensor, generator=generator)
    density = math.exp(-2.0) / math.sqrt(2 * math.pi)
    kept = math.erf(math.sqrt(2.0))
    return tensor.mul_(std / math.sqrt(1 - 4 * density / kept))


class Linear(nn.Module):
    """A linear map whose float32 weights are cast to the dtype of what comes in."""

    def __init__(self, num_in: int, num_out: int, generator: torch.Generator, bias: bool = False):
        """Start the weights at std 1/sqrt(num_in), the bias at zero."""
        super().__init__()
        weight = torch.empty(num_out, num_in)
        self.weight = nn.Parameter(truncated_normal_(weight, num_in**-0.5, generator))
        self.bias = nn.Parameter(torch.zeros(num_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., num_out)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Return ``x`` over the root mean square of its last axis, computed in float32."""
    x_float = x.float()
    return (x_float * torch.rsqrt(x_float.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate) * up), the gate being the first half of one fused projection."""

    def __init__(self, width: int, expansion: float, generator: torch.Generator):
        """Build for ``width``; the inner width is 2/3 of the expansion, rounded up to a 256."""
        super().__init__()
        inner = -(-round(expansion * width * 2 / 3) // 256) * 256
        self.gate_up = Linear(width, 2 * inner, generator)
        self.down = Linear(inner, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Places(NamedTuple):
    """Where the positions of a sequence lie on the canvas, and which of them are real.

    The rotary tables are (L, K) where all examples lie alike, else (B, 1, L, K). ``real_BL`` is
    False at what fills an example up to length L; None where every position is real.
    """

    cos: Tensor
    sin: Tensor
    real_BL: Tensor | None

    def of(self, members: Tensor) -> "Places":
        """Return the places of some examples."""
        if self.real_BL is None:
            return self
        return Places(self.cos[members], self.sin[members], self.real_BL[members])


class Rotary(nn.Module):
    """Rotary positions, counted from the first prefix slot, tabulated in float32."""

    cos_NK: Tensor
    sin_NK: Tensor

    def __init__(self, num_positions: int, head_width: int, base: float):
        """Tabulate ``num_positions``."""
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
        angles_NK = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos_NK", angles_NK.cos(), persistent=False)
        self.register_buffer("sin_NK", angles_NK.sin(), persistent=False)

    def forward(self, positions_BL: Tensor | None, real_BL: Tensor | None) -> Places:
        """Return the tables at the positions; None: at all of them, in order."""
        if positions_BL is None:
            return Places(self.cos_NK, self.sin_NK, real_BL)
        at = positions_BL[:, None]
        return Places(self.cos_NK[at], self.sin_NK[at], real_BL)


def turn(x_BHLK: Tensor, places: Places) -> Tensor:
    """Return the queries or keys turned by their positions, in rotate-half form and float32."""
    x = x_BHLK.float()
    left, right = x.chunk(2, dim=-1)
    turned = x * places.cos + torch.cat([-right, left], dim=-1) * places.sin
    return turned.to(x_BHLK.dtype)


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, real_BL: Tensor | None) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v over the real positions.

    On a CPU the backward pass of torch's fused attention is 4-6 times slower than that of these
    three products at the lengths used here, so there it serves without gradients only.
    """
    real = None if real_BL is None else real_BL[:, None, None]
    if q_BHLK.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, attn_mask=real)
    scores_BHLL = (q_BHLK * q_BHLK.shape[-1] ** -0.5) @ k_BHLK.transpose(-1, -2)
    if real is not None:
        scores_BHLL = scores_BHLL.masked_fill(~real, -torch.inf)
    mixed_BHLK: Tensor = scores_BHLL.softmax(-1) @ v_BHLK
    return mixed_BHLK


class Attention(nn.Module):
    """Self-attention over all real positions, the padding of a canvas included."""

    def __init__(self, dim: int, num_heads: int, generator: torch.Generator):
        """Build for width ``dim``."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, generator)
        self.output = Linear(dim, dim, generator)

    def forward(self, x_BLD: Tensor, places: Places) -> Tensor:
        """Return (B, L, D)."""
        q, k, v = rearrange(self.qkv(x_BLD), "b l (three h k) -> three b h l k", three=3,
                            h=self.num_heads)  # fmt: skip
        mixed = attend(turn(q, places), turn(k, places), v, places.real_BL)
        return self.output(rearrange(mixed, "b h l k -> b l (h k)"))  # type: ignore[no-any-return]


class AttentionLayer(nn.Module):
    """One layer: attention over positions, then SwiGLU over the width."""

    def __init__(
        self, dim: int, num_heads: int, expansion: float, eps: float, generator: torch.Generator
    ):
        """Build for width ``dim``."""
        super().__init__()
        self.eps = eps
        self.attention = Attention(dim, num_heads, generator)
        self.mlp = SwiGLU(dim, expansion, generator)

    def forward(self, x_BLD: Tensor, places: Places) -> Tensor:
        """Return (B, L, D)."""
        x_BLD = rms_norm(x_BLD + self.attention(x_BLD, places), self.eps)
        return rms_norm(x_BLD + self.mlp(x_BLD), self.eps)


class MLPLayer(nn.Module):
    """One layer for small fixed canvases: SwiGLU over the positions, then over the width."""

    def __init__(
        self, dim: int, length: int, expansion: float, eps: float, generator: torch.Generator
    ):
        """Build for ``length`` positions of width ``dim``."""
        super().__init__()
        self.eps = eps
        self.position_mlp = SwiGLU(length, expansion, generator)
        self.mlp = SwiGLU(dim, expansion, generator)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, D)."""
        x_BDL = x_BLD.transpose(1, 2)
        x_BLD = rms_norm(x_BDL + self.position_mlp(x_BDL), self.eps).transpose(1, 2)
        return rms_norm(x_BLD + self.mlp(x_BLD), self.eps)
