"""A program that runs until a deadline, and a process in which torch has no place."""

import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
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


@pytest.mark.parametrize(
    ("stage", "is_rerun", "restarts"),
    [("predict", True, ["3", "3", None]), ("predict", False, ["0"]),
     ("pretrain", False, ["3", "3", None])],
)  # fmt: skip
def test_the_last_try_takes_one_gpu_and_a_trial_is_never_repeated(
    tmp_path, monkeypatch, stage, is_rerun, restarts
):
    commands, times = [], iter([["time=1"], ["time=2"], ["time=3"]])
    monkeypatch.setattr(process, "list_gpus", lambda: ["one", "two", "broken"])
    monkeypatch.setattr(process, "find_working_gpus", lambda gpus: [gpu for gpu in gpus if gpu < 2])
    seen = []

    def run(end, command, folder, meanwhile, gpus):
        commands.append(command)
        seen.append(gpus)
        return 1

    monkeypatch.setattr(process, "run_until", run)
    session = mock.Mock(is_rerun=is_rerun, working=tmp_path)
    session.manifest = mock.Mock(changes=["a=b"], recipe="kaggle", run="k")
    with pytest.raises(RuntimeError, match=f"{stage} failed"):
        process.run_stage(stage, session, lambda: next(times), time.time() + 1000)
    found = [
        command[command.index("--max-restarts") + 1] if "--max-restarts" in command else None
        for command in commands
    ]
    assert found == restarts
    assert seen == [(), [0, 1], [0]][: len(restarts)]
    assert [command[-1] for command in commands] == [
        f"a=b time={number}" for number in range(1, len(restarts) + 1)
    ]


def test_gpus_that_do_not_compute_are_left_out(monkeypatch, capsys):
    """In the place of a GPU stands the number that its process sees."""
    monkeypatch.setattr(process, "_SECONDS_TO_PROBE", 20.0)
    probe = "import os, sys; sys.exit(os.environ['CUDA_VISIBLE_DEVICES'] in ('{}', '{}'))"
    monkeypatch.setattr(process, "_PROBE", probe.format(0, 2))
    assert process.find_working_gpus([0, 1, 2, 3]) == [1, 3]
    assert "GPU 2 does not compute" in capsys.readouterr().out
    monkeypatch.setattr(process, "_PROBE", probe.format(0, 1))
    assert process.find_working_gpus([0, 1]) == [0, 1]
    monkeypatch.setattr(process, "_SECONDS_TO_PROBE", 0.0)
    monkeypatch.setattr(process, "_PROBE", "import time; time.sleep(1000)")
    assert process.find_working_gpus([0]) == [0]
    assert process.find_working_gpus([]) == []


def test_a_program_sees_the_gpus_that_it_shall(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = ["sh", "-c", "echo sees ${CUDA_VISIBLE_DEVICES-all}"]
    for gpus, shown in (([1, 3], "sees 1,3"), ([], "sees all")):
        assert process.run_until(time.time() + 60, command, tmp_path, lambda: None, gpus) == 0
        assert shown in capsys.readouterr().out


def test_the_process_of_a_notebook_never_imports_torch():
    """It would take memory of a GPU that the program needs."""
    stages = [f"kernels_kaggle.on_kaggle.{stage}" for stage in ("predict", "pretrain")]
    program = f"import sys, {', '.join(stages)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
