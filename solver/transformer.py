"""The plain transformer that the TRM reference compares with, an ablation of HRM.

One deep network updates its only state z, once a supervision step, and z is carried on under deep
supervision; with one supervision step this is *direct prediction*. Published: eight layers, and
twelve heads over a width of 512, so that each is 42 wide and all together 504.

It halts as TRM does: the published code has HRM's second logit too, but learns it only when asked.
"""

from torch import Tensor

from solver.layers import Layout
from solver.model import Model, Network, State


class Transformer(Model):
    """One network, one state, one pass."""

    NETWORKS = ("net",)
    STATES = ("z",)
    net: Network

    def latent_recursion(self, x: Tensor, state: State, layout: Layout) -> State:
        """Return z after its update."""
        (z,) = state
        return (self.apply_network(self.net, z + x, layout),)
