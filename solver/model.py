"""The Tiny Recursion Model, in the letters of its paper: question x, answer y, latent z.

"Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871). One small network is
applied again and again: it improves the latent z from x and y, then the answer y from z.

Shapes: B examples, N positions of all of them, one example after another, each with P prefix slots
before its cells, D width, V tokens, F features of a view.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from augment.grid import NUM_COLORS
from augment.tokens import NUM_TOKENS
from augment.view import NUM_DIHEDRALS
from solver.attention import Sequences
from solver.layers import AttentionLayer, Linear, MLPLayer, Places, Rotary, truncated_normal_
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
        return State(self.y_start.to(dtype).expand(shape), self.z_start.to(dtype).expand(shape))

    def places(self, positions_N: Tensor, offsets_N: Tensor, sequences: Sequences) -> Places | None:
        """Return where the positions lie; None where the layers know it by themselves."""
        if self.net.rotary is None:
            return None
        cos_N1K, sin_N1K = self.net.rotary(positions_N)
        return Places(cos_N1K, sin_N1K, offsets_N, sequences)

    def embed(
        self, tokens_N: Tensor, prefix_BP: Tensor, rows_BD: Tensor, views_BF: Tensor
    ) -> Tensor:
        """Return the question x (N, D): each example's cells after the prefix with row and view.

        prefix_BP: the positions of the prefixes. views_BF: the ten features of each view
        (``augment.dataset.view_features``); they are told only where a row belongs to a task and
        not to a view.
        """
        prefix = [rows_BD[:, None]]
        if self.view_embedding is not None:
            starts = torch.arange(views_BF.shape[1], device=views_BF.device) - 1
            starts = (NUM_DIHEDRALS + starts * NUM_COLORS).clamp(min=0)
            prefix.append(self.view_embedding[views_BF + starts])
        empty = self.settings.prefix_length - self.settings.num_told_slots
        prefix.append(rows_BD.new_zeros(len(rows_BD), empty, rows_BD.shape[1]))
        x_ND = self.token_embedding[tokens_N]
        x_ND = x_ND.index_copy(0, prefix_BP.flatten(), torch.cat(prefix, dim=1).flatten(0, 1))
        return x_ND * math.sqrt(self.settings.dim)

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

    def forward(
        self, state: State, x_ND: Tensor, places: Places | None, prefix_BP: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        """Run one supervision step: T cycles, the gradient flowing through the last ones only.

        Returns the detached state, token logits (N, V), which mean nothing at the prefix, and halt
        logits (B,) in float32, read at the first slot of each prefix.
        """
        y, z = state
        with torch.no_grad():
            for _ in range(self.settings.num_cycles - self.settings.gradient_cycles):
                y, z = self.cycle(x_ND, y, z, places)
        for _ in range(self.settings.gradient_cycles):
            y, z = self.cycle(x_ND, y, z, places)
        logits_NV = self.output_head(y)
        halt_B = self.halt_head(y[prefix_BP[:, 0]].float())[:, 0]
        return State(y.detach(), z.detach()), logits_NV, halt_B
