"""Runs a stage of the program in processes of its own, on all GPUs, until a deadline."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from augment.errors import InputError
from kernels_kaggle.exchange import Stage
from kernels_kaggle.on_kaggle.session import Session, list_gpus
from pipeline.console import say

_TRIES = 3  # of a stage; each goes on from where the last one was
_LEAST_SECONDS = 30.0  # that must be left for another try
_SECONDS_BETWEEN_LOOKS = 60.0  # at the program
_SECONDS_TO_PROBE = 60.0  # the GPUs, beside each other
_PROBE = "import torch; torch.ones(2, device='cuda').sum().item()"
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
    between ``meanwhile`` is called every minute. A stage that fails is tried again, on the GPUs
    that still compute; the last time on one of them. Prediction outside a scored rerun is neither
    tried nor started again: that run is there to show whether all works. It is a RuntimeError when
    the last try fails or is killed.
    """
    manifest = session.manifest
    is_trial = stage == "predict" and not session.is_rerun
    all_gpus: Sequence[int] = range(len(list_gpus()))
    gpus = all_gpus
    for number in range(1 if is_trial else _TRIES):
        if number:
            gpus = find_working_gpus(all_gpus)[: 1 if number == _TRIES - 1 else None]
        launch = ["-m", "pipeline"]
        if len(gpus) > 1:
            restarts = ["--max-restarts", "0" if is_trial else "3"]
            processes = ["--nproc-per-node", str(len(gpus))]
            launch = ["-m", "torch.distributed.run", "--standalone", *restarts, *processes, *launch]
        settings = shlex.join([*manifest.changes, *changes()])
        options = ["--recipe", manifest.recipe, "--run-name", manifest.run, "--set", settings]
        command = [sys.executable, *launch, stage, *options]
        say(f"$ {shlex.join(command)}")
        visible = gpus if len(gpus) < len(all_gpus) else ()
        status = run_until(end, command, session.working, meanwhile, visible)
        if status == 0:
            return
        say(f"{stage} ended with status {status}")
        if end - time.time() < _LEAST_SECONDS:
            break
    raise RuntimeError(f"{stage} failed; its last lines are above")


def find_working_gpus(gpus: Sequence[int]) -> Sequence[int]:
    """Return which of these GPUs compute; all where none does, as it may be no fault of theirs."""
    children = [subprocess.Popen([sys.executable, "-c", _PROBE], env=_only(gpu)) for gpu in gpus]
    working, end = [], time.time() + _SECONDS_TO_PROBE
    for gpu, child in zip(gpus, children, strict=True):
        try:
            status = child.wait(max(0.0, end - time.time()))
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        if status == 0:
            working.append(gpu)
        else:
            say(f"GPU {gpu} does not compute")
    return working or gpus


def _only(*gpus: int) -> Mapping[str, str]:
    """Return the environment of a program that sees these GPUs only."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}


def run_until(
    end: float,
    command: Sequence[str],
    folder: Path,
    meanwhile: Callable[[], object],
    gpus: Sequence[int] = (),
) -> int:
    """Return the exit status of a command whose lines are shown as they come.

    It sees the ``gpus`` only, or all where none is named. At the Unix time ``end`` it is killed,
    with its children.
    """
    environment = _only(*gpus) if gpus else os.environ
    triton = {"TRITON_PTXAS_PATH": str(_ASSEMBLER)} if _ASSEMBLER.exists() else {}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**triton, **environment},
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
