"""The layers of the network: post-norm, no learned gains, weights in float32 cast at use.

Shapes: N positions of a packed batch, B examples of L positions, D width, H heads, K head width,
M positions of the prefix and the canvas, A axes that positions are counted along. Source: the TRM
reference.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from solver.attention import Sequences, attend
from solver.settings import ModelSettings, swiglu_width


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


class Layout(NamedTuple):
    """Rotary tables and sequence bounds of a packed batch, as the layers need them."""

    cos_N1K: Tensor
    sin_N1K: Tensor
    sequences: Sequences
    neighbors_9N: Tensor
    """See :class:`solver.packing.Packed`."""


class SwiGLU(nn.Module):
    """down(silu(gate) * up), the gate being the first half of one fused projection."""

    def __init__(self, width: int, expansion: float, generator: torch.Generator):
        """Build for ``width``; see :func:`swiglu_width`."""
        super().__init__()
        inner = swiglu_width(width, expansion)
        self.gate_up = Linear(width, 2 * inner, generator)
        self.down = Linear(inner, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Rotary(nn.Module):
    """Rotary positions, tabulated in float32.

    Flat positions count from the first prefix token on along the canvas. Grid positions rotate one
    half of a head by the row and the other by the column; the prefix is a row above the canvas.
    """

    cos_MK: Tensor
    sin_MK: Tensor

    def __init__(self, settings: ModelSettings):
        """Tabulate the prefix and the canvas."""
        super().__init__()
        prefix, side = settings.prefix_length, settings.patches_per_side
        if settings.rotary == "flat":
            coordinates_AM = torch.arange(settings.length)[None]
        else:
            prefix_2P = torch.stack([torch.zeros(prefix), torch.arange(prefix)])
            cells_2S = torch.stack(
                [torch.arange(side**2) // side + 1, torch.arange(side**2) % side]
            )
            coordinates_AM = torch.cat([prefix_2P, cells_2S], dim=1)
        part = settings.head_width // len(coordinates_AM)
        frequencies = settings.rotary_base ** (-torch.arange(0, part, 2).float() / part)
        angles = torch.cat([torch.outer(c.float(), frequencies) for c in coordinates_AM], dim=-1)
        angles_MK = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos_MK", angles_MK.cos(), persistent=False)
        self.register_buffer("sin_MK", angles_MK.sin(), persistent=False)

    def forward(self, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (N, 1, K) at the positions."""
        return self.cos_MK[positions_N, None], self.sin_MK[positions_N, None]


def apply_rotary(x_NHK: Tensor, layout: Layout) -> Tensor:
    """Return queries or keys rotated by their positions, in rotate-half form and float32."""
    x = x_NHK.float()
    left, right = x.chunk(2, dim=-1)
    rotated = x * layout.cos_N1K + torch.cat([-right, left], dim=-1) * layout.sin_N1K
    return rotated.to(x_NHK.dtype)


class Attention(nn.Module):
    """Self-attention within each example, the blank cells of its box included."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator):
        """Build for width ``settings.dim``, which all heads together may be narrower than."""
        super().__init__()
        self.num_heads = settings.num_heads
        self.qkv = Linear(settings.dim, 3 * settings.attention_width, generator)
        self.output = Linear(settings.attention_width, settings.dim, generator)

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """Return (N, D)."""
        q, k, v = rearrange(self.qkv(x_ND), "n (three h k) -> three n h k", three=3,
                            h=self.num_heads)  # fmt: skip
        mixed = attend(apply_rotary(q, layout), apply_rotary(k, layout), v, layout.sequences)
        return self.output(mixed.flatten(1))  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """A depth-wise 3x3 convolution over the cells of a box; at the start it is the identity.

    The prefix, and cells beyond the box, are not seen by any cell; a prefix token sees itself only.
    Source: the convolution in SwiGLU of LoopViT (arXiv 2602.02156), moved to its narrow side.
    """

    def __init__(self, dim: int):
        """Build for width ``dim``."""
        super().__init__()
        weight = torch.zeros(9, dim)
        weight[4] = 1.0
        self.weight = nn.Parameter(weight)

    def forward(self, x_ND: Tensor, neighbors_9N: Tensor) -> Tensor:
        """Return (N, D)."""
        return _Convolve.apply(x_ND, self.weight.to(x_ND.dtype), neighbors_9N)  # type: ignore[no-any-return, no-untyped-call]


class _Convolve(torch.autograd.Function):
    """The sum over the nine neighbors, each times its weight.

    Written out, because the gradient of a gather is a scatter, which is slow; here it is a gather
    again: if position m is neighbor k of n, then n is neighbor 8 - k of m.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_9D: Tensor, neighbors_9N: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_9D, neighbors_9N)
        return _sum_of_neighbors(x_ND, weight_9D, neighbors_9N)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, weight_9D, neighbors_9N = ctx.saved_tensors
        of_x = _sum_of_neighbors(gradient_ND, weight_9D.flip(0), neighbors_9N)
        if gradient_ND.is_cuda:
            return _apart(of_x), _sum_by_product(x_ND, gradient_ND, neighbors_9N), None
        return of_x, _sum_one_by_one(x_ND, gradient_ND, neighbors_9N), None


