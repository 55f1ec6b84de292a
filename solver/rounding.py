"""Rounding of weights for the disk: float16, or int8 with a scale for each row of a matrix.

Shapes: I rows and J columns of a matrix.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from augment.errors import InputError
from augment.grid import shorten

Precision = Literal["float32", "float16", "int8"]

_SCALE = ":scale"  # after the name of a matrix: the name of its scales
_LEAST_SIDE = 64  # of a matrix that is rounded to int8; smaller ones take little room
_LARGEST = 127


def round_tensors(tensors: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Return the tensors rounded; whole numbers stay as they are.

    With int8 a matrix (I, J) becomes its values over the scales (I, 1) that are added, each the
    largest of its row over 127; whatever is no large matrix is rounded to float16.
    """
    rounded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            rounded[name] = tensor
        elif precision != "int8" or tensor.ndim != 2 or min(tensor.shape) < _LEAST_SIDE:
            rounded[name] = tensor.to(torch.float32 if precision == "float32" else torch.float16)
        else:
            scales_I1 = tensor.abs().amax(1, keepdim=True).float() / _LARGEST
            smallest = torch.finfo(torch.float32).tiny  # of a row of zeros
            rounded[name] = (tensor / scales_I1.clamp(min=smallest)).round().to(torch.int8)
            rounded[name + _SCALE] = scales_I1
    return rounded


def restore_tensors(rounded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return in float32 what :func:`round_tensors` rounded.

    Raises :class:`InputError` where a matrix has no scales (I, 1) of its rows.
    """
    restored: dict[str, Tensor] = {}
    for name, tensor in rounded.items():
        if tensor.dtype == torch.int8:
            scales_I1 = rounded.get(name + _SCALE)
            if scales_I1 is None or scales_I1.shape != (*tensor.shape[:1], 1) or tensor.ndim != 2:
                raise InputError(f"{shorten(name)}: no scales of its rows")
            restored[name] = tensor * scales_I1.float()
        elif not name.endswith(_SCALE):
            restored[name] = tensor.float() if tensor.is_floating_point() else tensor
    return restored
