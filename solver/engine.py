"""The engine: device, dtype and process group of a run, and how much is computed at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from augment.errors import InputError
from solver.attention import HAS_VARLEN
from solver.device import choose_device, choose_dtype, prepare_device
from solver.model import Model, run_recursion
from solver.process_group import ProcessGroup, join_process_group
from solver.settings import EngineSettings

# Positions of a pass, unless the settings or the memory plan of a training run say otherwise. A CPU
# gains nothing beyond its caches. A GPU predicts this many between two looks at the deadline.
_POSITIONS_PER_PASS = {"cpu": 4096, "cuda": 65_536}
# Training, training of puzzle rows alone, prediction, and float32 for views that leave float16's
# range need a compiled graph each, with and without gradient; torch's own limit is 8.
_MOST_GRAPHS = 64

Result = TypeVar("Result")


@dataclass(slots=True)
class Engine:
    """Device, dtype and process group of this process, and how much it computes at once."""

    device: torch.device
    dtype: torch.dtype
    compile: bool = False
    recompute: bool = False
    planned_positions: int = _POSITIONS_PER_PASS["cpu"]
    """Positions predicted together, the same on every process."""
    group: ProcessGroup = field(default_factory=ProcessGroup)
    say: Callable[[str], object] = print
    plans_by_memory: bool = False
    """Whether a training run sets ``positions_per_pass`` by the memory it finds free."""
    positions_per_pass: int = field(init=False)
    """At first ``planned_positions``. A memory plan sets it anew, to more or less; an out-of-memory
    error of this process halves it."""
    _compiled_recursion: Callable[..., Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.positions_per_pass = self.planned_positions

    def describe(self) -> str:
        """Return where the engine computes, for the log."""
        processes = f", {self.group.size} processes" if self.group.size > 1 else ""
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}{processes}"

    def prepare(self, model: Model) -> Model:
        """Return the model, moved here in place and compiled where that is asked for."""
        model.recompute = self.recompute
        if self.compile and self._compiled_recursion is None:
            torch._dynamo.config.recompile_limit = _MOST_GRAPHS
            # The latent recursion, which a supervision step repeats: one layer would leave sums
            # between the passes uncompiled, and a whole step takes minutes to compile.
            self._compiled_recursion = torch.compile(run_recursion, dynamic=True)
        model.recursion = self._compiled_recursion or run_recursion
        return model.to(self.device)

    def retry(self, model: Model, compute: Callable[[], Result]) -> Result:
        """Return the result of ``compute``; retry it after an error that can be worked around.

        After an out-of-memory error passes are half as large, and after a failed compilation
        ``model`` runs uncompiled; a line of the log says so, of the compilation only once the
        uncompiled pass has succeeded, as the bug may be our own. Raises :class:`InputError` when a
        pass of one example takes too much memory.
        """
        failure = ""
        while True:
            try:
                result = compute()
            except torch.OutOfMemoryError:
                self._halve()
            except (InputError, FloatingPointError):
                raise
            except Exception as error:
                if self._compiled_recursion is None:
                    if failure:
                        error.add_note(f"before that, the compiled model failed: {failure}")
                    raise
                self._compiled_recursion, self.compile = None, False
                model.recursion = run_recursion
                # A compiler's own first line says that it failed, the second why.
                reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
                failure = reason[:200]
            else:
                if failure:
                    self.say(
                        f"{self.device}: warning: the compiled model failed, going on without "
                        f"compiling, slower (engine.compile=false avoids this): {failure}"
                    )
                return result

    def _halve(self) -> None:
        reached = self.positions_per_pass
        if reached == 1:
            raise InputError(
                f"{self.device}: out of memory with one example at a time; engine.recompute="
                "true takes less, and so does a smaller model"
            )
        torch.cuda.empty_cache()
        self.positions_per_pass = reached // 2
        self.say(
            f"{self.device}: out of memory, going on with engine.positions_per_pass="
            f"{self.positions_per_pass} instead of {reached}"
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
        settings.positions_per_pass or _POSITIONS_PER_PASS[device.type],
        join_process_group(device),
        say,
        plans_by_memory=device.type == "cuda" and not settings.positions_per_pass,
    )
