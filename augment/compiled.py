"""Loops compiled by numba, whose machine code is kept between runs where there is room for it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import caching


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled at its first call; it lets other threads run meanwhile.

    Its machine code is kept beside the source or in the user's cache, as numba does. Where neither
    can be written, the disk is full, or what is kept is damaged, it is compiled in every process.
    """
    dispatcher: Any = njit(nogil=True)(function)
    with suppress(RuntimeError):  # of numba, for want of a folder; of Path, for want of a home
        Path.home()  # numba would take "~" for the name of a folder here
        dispatcher._cache = _Cache(function)  # as numba's cache=True does
    return dispatcher  # type: ignore[no-any-return]


_FunctionCache: Any = caching.FunctionCache


class _Cache(_FunctionCache):  # type: ignore[misc]
    """Numba's cache, whose failures cost time and nothing else."""

    def load_overload(self, *arguments: object) -> object:
        """Return what is kept for a signature; None where there is nothing, or it is damaged."""
        try:
            return super().load_overload(*arguments)
        except Exception:  # whatever a damaged file leads to
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, *arguments: object) -> None:
        """Keep what was compiled for a signature, if the disk takes it."""
        with suppress(OSError):
            super().save_overload(*arguments)
