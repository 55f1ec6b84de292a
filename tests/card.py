"""A device without values: what would run on a GPU runs here as far as shapes and devices go.

Its tensors know their shape, dtype and device, as tensors of torch's fake mode do. A watch sees
every operation: it notes what mixes device and host, and what makes the host wait for the device;
all else it counts. Copies that the code makes without waiting have stand-ins, because pinned memory
and events need a real device.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.weak import WeakIdKeyDictionary

from augment.tokens import PAD
from solver.memory import LiveBytes
from solver.model import Model

ROOT = Path(__file__).resolve().parents[1]
OUR_CODE = tuple(f"{ROOT / folder}{os.sep}" for folder in ("solver", "augment", "pipeline"))
TYPE = "card"
_KERNELS = torch.library.Library("aten", "IMPL")
# Operations beside views that launch nothing on a device.
_FREE = ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "detach")
# Operations by which the host looks at values; they work on what a fetch or an allowed wait gave.
_LOOKS = ("item", "_local_scalar_dense", "detach")
# Operations whose tags say that they wait for values, which they do for masks only.
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_FLASH_DTYPES = (torch.bfloat16, torch.float16)
# Invented tokens: how many of them have a color, so that some boxes are too small.
_COLORED, _COLOR = 1000, 2


class _Backend:
    """What torch asks of a device's module. Nothing is available: no kernel, no generator."""

    device = staticmethod(lambda number: torch.device(TYPE, number))
    is_available = _is_in_bad_fork = staticmethod(lambda: False)
    is_initialized = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    get_amp_supported_dtype = staticmethod(lambda: [])
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda number=0: None)
    set_rng_state = staticmethod(lambda state, number=0: None)


def open_card() -> torch.device:
    """Return the device; to be called once in a process."""
    _setup_privateuseone_for_python_backend(TYPE, _Backend())
    _KERNELS.impl("silu_backward", _silu_backward, "AutogradPrivateUse1")
    return torch.device(TYPE, 0)


def _silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Run as one operation, as on a GPU: devices unknown to torch get several in its place."""
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.aten.silu_backward.default(gradient, x)


def put_on(device: torch.device, model: Model) -> Model:
    """Return a copy of the model whose tensors are on the device."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    copies = {id(tensor): nn.Parameter(moved(tensor)) for tensor in model.parameters()}
    copies |= {id(tensor): moved(tensor) for tensor in model.buffers()}
    return deepcopy(model, copies)