def _sum_one_by_one(x_ND: Tensor, gradient_ND: Tensor, neighbors_9N: Tensor) -> Tensor:
    """Return the gradient of the weights (9, D)."""
    padded = F.pad(x_ND, (0, 0, 0, 1))
    parts = [(padded[n].float() * gradient_ND.float()).sum(0) for n in neighbors_9N.unbind()]
    return torch.stack(parts).to(x_ND.dtype)


def _sum_by_product(x_ND: Tensor, gradient_ND: Tensor, neighbors_9N: Tensor) -> Tensor:
    """Return the same; on a GPU a product sums faster than what a compiler makes of the sums."""
    products_N9D = F.pad(x_ND, (0, 0, 0, 1))[neighbors_9N.T] * gradient_ND[:, None]
    ones_1N = x_ND.new_ones(1, len(x_ND))
    return (ones_1N @ products_N9D.flatten(1)).view(9, -1)


@torch.library.custom_op("arc_trm::apart", mutates_args=())
def _apart(x: Tensor) -> Tensor:
    """Return a copy, as an operation that a compiler does not fuse with what comes after.

    Fused with the norm's backward pass, nine gathers take ten times as long on a GPU.
    """
    return x.clone()


@_apart.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _sum_of_neighbors(x_ND: Tensor, weight_9D: Tensor, neighbors_9N: Tensor) -> Tensor:
    padded = F.pad(x_ND, (0, 0, 0, 1))  # what is beyond the box
    total = torch.zeros_like(x_ND)
    for weight_D, neighbors_N in zip(weight_9D.unbind(), neighbors_9N.unbind(), strict=True):
        total = total + padded[neighbors_N] * weight_D
    return total


class AttentionLayer(nn.Module):
    """One layer: attention over positions, then SwiGLU over the width."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator):
        """Build for width ``settings.dim``."""
        super().__init__()
        self.eps = settings.norm_eps
        self.attention = Attention(settings, generator)
        self.convolution = Convolution(settings.dim) if settings.convolution else None
        self.mlp = SwiGLU(settings.dim, settings.expansion, generator)
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """Return (N, D)."""
        x_ND = rms_norm(x_ND + self.dropout(self.attention(x_ND, layout)), self.eps)
        mixed = self.convolution(x_ND, layout.neighbors_9N) if self.convolution else x_ND
        return rms_norm(x_ND + self.dropout(self.mlp(mixed)), self.eps)


class MLPLayer(nn.Module):
    """One layer for small fixed canvases: SwiGLU over the positions, then over the width."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator):
        """Build for the positions of the prefix and the canvas, of width ``settings.dim``."""
        super().__init__()
        self.length = settings.length
        self.eps = settings.norm_eps
        self.position_mlp = SwiGLU(self.length, settings.expansion, generator)
        self.mlp = SwiGLU(settings.dim, settings.expansion, generator)
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()

    def forward(self, x_BLD: Tensor, layout: Layout) -> Tensor:
        """Return (B, L, D); all examples have the one length, so no layout is needed."""
        x_BDL = x_BLD.transpose(1, 2)
        x_BDL = rms_norm(x_BDL + self.dropout(self.position_mlp(x_BDL)), self.eps)
        x_BLD = x_BDL.transpose(1, 2)
        return rms_norm(x_BLD + self.dropout(self.mlp(x_BLD)), self.eps)
