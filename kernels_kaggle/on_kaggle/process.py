"""Runs a stage of the program in processes of its own, on all GPUs, until a deadline."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from augment.errors import InputError
from kernels_kaggle.exchange import Stage
from kernels_kaggle.on_kaggle.session import Session, list_gpus
from pipeline.console import say

_TRIES = 3  # of a stage; each goes on from where the last one was
_LEAST_SECONDS = 30.0  # that must be left for another try
_SECONDS_BETWEEN_LOOKS = 60.0  # at the program
_SECONDS_TO_READ = 10.0  # the last lines of a program that has ended
_ASSEMBLER = Path("/usr/local/cuda/bin/ptxas")  # of the image; Triton may look for it elsewhere


def run_stage(
    stage: Stage,
    session: Session,
    changes: Callable[[], Sequence[str]],
    end: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Run a stage with changed settings until it is done; at the Unix time ``end`` it is killed.

    ``changes`` gives the changed settings of a try, some of which may depend on the time. In
    between ``meanwhile`` is called every minute. A stage that fails is tried again, the last time
    in one process, as a GPU may have failed. Prediction outside a scored rerun is neither tried nor
    started again: that run is there to show whether all works. It is a RuntimeError when the last
    try fails or is killed.
    """
    manifest = session.manifest
    is_trial = stage == "predict" and not session.is_rerun
    for number in range(1 if is_trial else _TRIES):
        launch = ["-m", "pipeline"]
        if len(gpus := list_gpus()) > 1 and (is_trial or number < _TRIES - 1):
            restarts = ["--max-restarts", "0" if is_trial else "3"]
            processes = ["--nproc-per-node", str(len(gpus))]
            launch = ["-m", "torch.distributed.run", "--standalone", *restarts, *processes, *launch]
        settings = shlex.join([*manifest.changes, *changes()])
        options = ["--recipe", manifest.recipe, "--run-name", manifest.run, "--set", settings]
        command = [sys.executable, *launch, stage, *options]
        say(f"$ {shlex.join(command)}")
        status = run_until(end, command, session.working, meanwhile)
        if status == 0:
            return
        say(f"{stage} ended with status {status}")
        if end - time.time() < _LEAST_SECONDS:
            break
    raise RuntimeError(f"{stage} failed; its last lines are above")


def run_until(
    end: float, command: Sequence[str], folder: Path, meanwhile: Callable[[], object]
) -> int:
    """Return the exit status of a command whose lines are shown as they come.

    At the Unix time ``end`` it is killed, with its children.
    """
    triton = {"TRITON_PTXAS_PATH": str(_ASSEMBLER)} if _ASSEMBLER.exists() else {}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**triton, **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def show() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                say(line.rstrip("\n"))

    # In a thread, as a child that outlives the program may hold the pipe open.
    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    while True:
        try:
            left = max(0.1, end - time.time())
            status = process.wait(timeout=min(left, _SECONDS_BETWEEN_LOOKS))
        except subprocess.TimeoutExpired:
            if time.time() >= end:
                say("the time is over: the program is killed")
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(InputError, OSError):
                meanwhile()
        else:
            reader.join(_SECONDS_TO_READ)
            return status
