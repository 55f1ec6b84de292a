"""The Tiny Recursion Model, in the letters of its paper: question x, answer y, latent z.

"Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871). One small network
updates the latent z from x, y and z several times, and then the answer y from y and z: a *latent
recursion*. Several of these, only the last with a gradient, make the *deep recursion* of a
supervision step.

Shapes: N positions of a packed batch, G examples in it, P prefix tokens before the cells of each, D
width, V tokens, F features of a view, C cells of a position, M = N C cells.
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
from solver.layers import AttentionLayer, Layout, Linear, MLPLayer, Rotary, truncated_normal_
from solver.packing import Packed
from solver.settings import ModelSettings

_HALT_BIAS = -5.0


class State(NamedTuple):
    """What a lane keeps between supervision steps: answer y and latent z, (N, D) each."""

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

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """Return (N, D)."""
        for layer in self.layers:
            x_ND = layer(x_ND, layout)
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
        self.recursion: Callable[[TRM, Tensor, Tensor, Tensor, Layout], State] = (
            TRM.latent_recursion
        )
        """The latent recursion, perhaps compiled; an attribute, which copies of the model share."""
        dim = settings.dim
        generator = torch.Generator().manual_seed(seed)
        self.token_embedding = nn.Parameter(
            truncated_normal_(
                torch.empty(NUM_TOKENS * settings.cells_per_position, dim),
                dim**-0.5 / settings.patch,  # a position is the sum of its cells
                generator,
            )
        )
        self.view_embedding: nn.Parameter | None = None
        if settings.num_view_features:
            # The dihedrals, then for each of the colors 1..9 the color it became.
            num_features = NUM_DIHEDRALS + (settings.num_view_features - 1) * NUM_COLORS
            view_embedding = torch.zeros(num_features, dim)  # as puzzle rows begin
            if settings.conditioning == "prefix":
                truncated_normal_(view_embedding, dim**-0.5, generator)
            self.view_embedding = nn.Parameter(view_embedding)
        self.net = Network(settings, generator)
        self.output_head = Linear(dim, NUM_TOKENS * settings.cells_per_position, generator)
        self.halt_head = Linear(dim, 2, generator, bias=True)
        with torch.no_grad():
            assert self.halt_head.bias is not None
            self.halt_head.weight.zero_()
            self.halt_head.bias.fill_(_HALT_BIAS)
        self.register_buffer("y_start", truncated_normal_(torch.empty(dim), 1.0, generator))
        self.register_buffer("z_start", truncated_normal_(torch.empty(dim), 1.0, generator))

    def start(self, num_positions: int, dtype: torch.dtype) -> State:
        """Return the state before the first supervision step, for ``num_positions`` in all."""
        shape = (num_positions, self.settings.dim)
        starts = (self.y_start.to(dtype), self.z_start.to(dtype))
        return State(*(start.expand(shape).contiguous() for start in starts))

    def embed(self, packed: Packed, rows_GD: Tensor) -> Tensor:
        """Return the question x (N, D): the cells with the row and the view of their example.

        These are tokens of a prefix, or added to every cell. The view is left out where a row
        belongs to a view, not to a task.
        """
        views_GFD = self._embed_views(packed.views_GF)
        if self.settings.conditioning == "cells":
            # Not [...]: on a GPU its backward pass adds gradients of equal tokens serially.
            x_NCD = F.embedding(packed.sources_NC, self.token_embedding)
            added_GD = rows_GD if views_GFD is None else rows_GD + views_GFD.sum(1)
            x_ND = x_NCD.sum(1) + F.embedding(packed.owners_N, F.pad(added_GD, (0, 0, 0, 1)))
        else:
            prefix = [rows_GD[:, None]] if views_GFD is None else [rows_GD[:, None], views_GFD]
            empty = self.settings.prefix_length - self.settings.num_prefix_tokens_used
            prefix.append(rows_GD.new_zeros(len(rows_GD), empty, rows_GD.shape[1]))
            nothing = rows_GD.new_zeros(1, rows_GD.shape[1])
            of_prefix = torch.cat(prefix, dim=1).flatten(0, 1)
            sources = torch.cat([self.token_embedding, of_prefix, nothing])
            x_ND = F.embedding(packed.sources_NC, sources).sum(1)
        return x_ND * math.sqrt(self.settings.dim)

    def _embed_views(self, views_GF: Tensor) -> Tensor | None:
        """Return what is told of each view (G, F, D); None where nothing is."""
        if self.view_embedding is None:
            return None
        num_features = self.settings.num_view_features
        starts_F = torch.arange(num_features, device=views_GF.device) - 1
        starts_F = (NUM_DIHEDRALS + starts_F * NUM_COLORS).clamp(min=0)
        return F.embedding(views_GF[:, :num_features] + starts_F, self.view_embedding)

    def layout(self, packed: Packed, dtype: torch.dtype) -> Layout:
        """Return what the layers need to know of a packed batch; ``dtype`` is that of x."""
        bounds_E = packed.bounds_E
        cos_N1K = sin_N1K = bounds_E.new_empty(0)  # not used by an MLP over positions
        if self.net.rotary is not None:
            cos_N1K, sin_N1K = self.net.rotary(packed.positions_N)
        kernel = choose_kernel(bounds_E.device, dtype)
        sequences = Sequences(bounds_E, packed.longest, kernel)
        return Layout(cos_N1K, sin_N1K, sequences, packed.neighbors_9N)

    def apply_network(self, x: Tensor, layout: Layout) -> Tensor:
        """Return the network's output; with ``recompute`` its backward pass computes it again."""
        if self.recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(self.net, x, layout, use_reentrant=False)
            return output
        return self.net(x, layout)  # type: ignore[no-any-return]

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor, layout: Layout) -> State:
        """Latent recursion: return y and z after n updates of z and one of y."""
        for _ in range(self.settings.num_latent_steps):
            z = self.apply_network(z + (y + x), layout)
        y = self.apply_network(y + z, layout)
        return State(y, z)

    def forward(self, state: State, x_ND: Tensor, packed: Packed) -> tuple[State, Tensor, Tensor]:
        """Deep recursion: return the outcome of T latent recursions, the last with a gradient.

        Returns the detached state, token logits (M, V), which mean nothing at the prefix, and halt
        logits (G,) in float32, read at the first position of each example.
        """
        y, z = state
        layout = self.layout(packed, x_ND.dtype)
        with torch.no_grad():
            # Detached, so that one compiled graph serves, whatever x comes from.
            without_gradient = x_ND.detach()
            for _ in range(self.settings.num_cycles - self.settings.gradient_cycles):
                y, z = self.recursion(self, without_gradient, y, z, layout)
        for _ in range(self.settings.gradient_cycles):
            y, z = self.recursion(self, x_ND, y, z, layout)
        logits_MV = self.output_head(y).view(-1, NUM_TOKENS)
        # The halt head's second logit is the reference's, whose training leaves it unused.
        first_GD = y[packed.bounds_E[:-2]].float()
        if self.settings.max_supervision_steps == 1:
            first_GD = first_GD.detach()  # nothing halts, so halting has no hand in the trunk
        halt_G = self.halt_head(first_GD)[:, 0]
        return State(y.detach(), z.detach()), logits_MV, halt_G


def outline(settings: ModelSettings) -> TRM:
    """Return a model of these settings without its numbers, which takes no memory."""
    with torch.device("meta"):
        return TRM(settings)
