"""The Hierarchical Reasoning Model, in the letters of its paper (arXiv 2506.21734).

A network L updates a fast state z_L several times, and then a network H a slow state z_H, which the
solution is read from. Published: four layers each, two updates of z_L to one of z_H, twice.

It halts by Q-learning: one logit tells whether it is right, the other what going on is worth, which
it learns from a second pass that looks one supervision step ahead (``Model.look_ahead``).
"""

import torch
from torch import Tensor

from solver.layers import Layout
from solver.model import Model, Network, State


class HRM(Model):
    """Two networks, each with a state of its own."""

    NETWORKS = ("H", "L")
    STATES = ("z_H", "z_L")
    H: Network
    L: Network

    def latent_recursion(self, x: Tensor, state: State, layout: Layout) -> State:
        """Return z_H and z_L after n updates of z_L and one of z_H.

        The gradient flows through the last update of each: the paper's one-step gradient.
        """
        z_H, z_L = state
        with torch.no_grad():
            for _ in range(self.settings.num_latent_steps - 1):
                z_L = self.apply_network(self.L, z_L + (z_H + x), layout)
        z_L = self.apply_network(self.L, z_L + (z_H + x), layout)
        z_H = self.apply_network(self.H, z_H + z_L, layout)
        return z_H, z_L
