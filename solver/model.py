"""What the models share: embedding, layers, the steps that carry a state, and what is read from it.

A model updates its state with the question x in a *latent recursion*, which is each kind's own
(solver/trm.py, hrm.py, transformer.py). Several of these, only the last ones with a gradient, make
the *deep recursion* of a supervision step.

Shapes: N positions of a packed batch, G examples in it, P prefix tokens before the cells of each, D
width, V tokens, F features of a view, C cells of a position, M = N C cells.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from augment.grid import NUM_COLORS
from augment.tokens import NUM_TOKENS
from augment.view import NUM_DIHEDRALS
from solver.attention import Sequences, choose_kernel
from solver.device import to_device
from solver.layers import AttentionLayer, Layout, Linear, MLPLayer, Rotary, truncated_normal_
from solver.packing import Packed
from solver.settings import ModelSettings

_HALT_BIAS = -5.0  # of the halt logit at the start, so that no lane halts early; the reference's


State = tuple[Tensor, ...]
"""What a lane keeps between supervision steps; the first is what is read.

(N, D) each, which :meth:`Model.by_example` shapes for a latent recursion.
"""


class Outcome(NamedTuple):
    """The outcome of a deep recursion."""

    state: State
    """Detached."""
    logits_MV: Tensor
    """Of the tokens; they mean nothing at the prefix."""
    halt_G: Tensor
    """Logits of being right, in float32, read at the first position of each example."""
    continue_G: Tensor | None
    """Logits of what going on is worth; None for models that do not learn that."""

    @property
    def halts(self) -> Tensor:
        """Whether each example is done (G,) bool: being right is worth more than going on."""
        return self.halt_G > (0 if self.continue_G is None else self.continue_G)


class Network(nn.Module):
    """Layers one after another; a call is one pass through them."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator):
        """Build the layers of ``settings.variant``."""
        super().__init__()
        layer = AttentionLayer if settings.variant == "attention" else MLPLayer
        self.layers = nn.ModuleList(layer(settings, generator) for _ in range(settings.num_layers))

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """Return (N, D)."""
        for layer in self.layers:
            x_ND = layer(x_ND, layout)
        return x_ND


class Model(nn.Module):
    """A model without its puzzle rows, which live in a table of their own."""

    NETWORKS: ClassVar[tuple[str, ...]]
    """Names of its networks."""
    STATES: ClassVar[tuple[str, ...]]
    """Names of the tensors of its state; what is read comes first."""

    def __init__(self, settings: ModelSettings, seed: int = 0):
        """Build with random weights drawn from ``seed``."""
        super().__init__()
        self.settings = settings
        self.recompute = False
        self.recursion: Callable[[Model, Tensor, State, Layout], State] = run_recursion
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
        self.rotary = Rotary(settings) if settings.variant == "attention" else None
        for name in self.NETWORKS:
            self.add_module(name, Network(settings, generator))
        self.output_head = Linear(dim, NUM_TOKENS * settings.cells_per_position, generator)
        self.halt_head = Linear(dim, 2, generator, bias=True)
        with torch.no_grad():
            assert self.halt_head.bias is not None
            self.halt_head.weight.zero_()
            self.halt_head.bias.fill_(_HALT_BIAS)
        for name in self.STATES:
            start_D = truncated_normal_(torch.empty(dim), 1.0, generator)
            self.register_buffer(f"{name}_start", start_D)

    def start(self, num_positions: int, dtype: torch.dtype) -> State:
        """Return the state before the first supervision step, for ``num_positions`` in all."""
        shape = (num_positions, self.settings.dim)
        starts = (self.get_buffer(f"{name}_start").to(dtype) for name in self.STATES)
        return tuple(start.expand(shape).contiguous() for start in starts)

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
        if self.rotary is not None:
            cos_N1K, sin_N1K = self.rotary(packed.positions_N)
        kernel = choose_kernel(bounds_E.device, dtype)
        sequences = Sequences(bounds_E, packed.longest, kernel)
        return Layout(cos_N1K, sin_N1K, sequences, packed.neighbors_9N)

    def apply_network(self, network: Network, x: Tensor, layout: Layout) -> Tensor:
        """Return the network's output; with ``recompute`` its backward pass computes it again."""
        if self.recompute and torch.is_grad_enabled():
            output: Tensor = checkpoint(network, x, layout, use_reentrant=False)
            return output
        return network(x, layout)  # type: ignore[no-any-return]

    def by_example(self, x_ND: Tensor) -> Tensor:
        """Return what the layers take: (B, L, D) for an MLP over positions, else (N, D).

        Such views between the layers would keep a compiler busy for minutes with N // L, times L.
        """
        if self.settings.variant == "mlp":
            return x_ND.view(-1, self.settings.length, self.settings.dim)
        return x_ND

    def latent_recursion(self, x: Tensor, state: State, layout: Layout) -> State:
        """Return the state after all its updates."""
        raise NotImplementedError

    def forward(self, state: State, x_ND: Tensor, packed: Packed) -> Outcome:
        """Return the outcome of a deep recursion: T latent recursions, the last with a gradient."""
        settings = self.settings
        layout = self.layout(packed, x_ND.dtype)
        x, state = self.by_example(x_ND), tuple(map(self.by_example, state))
        with torch.no_grad():
            # Detached, so that one compiled graph serves, whatever x comes from.
            without_gradient = x.detach()
            for _ in range(settings.num_cycles - settings.gradient_cycles):
                state = self.recursion(self, without_gradient, state, layout)
        for _ in range(settings.gradient_cycles):
            state = self.recursion(self, x, state, layout)
        state = tuple(tensor.flatten(0, -2) for tensor in state)
        logits_MV = self.output_head(state[0]).view(-1, NUM_TOKENS)
        first_GD = state[0][packed.bounds_E[:-2]].float()
        if settings.max_supervision_steps == 1:
            first_GD = first_GD.detach()  # nothing halts, so halting has no hand in the trunk
        # Where nothing is learned of going on the second logit is the reference's, and unused.
        halting_G2 = self.halt_head(first_GD)
        continue_G = halting_G2[:, 1] if settings.learns_to_continue else None
        detached = tuple(tensor.detach() for tensor in state)
        return Outcome(detached, logits_MV, halting_G2[:, 0], continue_G)

    def look_ahead(
        self, outcome: Outcome, x_ND: Tensor, packed: Packed, is_last_G: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor] | None:
        """Return the continue logits (G,) and what going on is worth (G,), a probability.

        That is the larger one of both logits of the next step, computed without a gradient; after
        the last step that is allowed, its halt logit. None for models that do not learn it. Source:
        the Q-learning of HRM (arXiv 2506.21734).
        """
        if outcome.continue_G is None:
            return None
        with torch.no_grad():
            following = self(outcome.state, x_ND.detach(), packed)
            best_G = torch.maximum(following.halt_G, following.continue_G)
            is_last = to_device(is_last_G, x_ND.device)
            return outcome.continue_G, torch.where(is_last, following.halt_G, best_G).sigmoid()


def run_recursion(model: Model, x: Tensor, state: State, layout: Layout) -> State:
    """Return the state after a latent recursion: one function of all kinds, to be compiled."""
    return model.latent_recursion(x, state, layout)
