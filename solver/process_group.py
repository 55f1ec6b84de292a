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
from torch.distributed.rendezvous import rendezvous

from augment.errors import InputError

# Longer than anything rank 0 does alone. A process that waits longer fails, and torchrun restarts
# all processes.
_LONGEST_WAIT = timedelta(minutes=5)
# Processes that wait for one that never comes wait in gloo past its own timeout.
_LONGEST_JOIN_SECONDS = 120.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
_SHARED_MEMORY_OF_NCCL = 64 * 2**20  # bytes; a few MiB for each pair of GPUs that exchange data


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among those of the run; with one process nothing is communicated."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    """Where tensors must lie to be exchanged."""

    @property
    def is_rank0(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Return this process' equal part of ``total`` lanes; InputError where none is equal."""
        if total % self.size:
            raise InputError(
                f"a batch of {total} does not divide over {self.size} processes: change "
                "train.global_batch or adapt.global_batch"
            )
        part = total // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over the processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the equally shaped tensors of all processes, joined in order of rank."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def all_gather_bytes(self, content: bytes) -> list[bytes]:
        """Return the bytes of all processes, in order of rank."""
        if self.size == 1:
            return [content]
        lengths = self.all_gather(torch.tensor([len(content)], device=self.device)).tolist()
        padded = bytearray(content.ljust(max(1, *lengths), b"\0"))
        mine = torch.frombuffer(padded, dtype=torch.uint8).to(self.device)
        parts = self.all_gather(mine).cpu().numpy().reshape(self.size, -1)
        return [part[:length].tobytes() for part, length in zip(parts, lengths, strict=True)]

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` holds on any process."""
        return bool(self.sum(flag))

    def sum(self, number: float) -> float:
        """Return the sum of a number over the processes."""
        if self.size == 1:
            return number
        return self.all_reduce(self._tensor(number)).item()

    def min(self, number: float) -> float:
        """Return the smallest of the processes' numbers."""
        if self.size == 1:
            return number
        tensor = self._tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return tensor.item()

    def broadcast(self, number: float) -> float:
        """Return the number of rank 0."""
        return self.sum(number if self.is_rank0 else 0)

    def barrier(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()

    def _tensor(self, number: float) -> Tensor:
        return torch.tensor(number, dtype=torch.float64, device=self.device)


def join_process_group(device: torch.device) -> ProcessGroup:
    """Return the group that torchrun describes in the environment; one process without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup(device=device)
    if not dist.is_initialized():
        # A process whose partners never come ends with a failure, and torchrun restarts all.
        limit = threading.Timer(_LONGEST_JOIN_SECONDS, os._exit, [1])
        limit.daemon = True
        limit.start()
        if device.type == "cuda":
            _check_shared_memory()
            torch.cuda.set_device(device)
            _init_process_group("nccl", device)
        else:
            _init_process_group("gloo", None)
        limit.cancel()
    return ProcessGroup(dist.get_rank(), size, device)


def _init_process_group(backend: str, device: torch.device | None) -> None:
    """Join the processes that torchrun started together with this one.

    torchrun keeps one store over all its restarts (pytorch issue 135712), in which a new process
    can find the address of a dead one. So each restart gets keys of its own. On several nodes the
    restarts are counted differently; there torchrun itself must be told, see docs/DEADLINES.md.
    """
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # one node
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"restart {restart}", store)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=_LONGEST_WAIT, device_id=device
    )


def _check_shared_memory() -> None:
    """Turn off NCCL's use of shared memory where there is next to none, as in some containers."""
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


def leave_process_group() -> None:
    """Leave the group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
