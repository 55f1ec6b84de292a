"""Time limits and signals stop a run that then goes on as if it never stopped."""

import math
import os
import signal
import subprocess
import sys
import time

import orjson
import pytest
from commands import ROOT, SHORT, call

from pipeline.deadline import Deadline, Leg, seconds_to_work


def test_a_limit_of_zero_is_none():
    assert not Deadline().is_over
    assert Deadline(1e-9).is_over
    assert not Deadline(1e9).is_over
    assert seconds_to_work(0, 0) == math.inf


def test_time_counts_from_the_start_of_the_process():
    script = (
        "import time; time.sleep(0.5)\n"
        "from pipeline.deadline import seconds_to_work\n"
        "print(seconds_to_work(100, 0), seconds_to_work(100, time.time() + 50))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    by_limit, by_deadline = map(float, done.stdout.split())
    assert 0 < by_deadline < 50 < by_limit < 99.5


def test_a_leg_in_time_goes_from_its_beginning_to_its_end(monkeypatch):
    now = 0.0
    monkeypatch.setattr("pipeline.deadline.time.monotonic", lambda: now)
    leg = Leg(Deadline(), by_time=True, seconds=10.0, begin=0.5, until=1.0, _start=now)
    now = 4.0
    assert leg.progress() == 0.7
    assert leg.seconds_left == 6.0
    again = leg.again(leg.seconds_left, 0.6)
    assert (again.progress(), again.seconds_left) == (0.6, 6.0)
    now = 12.0
    assert leg.progress() == 1.0
    assert leg.seconds_late == 2.0
    assert not leg.should_stop()  # its progress ends it, not the clock
    assert Leg(Deadline()).progress() == 0.0
    assert Leg(Deadline(0.0)).should_stop()
    assert Leg(Deadline(), by_time=True, seconds=0.0, until=0.5).progress() == 0.5


def test_signals_ask_to_stop_once_and_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with Deadline() as deadline:
            assert not deadline.is_over
            os.kill(os.getpid(), number)
            time.sleep(0)  # lets Python run the handler
            assert deadline.is_over
            assert deadline.has_signal
            # A second signal acts as it would without the deadline.
            assert signal.getsignal(number) == before[number == signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("has_result", "status"), [(True, 0), (False, 2)])
def test_the_watchdog_ends_a_process_that_hangs(has_result, status):
    script = (
        "import time\n"
        "from pipeline.deadline import Deadline, Watchdog\n"
        f"with Watchdog(Deadline(0.1), has_result={has_result}):\n"
        "    time.sleep(1000)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == status
    assert ("the submission on disk stands" in done.stdout) == has_result
    assert done.stderr.startswith("error: time is up before the tasks are read") != has_result


def read_metrics(run_here, name):
    lines = (run_here / "runs" / name / "metrics.jsonl").read_bytes().splitlines()
    return [{k: v for k, v in orjson.loads(line).items() if "second" not in k} for line in lines]


def test_a_run_ended_by_a_signal_goes_on_as_if_it_never_stopped(run_here):
    """SIGTERM stops at the next step with a checkpoint; SIGKILL falls back to the last one."""
    changes = [*SHORT, "train.num_steps=30", "checkpoint.every=3", "train.log_every=3"]
    assert call("pretrain", "--run-name", "whole", changes=changes) == 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        name = number.name
        command = [sys.executable, "-m", "pipeline", "pretrain", "--run-name", name]
        process = subprocess.Popen(
            [*command, "--set", " ".join(changes)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        checkpoints = run_here / "runs" / name / "checkpoints"
        while process.poll() is None and not list(checkpoints.glob("step_*")):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=60) in (0, -number)
        assert call("pretrain", "--run-name", name, changes=changes) == 0
        assert read_metrics(run_here, name) == read_metrics(run_here, "whole")
