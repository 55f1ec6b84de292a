"""The stage export: copy the newest weights of a run, without what only training needs."""

from pathlib import Path

from augment.errors import InputError
from pipeline.console import say
from pipeline.run import Run
from solver.checkpoint_files import latest_checkpoint
from solver.rounding import Precision
from solver.weights import export_weights


def export(run: Run, destination: Path, precision: Precision = "float32") -> None:
    """Write the run's newest weights into the folder ``destination``."""
    latest = latest_checkpoint(run.checkpoints)
    if latest is None:
        raise InputError(f"{run.checkpoints}: no checkpoint to export")
    export_weights(latest, destination, precision)
    num_bytes = sum(path.stat().st_size for path in destination.iterdir())
    say(f"export: {latest} to {destination}, {num_bytes / 1e6:.1f} MB")
