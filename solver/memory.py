"""The memory that training takes on each device, planned before it starts."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from augment.boxes import full_boxes
from augment.errors import InputError
from solver.engine import Engine
from solver.groups import make_group
from solver.model import TRM

_GB = 1e9
_CUDA_CONTEXT = 1.0e9  # the driver's context, its libraries, and what the allocator cannot use
_BYTES_OF_LOGITS = 12 * 8 * 3  # the loss takes them to float64, and keeps a few of these


def plan_memory(model: TRM, num_rows: int, global_batch: int, engine: Engine) -> dict[str, float]:
    """Return the bytes that a training run takes on the device of each process, by purpose.

    ``num_rows``: the trained rows, all of them in the end. What autograd keeps is counted on a
    small example, for any options of the model; all else follows from shapes.
    """
    settings = model.settings
    numbers = sum(parameter.numel() for parameter in model.parameters())
    width = torch.empty((), dtype=engine.dtype).element_size()
    slots = -(-global_batch // engine.world.size)
    # Weights, gradient, two moments and the average, and what is summed over processes.
    copies = 5 + (engine.world.size > 1)
    at_once = min(engine.tokens_per_pass, slots * settings.length) + settings.length
    return {
        "weights": 4.0 * numbers * copies,
        "rows": 4.0 * settings.dim * 2 * num_rows,  # twice while the table grows
        "slots": 2.0 * 2 * width * settings.dim * slots * settings.length,  # old and new y and z
        "activations": at_once * (kept_bytes_per_position(model, engine.dtype) + _BYTES_OF_LOGITS),
        "device": _CUDA_CONTEXT if engine.device.type == "cuda" else 0.0,
    }


def kept_bytes_per_position(model: TRM, dtype: torch.dtype) -> float:
    """Return the bytes that a supervision step keeps for its gradient, for each position."""
    kept = _kept_bytes(model, dtype, model.recompute)
    if model.recompute:  # One pass at a time is computed again, and kept until its gradient is.
        settings = model.settings
        passes = settings.gradient_cycles * (settings.num_latent_steps + 1)
        kept += _kept_bytes(model, dtype, recompute=False) / passes
    return kept


def _kept_bytes(model: TRM, dtype: torch.dtype, recompute: bool) -> float:
    sides = (2, min(4, model.settings.canvas_side))
    (few, less), (many, more) = (_kept_by_one(model, side, dtype, recompute) for side in sides)
    return (more - less) / (many - few) if many > few else more / many


def _kept_by_one(model: TRM, side: int, dtype: torch.dtype, recompute: bool) -> tuple[int, int]:
    """Return the positions of an example with a box of ``side``, and the bytes kept for it."""
    small, device = TRM(model.settings), torch.device("cpu")
    small.recompute = recompute
    boxes = full_boxes(1, side if model.settings.canvas == "box" else model.settings.canvas_side)
    tokens = np.zeros((1, model.settings.canvas_side**2), dtype=np.uint8)
    members, codes = np.arange(1), np.zeros(1, dtype=np.uint32)
    group = make_group(small, device, members, tokens, codes, boxes)
    weights = {parameter.untyped_storage().data_ptr() for parameter in small.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or storages would be freed and their addresses used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    rows_BD = torch.zeros(1, model.settings.dim, requires_grad=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        x_ND = small.embed(group.tokens_N, group.prefix_BP, rows_BD, group.views_BF).to(dtype)
        small(small.start(len(x_ND), dtype), x_ND, group.places, group.prefix_BP)
    return group.num_positions, sum(kept.values())


def require_memory(plan: Mapping[str, float], engine: Engine, limit_gb: float) -> str:
    """Return the plan as a line; raise :class:`InputError` when there is less than it takes.

    ``limit_gb``: 0 takes what a GPU has free, or a machine's whole memory over its processes.
    """
    available = limit_gb * _GB or _free_bytes(engine)
    total = sum(plan.values())
    parts = ", ".join(f"{name} {part / _GB:.2f}" for name, part in plan.items() if part)
    line = f"{total / _GB:.2f} GB planned of {available / _GB:.1f} ({parts})"
    if total > available:
        raise InputError(
            f"memory: {line}; engine.tokens_per_pass={engine.tokens_per_pass // 2} or "
            "engine.recompute=true takes less, and so does a smaller batch"
        )
    return line


def _free_bytes(engine: Engine) -> float:
    if engine.device.type == "cuda":
        return float(torch.cuda.mem_get_info(engine.device)[0])
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf
    with suppress(OSError, ValueError):  # "max" without a limit; another place in older kernels
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
