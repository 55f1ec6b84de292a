"""What is not here, or not enough, is said in one line with what to do."""

import os
from types import SimpleNamespace

import pytest
import torch

from augment.errors import InputError
from solver import device, world
from solver.device import choose_device
from solver.engine import Engine
from solver.model import TRM
from solver.settings import EngineSettings, ModelSettings

CUDA = EngineSettings(device="cuda")


@pytest.fixture
def one_card(monkeypatch):
    """A machine with one card, as far as torch is asked; each test says what it can do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    return monkeypatch


def test_each_process_has_a_card_of_its_own(one_card):
    assert choose_device(CUDA) == choose_device(EngineSettings()) == torch.device("cuda", 0)
    one_card.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match=r"^more processes than the 1 GPUs .*: NPROC=1$"):
        choose_device(EngineSettings())
    assert choose_device(EngineSettings(device="cpu")) == torch.device("cpu")


def test_a_card_that_torch_has_no_kernels_for_is_refused(one_card):
    one_card.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with pytest.raises(InputError, match=r"^Tesla has compute capability 6\.1; .* 7\.5 and newer"):
        choose_device(CUDA)


@pytest.mark.parametrize(
    ("cuda", "warning", "named"),
    [
        (None, "", "built without CUDA"),
        ("13.0", "", "nvidia-smi shows"),
        ("13.0", "The NVIDIA driver on your system is too old", "driver is older than CUDA 13.0"),
    ],
)
def test_why_there_is_no_card_is_said(monkeypatch, cuda, warning, named):
    def is_available():
        if warning:
            device.warnings.warn(warning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with device.warnings.catch_warnings():
        device.warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=named):
            choose_device(CUDA)


def test_heads_that_a_gpu_cannot_read_are_refused():
    engine = Engine(torch.device("cuda"), torch.bfloat16)
    model = TRM(ModelSettings(canvas_side=3, dim=24, num_heads=2))
    with pytest.raises(InputError, match="is 12; on a GPU it must be a multiple of 8"):
        engine.prepare(model)


def test_gpus_do_without_shared_memory_where_there_is_none(monkeypatch):
    monkeypatch.delenv("NCCL_SHM_DISABLE", raising=False)
    monkeypatch.setattr(world.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    world._check_shared_memory()
    assert "NCCL_SHM_DISABLE" not in os.environ
    monkeypatch.setenv("NCCL_SHM_DISABLE", "0")  # so that it is put back
    monkeypatch.delenv("NCCL_SHM_DISABLE")
    monkeypatch.setattr(world, "_SHARED_MEMORY", "/no/such/folder")
    monkeypatch.setattr(world.shutil, "disk_usage", os.statvfs)
    with pytest.warns(UserWarning, match=r"has 0 MiB free: .* --shm-size=1g"):
        world._check_shared_memory()
    assert os.environ["NCCL_SHM_DISABLE"] == "1"
