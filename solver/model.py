"""The Tiny Recursion Model, in the letters of its paper: question x, answer y, latent z.

"Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871). One small network is
applied again and again: it improves the latent z from x and y, then the answer y from z.

Shapes: G examples packed end to end, N positions of all of them, P prefix tokens before the cells
of each, D width, V tokens, F features of a view.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from augment.grid import NUM_COLORS
from augment.tokens import NUM_TOKENS
from augment.view import NUM_DIHEDRALS
from solver.attention import Sequences, choose_kernel
from solver.layers import AttentionLayer, Linear, MLPLayer, Places, Rotary, truncated_normal_
from solver.packing import Packed
from solver.settings import ModelSettings

_HALT_BIAS = -5.0


class State(NamedTuple):
    """What slots remember between supervision steps: answer y and latent z, (N, D) each."""

    y: Tensor
    z: Tensor


class Network(nn.Module):
    """The one network of both roles; a call is one pass through its layers."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator):
        """Build the layers of ``settings.variant``."""
        super().__init__()
        is_attention = settings.variant == "attention"
        kind = AttentionLayer if is_attention else MLPLayer
        self.rotary = Rotary(settings) if is_attention else None
        self.layers = nn.ModuleList(kind(settings, generator) for _ in range(settings.num_layers))

    def forward(self, x_ND: Tensor, places: Places | None) -> Tensor:
        """Return (N, D)."""
        for layer in self.layers:
            x_ND = layer(x_ND) if places is None else layer(x_ND, places)
        return x_ND


class TRM(nn.Module):
    """The model without its puzzle rows, which live in a table of their own."""

    y_start: Tensor
    z_start: Tensor

    def __init__(self, settings: ModelSettings, seed: int = 0):
        """Build with random weights drawn from ``seed``."""
        super().__init__()
        self.settings = settings
        self.recompute = False
        self.run_cycle: Callable[[TRM, Tensor, Tensor, Tensor, Places | None], State] = TRM.cycle
        """The cycle as it is, or compiled; no method, so that copies of the model share it."""
        dim = settings.dim
        generator = torch.Generator().manual_seed(seed)
        self.token_embedding = nn.Parameter(
            truncated_normal_(torch.empty(NUM_TOKENS, dim), dim**-0.5, generator)
        )
        self.view_embedding: nn.Parameter | None = None
        if settings.rows_per == "task":
            # The dihedrals, then for each of the colors 1..9 the color it became.
            num_features = NUM_DIHEDRALS + (NUM_COLORS - 1) * NUM_COLORS
            self.view_embedding = nn.Parameter(
                truncated_normal_(torch.empty(num_features, dim), dim**-0.5, generator)
            )
        self.net = Network(settings, generator)
        self.output_head = Linear(dim, NUM_TOKENS, generator)
        self.halt_head = Linear(dim, 2, generator, bias=True)
        with torch.no_grad():
            assert self.halt_head.bias is not None
            self.halt_head.weight.zero_()
            self.halt_head.bias.fill_(_HALT_BIAS)
        self.register_buffer("y_start", truncated_normal_(torch.empty(dim), 1.0, generator))
        self.register_buffer("z_start", truncated_normal_(torch.empty(dim), 1.0, generator))

    def start(self, num_positions: int, dtype: torch.dtype) -> State:
        """Return the state of fresh slots with ``num_positions`` in all."""
        shape = (num_positions, self.settings.dim)
        starts = (self.y_start.to(dtype), self.z_start.to(dtype))
        return State(*(start.expand(shape).contiguous() for start in starts))

    def embed(self, packed: Packed, rows_GD: Tensor) -> Tensor:
        """Return the question x (N, D): each example's cells after the prefix with row and view.

        A view is told only where a row belongs to a task and not to a view.
        """
        prefix = [rows_GD[:, None]]
        if self.view_embedding is not None:
            starts_F = torch.arange(packed.views_GF.shape[1], device=rows_GD.device) - 1
            starts_F = (NUM_DIHEDRALS + starts_F * NUM_COLORS).clamp(min=0)
            prefix.append(F.embedding(packed.views_GF + starts_F, self.view_embedding))
        empty = self.settings.prefix_length - self.settings.num_told_slots
        prefix.append(rows_GD.new_zeros(len(rows_GD), empty, rows_GD.shape[1]))
        sources = torch.cat([self.token_embedding, torch.cat(prefix, dim=1).flatten(0, 1)])
        # Not sources[...]: a GPU adds up that one's gradients of equal tokens one after another.
        return F.embedding(packed.sources_N, sources) * math.sqrt(self.settings.dim)

    def places(self, packed: Packed, dtype: torch.dtype) -> Places | None:
        """Return where the positions lie; None where the layers know it by themselves."""
        if self.net.rotary is None:
            return None
        cos_N1K, sin_N1K = self.net.rotary(packed.positions_N)
        bounds_E, offsets_N = packed.bounds_E, None
        if self.settings.conv_width:
            positions_N = torch.arange(len(packed.owners_N), device=bounds_E.device)
            offsets_N = positions_N - bounds_E[packed.owners_N]
        kernel = choose_kernel(bounds_E.device, dtype)
        return Places(cos_N1K, sin_N1K, Sequences(bounds_E, packed.longest, kernel), offsets_N)

    def improve(self, x: Tensor, places: Places | None) -> Tensor:
        """Run one pass of the network, with or without keeping what its backward pass needs."""
        if self.recompute and torch.is_grad_enabled():
            improved: Tensor = checkpoint(self.net, x, places, use_reentrant=False)
            return improved
        return self.net(x, places)  # type: ignore[no-any-return]

    def cycle(self, x: Tensor, y: Tensor, z: Tensor, places: Places | None) -> State:
        """Return y and z after n updates of the latent and one of the answer."""
        for _ in range(self.settings.num_latent_steps):
            z = self.improve(z + (y + x), places)
        y = self.improve(y + z, places)
        return State(y, z)

    def forward(self, state: State, x_ND: Tensor, packed: Packed) -> tuple[State, Tensor, Tensor]:
        """Run one supervision step: T cycles, the gradient flowing through the last ones only.

        Returns the detached state, token logits (N, V), which mean nothing at the prefix, and halt
        logits (G,) in float32, read at the first token of each prefix.
        """
        y, z = state
        places = self.places(packed, x_ND.dtype)
        with torch.no_grad():
            # Detached, so that whatever x comes from, one compiled cycle serves.
            without_gradient = x_ND.detach()
            for _ in range(self.settings.num_cycles - self.settings.gradient_cycles):
                y, z = self.run_cycle(self, without_gradient, y, z, places)
        for _ in range(self.settings.gradient_cycles):
            y, z = self.run_cycle(self, x_ND, y, z, places)
        logits_NV = self.output_head(y)
        # The halt head's second logit is the reference's, whose training leaves it unused.
        halt_G = self.halt_head(y[packed.bounds_E[:-2]].float())[:, 0]
        return State(y.detach(), z.detach()), logits_NV, halt_G
