"""The processes of a run: one, or several started by torchrun."""

import os
import shutil
import threading
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from augment.errors import InputError

# Long enough for what the leading process does alone. After it a process that waits in vain fails,
# and torchrun starts all again.
_LONGEST_WAIT = timedelta(minutes=5)
# Processes that join can miss each other, and gloo then waits on past its own limit.
_LONGEST_JOIN_SECONDS = 120.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
_SHARED_MEMORY_OF_NCCL = 64 * 2**20  # bytes; a few MiB for each pair of GPUs that exchange


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of the run; with one process nothing is communicated."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Return this process' equal part of ``total`` slots."""
        if total % self.size:
            raise InputError(f"a batch of {total} does not divide over {self.size} processes")
        part = total // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def concat(self, tensor: Tensor) -> Tensor:
        """Return the equally shaped tensors of all processes, joined in order of rank."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` holds on any process."""
        return bool(self.sum(flag, device))

    def sum(self, number: float, device: torch.device) -> float:
        """Return the sum of a number over the processes."""
        if self.size == 1:
            return number
        return self.sum_(torch.tensor(number, dtype=torch.float64, device=device)).item()

    def lead(self, number: float, device: torch.device) -> float:
        """Return the number that the leading process gives."""
        return self.sum(number if self.leads else 0, device)

    def lowest(self, number: float, device: torch.device) -> float:
        """Return the smallest of the processes' numbers."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return tensor.item()

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: torch.device) -> World:
    """Return the world torchrun describes in the environment; one process without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        # Whoever waits in vain ends, with a failure, and torchrun starts all again.
        limit = threading.Timer(_LONGEST_JOIN_SECONDS, os._exit, [1])
        limit.daemon = True
        limit.start()
        if device.type == "cuda":
            _check_shared_memory()
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device, timeout=_LONGEST_WAIT)
        else:
            dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
        limit.cancel()
    return World(dist.get_rank(), size)


def _check_shared_memory() -> None:
    """Have NCCL do without shared memory where a machine has next to none, such as a container."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        free = 0
    if free < _SHARED_MEMORY_OF_NCCL:
        os.environ.setdefault("NCCL_SHM_DISABLE", "1")
        warnings.warn(
            f"{_SHARED_MEMORY} has {free / 2**20:.0f} MiB free: the GPUs exchange gradients over "
            "the network's sockets, which is slower; a container gets more by --shm-size=1g",
            stacklevel=2,
        )


def leave_world() -> None:
    """End communication, if there was any."""
    if dist.is_initialized():
        dist.destroy_process_group()
