"""Devices: which one computes, in which arithmetic, and what goes to it and comes back."""

import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.errors import InputError
from solver.settings import EngineSettings

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_TENSOR_CORES = (7, 0)  # the compute capability from which float16 products have hardware


def choose_device(settings: EngineSettings) -> torch.device:
    """Return the device of this process: its own GPU under torchrun, or the CPU."""
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise InputError("engine.device=cuda, but no CUDA device is here; choose auto or cpu")
    if settings.device == "cpu" or not has_cuda:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def choose_dtype(settings: EngineSettings, device: torch.device) -> torch.dtype:
    """Return the arithmetic asked for, or the fastest that this device has in hardware."""
    if settings.dtype != "auto":
        return _DTYPES[settings.dtype]
    if device.type == "cuda":
        # Without this argument torch says True on a T4, which emulates bfloat16 slowly.
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        has_half = torch.cuda.get_device_capability(device) >= _TENSOR_CORES
        return torch.float16 if has_half else torch.float32
    # AVX-512 BF16 comes with every CPU that has AMX, where products run several times faster.
    has_bf16 = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return the array as a tensor on ``device``, without waiting for the copy."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def begin_fetch(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy the tensor to the host; return what waits for that and gives the copy.

    The wait is for the copy alone: the device goes on with all it is given after this call.
    """
    if not tensor.is_cuda:
        return lambda: tensor
    copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait
