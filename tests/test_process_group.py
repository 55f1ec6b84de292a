"""The processes of a run: how they share a batch, and what ends those that wait in vain."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from commands import ROOT

from augment.errors import InputError
from solver import process_group
from solver.process_group import ProcessGroup


def test_a_process_that_waits_in_vain_for_others_to_join_ends_with_a_failure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    script = (
        "import torch, solver.process_group as module\n"
        "module._LONGEST_JOIN_SECONDS = 0.5\n"
        "module.join_process_group(torch.device('cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **address, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "RANK": "0"},
        timeout=100,
    )
    assert done.returncode == 1


def test_gpus_do_without_shared_memory_where_there_is_none(monkeypatch):
    monkeypatch.delenv("NCCL_SHM_DISABLE", raising=False)
    monkeypatch.setattr(
        process_group.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30)
    )
    process_group._check_shared_memory()
    assert "NCCL_SHM_DISABLE" not in os.environ
    monkeypatch.setenv("NCCL_SHM_DISABLE", "0")  # so that it is put back
    monkeypatch.delenv("NCCL_SHM_DISABLE")
    monkeypatch.setattr(process_group, "_SHARED_MEMORY", "/no/such/folder")
    monkeypatch.setattr(process_group.shutil, "disk_usage", os.statvfs)
    with pytest.warns(UserWarning, match=r"has 0 MiB free: .* --shm-size=1g"):
        process_group._check_shared_memory()
    assert os.environ["NCCL_SHM_DISABLE"] == "1"


def test_each_process_takes_its_equal_share():
    assert ProcessGroup().share(6) == slice(0, 6)
    assert [ProcessGroup(rank, 3).share(6) for rank in range(3)] == [
        slice(0, 2), slice(2, 4), slice(4, 6)
    ]  # fmt: skip
    with pytest.raises(InputError, match="a batch of 7 does not divide over 3 processes"):
        ProcessGroup(0, 3).share(7)
