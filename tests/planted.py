"""Faults to put into a step or a prediction on a device, as a small change could bring them in."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import solver.predict
from solver.loss import compute_losses


class Plant(NamedTuple):
    """What replaces the function at ``place``, in a training step or in a prediction."""

    in_training: bool
    place: str
    fault: Callable


def upload_to_host(arrays, device):
    return [torch.from_numpy(array.astype(np.int32)) for array in arrays]


def losses_looked_at(*arguments):
    losses = compute_losses(*arguments)
    losses.total.item()
    return losses


def losses_with_mask(logits_MV, halt_G, labels_M, *more):
    inside = torch.arange(len(labels_M)) < 5
    return compute_losses(logits_MV, halt_G, labels_M.where(inside, -100), *more)


def fetch_and_wait(tensor):
    values = solver.predict.begin_fetch(tensor)()  # the stand-in, which this one replaces elsewhere
    return lambda: values


def copy_and_wait(values, device):
    return (values if isinstance(values, Tensor) else torch.from_numpy(values)).to(device)


PLANTS = {
    "an index on the host": Plant(True, "solver.carry.upload", upload_to_host),
    "an item in the step": Plant(True, "solver.train.compute_losses", losses_looked_at),
    "a mask on the host": Plant(True, "solver.train.compute_losses", losses_with_mask),
    "a wait too early": Plant(True, "solver.train.begin_fetch", fetch_and_wait),
    "a copy that waits": Plant(False, "solver.predict.to_device", copy_and_wait),
}
