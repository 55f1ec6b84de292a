"""Which device computes, in which precision, in how many processes."""

import os
from dataclasses import dataclass

import torch

from augment.errors import InputError
from solver.model import TRM
from solver.settings import EngineSettings
from solver.world import World, join_world

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Engine:
    """Where this process computes, and how; its world says beside whom."""

    device: torch.device
    dtype: torch.dtype
    compile: bool
    world: World

    def prepare(self, model: TRM) -> TRM:
        """Return the model, moved here in place and compiled where that is asked for."""
        if self.compile:
            model.net.compile()  # in place: the names of the weights stay as they are
        return model.to(self.device)


def open_engine(settings: EngineSettings) -> Engine:
    """Return the engine of this process, joined with the others that torchrun started."""
    device = choose_device(settings)
    return Engine(device, choose_dtype(settings, device), settings.compile, join_world(device))


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
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    # AVX-512 BF16 comes with every CPU that has AMX, where products run several times faster.
    has_bf16 = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