def invent(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return values for a copy of what the device has none of.

    Every other one is true, numbers count up, and the first tokens have a color.
    """
    with _disable_current_modes():
        numbers = torch.arange(math.prod(shape)).reshape(shape)
        if dtype == torch.bool:
            return numbers % 2 == 0
        if dtype == torch.uint8:
            return torch.where(numbers < _COLORED, _COLOR, PAD).to(dtype)
        return torch.full(shape, 0.5) if dtype.is_floating_point else numbers.to(dtype)


class Watch(LiveBytes):
    """Notes faults, and counts operations on the device, the bytes they touch and those alive.

    The bytes of an operation are those of the tensors that it takes and gives.
    """

    finite = True
    """What the device says of all values together."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed: tuple[str, ...] = ()
        """The functions of our code that may wait for the device."""
        self.faults: list[str] = []
        self.waits: Counter[str] = Counter()
        self.sent: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.first_wait: tuple[int, str] | None = None
        """The operations before the first wait for a fetch, and where that is."""
        self.start_step()

    def start_step(self) -> None:
        """Count from here on."""
        self.operations = self.bytes = self.uploads = self.last_backward = self.last_begun = 0
        self.first_wait = None
        self.waits.clear()
        self.peak = self.live

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = list(_tensors((args, tuple(kwargs.values()))))
        if function.namespace == "prim":
            return function(*args, **kwargs)
        name = function._schema.name.partition("::")[2]
        if name in _LOOKS and not isinstance(inputs[0], FakeTensor):
            with _disable_current_modes():
                return function(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            to = args[0].device if name == "copy_" else kwargs.get("device") or args[0].device
            if self._is_waiting_copy(name, inputs[-1].device, to, kwargs.get("non_blocking")):
                return self.values_of(args[0])
        elif _waits_for_values(function, name, inputs):
            self._note_wait(name)
            if name == "_local_scalar_dense":
                with _disable_current_modes():
                    return self.values_of(args[0]).item()
        elif len({tensor.device for tensor in inputs if _counts_as_mixed(tensor)}) > 1:
            self.faults.append(f"{name} takes tensors of {TYPE} and cpu: {whereabouts()}")
        elif function.namespace == "c10d" and any(x.device.type != TYPE for x in inputs):
            self.faults.append(f"{name} takes tensors of cpu: {whereabouts()}")
        elif name in ("_varlen_attn", "_efficient_attention_forward"):
            self._check_attention(name, inputs)
        made = function(*args, **kwargs)
        self._count_operation(function, name, inputs, list(_tensors((made,))))
        return made

    def _is_waiting_copy(self, name, source, to, non_blocking) -> bool:
        """Whether the copy's values are awaited on the host; notes copies that wait."""
        if source.type == to.type or (to.type == TYPE and non_blocking):
            return False
        self._note_wait(f"{name} from {source.type} to {to.type}")
        return to.type == "cpu" and name == "_to_copy"

    def _note_wait(self, what: str) -> None:
        place = whereabouts()
        function = place.rpartition(" in ")[2]
        if function in self.allowed:
            self.waits[function] += 1
        else:
            self.faults.append(f"{what} waits for the device: {place}")

    def _check_attention(self, name: str, inputs: list[Tensor]) -> None:
        """Note what the kernels of a GPU refuse, which those without values do not look at."""
        q, bounds = inputs[0], inputs[3:5]
        right = all(bound.dtype == torch.int32 and bound.is_contiguous() for bound in bounds)
        right &= all(tensor.stride(-1) == 1 for tensor in inputs[:3]) and q.shape[-1] % 8 == 0
        right &= name != "_varlen_attn" or q.dtype in _FLASH_DTYPES
        if not right:
            self.faults.append(f"{name} does not take such tensors: {whereabouts()}")

    def _count_operation(self, function, name, inputs, outputs) -> None:
        if not any(tensor.device.type == TYPE for tensor in (*inputs, *outputs)):
            return
        for tensor in outputs:
            self._count(tensor.untyped_storage())
        if function.is_view or name in _FREE:
            return
        self.operations += 1
        self.bytes += sum(map(_bytes_of, (*inputs, *outputs)))
        if torch._C._current_autograd_node() is not None:
            self.last_backward = self.operations

    def values_of(self, tensor: Tensor) -> Tensor:
        """Return what was sent as this tensor, or invented values."""
        if tensor in self.sent:
            with _disable_current_modes():
                return torch.from_numpy(self.sent[tensor].copy())
        if tensor.dtype == torch.bool and tensor.ndim == 0:
            with _disable_current_modes():
                return torch.tensor(self.finite)
        return invent(tuple(tensor.shape), tensor.dtype)

    def to_device(self, values: np.ndarray | Tensor, device: torch.device) -> Tensor:
        """Stand in for ``solver.device.to_device``."""
        if isinstance(values, Tensor) and values.device.type == device.type:
            return values
        dtype = values.dtype if isinstance(values, Tensor) else getattr(torch, values.dtype.name)
        made = torch.empty(values.shape, dtype=dtype, device=device)
        self.uploads += device.type == TYPE
        if not isinstance(values, Tensor):
            self.sent[made] = values
        return made

    def begin_fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Stand in for ``solver.device.begin_fetch``."""
        if tensor.device.type != TYPE:
            self.faults.append(f"a copy of what is on the host already: {whereabouts()}")
        self.last_begun = begun = self.operations
        values = self.values_of(tensor)

        def wait() -> Tensor:
            self.first_wait = self.first_wait or (self.operations, whereabouts())
            self.waits["fetch of the newest" if begun == self.last_begun else "fetch"] += 1
            return values

        return wait


@contextmanager
def watched() -> Iterator[Watch]:
    """Have tensors without values made, watched, and sent and fetched by the stand-ins."""
    watch = Watch()
    modules = [module for name, module in sys.modules.items() if name.startswith("solver.")]
    with ExitStack() as stack:
        for module, name in product(modules, ("to_device", "begin_fetch")):
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, getattr(watch, name)))
        stack.enter_context(patch("solver.model.choose_kernel", choose_kernel))
        # Parameters without values cannot be moved; put_on did it.
        stack.enter_context(patch.object(Model, "to", lambda model, device: model))
        # All of a backward pass in this thread, where its caller can be told.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(FakeTensorMode())
        yield stack.enter_context(watch)


def choose_kernel(device: torch.device, dtype: torch.dtype) -> str:
    """Stand in for what asks a GPU: one that has bfloat16 runs FlashAttention, a T4 does not."""
    assert device.type == TYPE
    return "flash" if dtype == torch.bfloat16 else "efficient"


def whereabouts() -> str:
    """Return file, line and function of our code that called, through autograd or not."""
    frame, node = sys._getframe(1), torch._C._current_autograd_node()
    while frame is not None and not frame.f_code.co_filename.startswith(OUR_CODE):
        frame = frame.f_back
    if frame is None:
        return "outside of our code"
    path = Path(frame.f_code.co_filename).relative_to(ROOT)
    backward = f" ({node.name()})" if node is not None else ""
    return f"{path}:{frame.f_lineno}{backward} in {frame.f_code.co_qualname}"


def _tensors(values) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _waits_for_values(function, name: str, inputs: list[Tensor]) -> bool:
    if not any(tensor.device.type == TYPE for tensor in inputs):
        return False
    if name in _INDEXING:
        return any(tensor.dtype == torch.bool for tensor in inputs[1:])
    tags = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in function.tags for tag in tags)


def _counts_as_mixed(tensor: Tensor) -> bool:
    """Whether it is a tensor of the device, or of the host and more than a number."""
    return tensor.device.type == TYPE or tensor.ndim > 0


def _bytes_of(tensor: Tensor) -> int:
    """Return the bytes of its elements; those that lie in one place count once."""
    if tensor.device.type != TYPE:
        return 0
    sizes = (size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return math.prod(sizes) * tensor.itemsize
