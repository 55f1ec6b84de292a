"""Which device computes, in which precision, how much at once, in how many processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from augment.errors import InputError
from solver.attention import HAS_VARLEN
from solver.device import choose_device, choose_dtype, prepare_device
from solver.model import TRM
from solver.settings import EngineSettings
from solver.world import World, join_world

# Positions computed together unless the settings or the memory plan of a training say otherwise.
# A CPU gains nothing beyond its caches. On a GPU, which training fills up to its memory, this many
# views are predicted between two looks at the clock.
_TOKENS_PER_PASS = {"cpu": 4096, "cuda": 65_536}
_HEAD_WIDTH_STEP = 8  # GPUs' attention kernels read this many values of a head at once
# Training, a frozen trunk, prediction, and float32 for views that leave float16's range need a
# compiled cycle each, with and without gradient; torch's own limit is 8.
_MOST_GRAPHS = 64

Result = TypeVar("Result")


@dataclass(slots=True)
class Engine:
    """Device, dtype and process group of this process, and how much it computes at once."""

    device: torch.device
    dtype: torch.dtype
    compile: bool = False
    recompute: bool = False
    planned_tokens: int = _TOKENS_PER_PASS["cpu"]
    """Positions predicted together, the same on every process."""
    world: World = field(default_factory=World)
    say: Callable[[str], object] = print
    plans_by_memory: bool = False
    """Whether ``tokens_per_pass`` is to follow from the memory that a training finds free."""
    tokens_per_pass: int = field(init=False)
    """What is left of ``planned_tokens`` after the memory of this process did not suffice."""
    _compiled_cycle: Callable[..., Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.tokens_per_pass = self.planned_tokens

    def prepare(self, model: TRM) -> TRM:
        """Return the model, moved here in place and compiled where that is asked for."""
        settings = model.settings
        if self.device.type != "cpu" and settings.variant == "attention":
            width = settings.dim // settings.num_heads
            if width % _HEAD_WIDTH_STEP:
                raise InputError(
                    f"model.dim / model.num_heads is {width}; on a GPU it must be a multiple of "
                    f"{_HEAD_WIDTH_STEP}"
                )
        model.recompute = self.recompute
        if self.compile and self._compiled_cycle is None:
            torch._dynamo.config.recompile_limit = _MOST_GRAPHS
            # The cycle, which a supervision step repeats: one layer would leave sums between the
            # passes uncompiled, and a whole step takes minutes to compile.
            self._compiled_cycle = torch.compile(TRM.cycle, dynamic=True)
        model.run_cycle = self._compiled_cycle or TRM.cycle
        return model.to(self.device)

    def attempt(self, model: TRM, compute: Callable[[], Result]) -> Result:
        """Return what ``compute`` returns with ``model``, called again after what can be mended.

        After an out-of-memory error half as much is computed at once, and where compiling fails
        the model runs as it is; a line says so. Raises :class:`InputError` when even a single
        example at once takes too much.
        """
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError:
                self._halve()
            except (InputError, FloatingPointError):
                raise
            except Exception as error:
                if self._compiled_cycle is None:
                    raise
                self._compiled_cycle, self.compile = None, False
                model.run_cycle = TRM.cycle
                # A compiler's own first line says that it failed, the second why.
                reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
                self.say(
                    f"{self.device}: warning: the compiled model failed, going on without "
                    f"compiling, slower (engine.compile=false avoids this): {reason[:200]}"
                )

    def _halve(self) -> None:
        reached = self.tokens_per_pass
        if reached == 1:
            raise InputError(
                f"{self.device}: out of memory with one example at a time; engine.recompute="
                "true takes less, and so does a smaller model"
            )
        torch.cuda.empty_cache()
        self.tokens_per_pass = reached // 2
        self.say(
            f"{self.device}: out of memory, going on with engine.tokens_per_pass="
            f"{self.tokens_per_pass} instead of {reached}"
        )


def open_engine(settings: EngineSettings, say: Callable[[str], object]) -> Engine:
    """Return the engine of this process, joined with the others that torchrun started."""
    device = choose_device(settings)
    prepare_device(device)
    if device.type == "cuda" and not HAS_VARLEN:
        say(f"torch {torch.__version__} has no varlen_attn, as torch 2.10 has: attention is slower")
    return Engine(
        device,
        choose_dtype(settings, device),
        device.type == "cuda" if settings.compile == "auto" else settings.compile == "true",
        settings.recompute,
        settings.tokens_per_pass or _TOKENS_PER_PASS[device.type],
        join_world(device),
        say,
        plans_by_memory=device.type == "cuda" and not settings.tokens_per_pass,
    )
