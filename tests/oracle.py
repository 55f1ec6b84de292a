"""A straightforward TRM supervision step: eager, every formula spelled out, nothing shared.

It takes the parameters of a model by name (one puzzle row per view, attention) and computes all
examples at once, on cells that they have in common. The engine must equal it, and be faster.
Shapes: B examples, C cells, L positions, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.float32)
    return (wide / torch.sqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.to(torch.float32).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def layer(p: dict[str, Tensor], name: str, x: Tensor, cos: Tensor, sin: Tensor, settings) -> Tensor:
    batch, length, dim = x.shape
    qkv = x @ p[f"{name}.attention.qkv.weight"].to(x.dtype).T
    q, k, v = (
        part.reshape(batch, length, settings.num_heads, -1).transpose(1, 2)
        for part in qkv.split(dim, dim=-1)
    )
    mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
    mixed = mixed.transpose(1, 2).reshape(batch, length, dim)
    x = rms_norm(x + mixed @ p[f"{name}.attention.output.weight"].to(x.dtype).T, settings.norm_eps)
    gate, up = (x @ p[f"{name}.mlp.gate_up.weight"].to(x.dtype).T).chunk(2, dim=-1)
    inner = F.silu(gate) * up
    return rms_norm(x + inner @ p[f"{name}.mlp.down.weight"].to(x.dtype).T, settings.norm_eps)


def supervision_step(
    p: dict[str, Tensor],
    settings,
    tokens_BC: Tensor,
    cells_C: Tensor,
    rows_BD: Tensor,
    state: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return token logits (B, C, 12), halt logits (B,) and the detached state y, z (B, L, D)."""
    prefix = settings.prefix_length
    device = cells_C.device
    positions = torch.cat([torch.arange(prefix, device=device), prefix + cells_C]).float()
    width = settings.dim // settings.num_heads
    frequency = settings.rotary_base ** (-torch.arange(0, width, 2, device=device) / width)
    angles = positions[:, None] * frequency
    cos, sin = angles.cos(), angles.sin()

    def net(x: Tensor) -> Tensor:
        for number in range(settings.num_layers):
            x = layer(p, f"net.layers.{number}", x, cos, sin, settings)
        return x

    empty = rows_BD.new_zeros(len(rows_BD), prefix - 1, settings.dim)
    x = torch.cat([rows_BD[:, None], empty, p["token_embedding"][tokens_BC]], dim=1)
    x = (x * settings.dim**0.5).to(dtype)
    y, z = state
    for cycle in range(settings.num_cycles):
        with torch.set_grad_enabled(cycle == settings.num_cycles - 1):
            for _ in range(settings.num_latent_steps):
                z = net(z + (y + x))
            y = net(y + z)
    logits = y[:, prefix:] @ p["output_head.weight"].to(dtype).T
    halt = y[:, 0].to(torch.float32) @ p["halt_head.weight"].T + p["halt_head.bias"]
    return logits, halt[:, 0], (y.detach(), z.detach())


def loss(logits_BCV: Tensor, halt_B: Tensor, labels_BC: Tensor) -> Tensor:
    """Return the loss summed over the examples; labels of 0 (padding) are not learned."""
    wide = logits_BCV.to(torch.float64)
    scores = torch.where(wide >= 0, wide + 1, 1 / (1 - wide.clamp(max=0)))
    picked = (scores / scores.sum(-1, keepdim=True)).gather(-1, labels_BC[..., None])[..., 0]
    learned = labels_BC != 0
    tokens = (-picked.log() * learned).sum(-1) / learned.sum(-1).clamp(min=1)
    exact = ((logits_BCV.argmax(-1) == labels_BC) | ~learned).all(-1)
    halting = F.binary_cross_entropy_with_logits(halt_B, exact.to(halt_B.dtype), reduction="none")
    return (tokens + 0.5 * halting).sum()
