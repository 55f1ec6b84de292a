"""The Tiny Recursion Model, in the letters of its paper: question x, answer y, latent z.

"Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871). One small network
updates the latent z from x, y and z several times, and then the answer y from y and z.
"""

from torch import Tensor

from solver.layers import Layout
from solver.model import Model, Network, State


class TRM(Model):
    """One network in both roles."""

    NETWORKS = ("net",)
    STATES = ("y", "z")
    net: Network

    def latent_recursion(self, x: Tensor, state: State, layout: Layout) -> State:
        """Return y and z after n updates of z and one of y."""
        y, z = state
        for _ in range(self.settings.num_latent_steps):
            z = self.apply_network(self.net, z + (y + x), layout)
        y = self.apply_network(self.net, y + z, layout)
        return y, z
