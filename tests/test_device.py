"""A process takes the card that is its own, and says why there is none."""

import pytest
import torch

from augment.errors import InputError
from solver import device
from solver.device import choose_device, choose_dtype
from solver.engine import open_engine
from solver.settings import EngineSettings

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


def test_devices_and_dtypes_that_are_not_here():
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"^engine\.device=cuda, but"):
            open_engine(EngineSettings(device="cuda"), print)
    chosen = choose_dtype(EngineSettings(), torch.device("cpu"))
    assert chosen in (torch.bfloat16, torch.float32)
