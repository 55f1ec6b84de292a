"""One call of `make gpu`: the time it has, what earlier calls left, and the programs it runs."""

import json
import math
import subprocess
import sys
import threading
import time
from argparse import Namespace
from contextlib import suppress
from typing import Any

from gpu_state import RUN, STATE, unpack

SCORE_SHARE, LEAST_SCORE_SECONDS = 0.12, 60.0  # of all the time, to answer the evaluation tasks
SAVING_SECONDS = 20.0  # of each piece, for the files at its end
SECONDS_TO_END = 40.0  # of a program whose time is over
# What a test on a CPU does instead.
SMALL = (
    "data.max_side=6 model.canvas_side=6 data.views_per_task=7 model.num_heads=2 model.dim=32 "
    "train.global_batch=8 predict.num_views=2 engine.device=cpu engine.compile=false"
)
SMALL_SCALE = 0.2  # of the seconds of each part


class Program:
    """One call: how much time it has, and what earlier calls left."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.start = time.monotonic()
        self.scale = SMALL_SCALE if options.small else 1.0
        unpack(options.source or options.to)
        self.state: dict[str, Any] = {"spent_seconds": 0.0, "held_out": [], "legs": []}
        if STATE.exists():
            self.state |= json.loads(STATE.read_text())
        self.spent_before = self.state["spent_seconds"]

    @property
    def spent(self) -> float:
        """Seconds of all calls."""
        return float(self.spent_before + time.monotonic() - self.start)

    @property
    def left(self) -> float:
        """Seconds of all that are planned."""
        return 60 * self.options.minutes - self.spent

    @property
    def left_here(self) -> float:
        """Seconds of this call, without those it needs at its end."""
        piece = 60 * self.options.piece_minutes or math.inf
        return piece - (time.monotonic() - self.start) - SAVING_SECONDS * self.scale

    @property
    def score_seconds(self) -> float:
        """Seconds that are kept for the evaluation tasks, where they are to be answered."""
        if "score" not in self.options.phases:
            return 0.0
        least = LEAST_SCORE_SECONDS * self.scale
        return max(least, SCORE_SHARE * 60 * self.options.minutes)

    def keep(self) -> None:
        """Write the state of the program."""
        self.state["spent_seconds"] = round(self.spent, 1)
        RUN.mkdir(parents=True, exist_ok=True)
        STATE.write_text(json.dumps(self.state, indent=2) + "\n")

    def run(self, *command: str, seconds: float, capture: bool = False) -> str:
        """Run a Python program and return what it printed, if that is captured.

        It is asked to end when its seconds are over, and killed when it does not.
        """
        output = subprocess.PIPE if capture else None
        with subprocess.Popen([sys.executable, *command], stdout=output, text=True) as process:
            try:
                printed, _ = process.communicate(timeout=min(seconds, threading.TIMEOUT_MAX))
            except subprocess.TimeoutExpired:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS_TO_END)
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return printed or ""

    def settings(self, *changes: str) -> str:
        """Return the changed settings of every stage."""
        return " ".join([*([SMALL] if self.options.small else []), *changes])
