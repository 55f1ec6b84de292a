"""Machines that a run may find: a cold cache, a full disk for it, a checkout of somebody else."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.version import ROOT

_FOREIGN_USER = "12345"  # without a name and a home
_IGNORED = shutil.ignore_patterns(".*", "__pycache__", "runs", "docs")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a command runs."""

    name: str
    checkout: Path = ROOT
    launch: tuple[str, ...] = ()
    """What the command is an argument of."""
    cache: Path | None = None
    """Where the machine code of numba is kept, a folder for each run; None: where it is usually."""

    def environment(self, run: str) -> dict[str, str]:
        """Return the environment of a command for the run of this name."""
        cache = {} if self.cache is None else {"NUMBA_CACHE_DIR": str(self.cache / run)}
        return {**os.environ, "PYTHONPATH": str(self.checkout), "PYTHONUNBUFFERED": "1", **cache}


USUAL = Machine("usual")


@contextmanager
def open_machines(folder: Path) -> Iterator[list[Machine]]:
    """Yield the machines that can be had here, the usual one first; their parts lie in ``folder``.

    ``cold cache``: numba finds nothing compiled. ``cold, full disk``: nor room to keep it.
    ``foreign user``: nor a name, a home, or a folder of the checkout that it may write to.
    """
    with ExitStack() as stack:
        machines = [USUAL]
        machines.append(Machine("cold cache", cache=folder / "cold"))
        if stack.enter_context(small_disk(folder / "full", 4)):
            machines.append(Machine("cold, full disk", cache=folder / "full"))
        launch = ("unshare", "--user", f"--map-user={_FOREIGN_USER}", "env", "-u", "HOME")
        if _works(*launch, "true"):
            checkout = folder / "checkout"
            shutil.copytree(ROOT, checkout, ignore=_IGNORED)
            _works("chmod", "-R", "a-w", str(checkout))
            stack.callback(_works, "chmod", "-R", "u+w", str(checkout))
            machines.append(Machine("foreign user", checkout, launch))
        yield machines


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Make ``folder`` a disk of its own of this size; yield whether that was allowed."""
    folder.mkdir(parents=True)
    size = f"size={kilobytes}k"
    if not _works("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _works(*command: str) -> bool:
    """Return whether a command exists and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True).returncode == 0
