"""Which device computes, in which precision, how much at once, in how many processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from augment.errors import InputError
from solver.device import choose_device, choose_dtype
from solver.model import TRM
from solver.settings import EngineSettings
from solver.world import World, join_world

# A CPU gains nothing beyond its caches. A GPU keeps some 200 KB for each position at width 512,
# and larger groups would mix lengths that its masked attention fills up.
_TOKENS_PER_PASS = {"cpu": 4096, "cuda": 32_768}

Result = TypeVar("Result")


@dataclass(slots=True)
class Engine:
    """Where this process computes, and how; its world says beside whom."""

    device: torch.device
    dtype: torch.dtype
    compile: bool = False
    recompute: bool = False
    planned_tokens: int = _TOKENS_PER_PASS["cpu"]
    """Positions computed together, the same on every process."""
    world: World = field(default_factory=World)
    say: Callable[[str], object] = print
    tokens_per_pass: int = field(init=False)
    """What is left of ``planned_tokens`` after the memory of this process did not suffice."""

    def __post_init__(self) -> None:
        self.tokens_per_pass = self.planned_tokens

    def prepare(self, model: TRM) -> TRM:
        """Return the model, moved here in place and compiled where that is asked for."""
        model.recompute = self.recompute
        if self.compile:
            # In place: the names of the weights stay as they are. One layer is compiled for all,
            # in half the time of the whole pass and as fast; lengths differ between groups.
            for layer in model.net.layers:
                layer.compile(dynamic=True)
        return model.to(self.device)

    def within_memory(self, compute: Callable[[], Result]) -> Result:
        """Return what ``compute`` returns, called again with half as much at once if it must be.

        Raises :class:`InputError` when even a single example at once takes too much.
        """
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError:
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
    return Engine(
        device,
        choose_dtype(settings, device),
        settings.compile,
        settings.recompute,
        settings.tokens_per_pass or _TOKENS_PER_PASS[device.type],
        join_world(device),
        say,
    )
