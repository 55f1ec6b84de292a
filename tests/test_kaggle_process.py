"""A program that runs until a deadline, and a process in which torch has no place."""

import signal
import subprocess
import sys
import threading
import time

from commands import ROOT

from kernels_kaggle.on_kaggle import process


def test_a_child_that_outlives_the_program_does_not_hold_the_notebook(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(process, "_SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(process, "_SECONDS_TO_READ", 0.1)
    script = (
        f"setsid sh -c 'while [ ! -e {tmp_path}/over ]; do sleep 0.1; done' & echo at work; wait"
    )
    looks = []
    end = time.time() + 1
    status = process.run_until(end, ["sh", "-c", script], tmp_path, lambda: looks.append(1))
    (tmp_path / "over").touch()
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(5)
    assert status == -signal.SIGKILL
    assert "at work" in capsys.readouterr().out
    assert looks


def test_the_process_of_a_notebook_never_imports_torch():
    """It would take memory of a GPU that the program needs."""
    stages = [f"kernels_kaggle.on_kaggle.{stage}" for stage in ("predict", "pretrain")]
    program = f"import sys, {', '.join(stages)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
