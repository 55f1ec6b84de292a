"""The folder of a run: what stands in its way is named, and it serves a command at a time."""

import os
import subprocess
import sys

from commands import ROOT, call

from pipeline.run import Run


def test_what_stands_in_the_way_is_named(run_here, capsys):
    (run_here / "runs").mkdir()
    (run_here / "runs" / "file").write_text("")
    assert call("build", "--run-name", "file") == 2
    assert call("build", "--run-name", "x" * 300) == 2
    assert call("pretrain", "--run-name", "a") == 0
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: runs/") for line in errors] == [True] * 2
    (run_here / "runs" / "a" / "config.json").write_text("3")
    assert call("predict", "--run-name", "a") == 0
    assert "config.json: expected a JSON object, got 3; these notes are left out" in (
        " ".join(capsys.readouterr().out.split())
    )


LOCK = """
from pipeline.run import Run
try:
    with Run.named("a").lock():
        pass
except OSError as error:
    print(error.filename)
"""


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(run_here):
    (run_here / "runs" / "a").mkdir(parents=True)
    os.mkfifo(run_here / "runs" / "a" / ".lock")
    done = subprocess.run(
        [sys.executable, "-c", LOCK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout == "runs/a/.lock\n", done.stderr


def test_a_run_is_for_one_command_at_a_time(run_here, capsys):
    with Run.named("a").lock():
        for stage in ("build", "pretrain", "predict"):
            assert call(stage, "--run-name", "a") == 2
            assert "error: runs/a: another process is at work in it" in capsys.readouterr().err
    assert call("pretrain", "--run-name", "a") == 0
