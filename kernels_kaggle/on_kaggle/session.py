"""One run of a notebook on Kaggle: its package, its time, and the machine it runs on."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from augment.files import hash_file
from kernels_kaggle.exchange import Manifest
from pipeline.console import say
from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.settings import Settings

SESSION_SECONDS = 42_600.0
"""What a notebook may take: Kaggle ends it after 12 hours; ten minutes are left."""

_NUM_GPUS = {"NvidiaL4": 4, "NvidiaTeslaT4": 2}  # of the machines with more than one


@dataclass(frozen=True, slots=True)
class Session:
    """What is fixed from the first cell of a notebook to its last."""

    package: Path
    manifest: Manifest
    settings: Settings
    run: Run
    working: Path
    """The folder whose files Kaggle keeps as the notebook's output."""
    started: float
    """The Unix time at which the notebook began."""
    is_rerun: bool
    """Whether Kaggle runs the notebook on the hidden tasks to score it."""

    @classmethod
    def open(cls, package: Path, working: Path, started: float, is_rerun: bool) -> "Session":
        """Return the session of a package, of which every file has its SHA-256."""
        manifest = Manifest.read(package)
        settings = load_recipe(manifest.recipe, manifest.changes)
        run = Run(working / "runs" / manifest.run)
        return cls(package, manifest, settings, run, working, started, is_rerun)

    def end(self, limit_seconds: float) -> float:
        """Return the Unix time at which the session, or a limit (0 = none) within it, is over."""
        return self.started + min(limit_seconds or SESSION_SECONDS, SESSION_SECONDS)


def print_banner(session: Session, *files: Path) -> None:
    """Print the machine, the versions, and the hashes of ``files``.

    Outside a scored rerun it is a RuntimeError when there are fewer GPUs than on the machine that
    the package was made for.
    """
    manifest = session.manifest
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    say(f"machine: {os.cpu_count()} CPUs, {memory:.0f} GB, {platform.platform()}")
    gpus = list_gpus()
    for number, gpu in enumerate(gpus):
        say(f"GPU {number}: {gpu}")
    names = ("torch", "numpy", "numba", "adam-atan2-pytorch", "arc-trm")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    say(f"Python {platform.python_version()}, {', '.join(versions)}")
    say(f"package: {session.package}, code {manifest.code_version}, {manifest.licence}")
    say(f"recipe {manifest.recipe} {shlex.join(manifest.changes)}")
    for path in files:
        say(f"{path}: SHA-256 {hash_file(path)[:16]}")
    say("scored rerun" if session.is_rerun else "a run outside the scoring")
    machine = manifest.machine_shape
    expected = _NUM_GPUS.get(machine, 1) if machine else 0
    if len(gpus) < expected and not session.is_rerun:
        raise RuntimeError(
            f"{len(gpus)} GPUs here, but {machine} has {expected}: choose the accelerator in the "
            "notebook's settings, or package with another kaggle.machine_shape="
        )


def list_gpus() -> list[str]:
    """Return a line for each GPU, from the driver: torch would take memory of the first one."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()
