"""Devices: which one computes, in which arithmetic, and what goes to it and comes back."""

import os
import warnings
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
    """Return the device of this process: its own GPU under torchrun, or the CPU.

    Raises :class:`InputError` where a GPU is asked for and cannot be used, with what to do.
    """
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise InputError(f"engine.device=cuda, but {_why_no_gpu()}; or choose auto or cpu")
    if settings.device == "cpu" or not has_cuda:
        return torch.device("cpu")
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= count:
        raise InputError(f"more processes than the {count} GPUs of this machine: NPROC={count}")
    device = torch.device("cuda", rank)
    capability, oldest = torch.cuda.get_device_capability(device), _oldest_capability()
    if capability < oldest:
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has compute capability {_dotted(capability)}; "
            f"torch {torch.__version__} was built for {_dotted(oldest)} and newer: choose "
            "engine.device=cpu, or an older torch"
        )
    return device


def _why_no_gpu() -> str:
    """Return why torch sees no GPU, and what would help."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA: install one that was"
    with warnings.catch_warnings(record=True) as caught:  # torch warns of drivers that are too old
        warnings.simplefilter("always")
        torch.cuda.is_available()
    old = next((str(w.message) for w in caught if "driver" in str(w.message)), "")
    if "too old" in old:
        return f"the NVIDIA driver is older than CUDA {torch.version.cuda} asks for: update it"
    return "no CUDA device is here: nvidia-smi shows what the driver sees"


def _oldest_capability() -> tuple[int, int]:
    """Return the compute capability from which this torch has kernels."""
    numbers = [int(name.removeprefix("sm_").rstrip("af")) for name in torch.cuda.get_arch_list()
               if name.startswith("sm_")]  # fmt: skip
    return divmod(min(numbers, default=0), 10)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def prepare_device(device: torch.device) -> None:
    """Choose how torch computes on ``device``, for the whole process."""
    if device.type != "cuda":
        return
    # cuDNN's attention may return NaN in its backward pass (pytorch#196678), and plans every new
    # length for a second. Nothing here calls it; this is for what might.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Sums of float16 products in float16 can leave its range.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


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


def to_device(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Return the values as a tensor on ``device``, without waiting for the copy."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and not tensor.is_cuda:
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
