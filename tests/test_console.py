"""What is said while a run goes on, in each of its forms."""

import json
import math
import os
import pty
import re
import subprocess
import sys

import pytest
from commands import ROOT, SHORT, call, write_task_folder

from pipeline import console
from pipeline.settings import LogSettings


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to."""
    now = [0.0]
    monkeypatch.setattr("pipeline.console.time.monotonic", lambda: now[0])
    return now


def progress(clock, every=10.0, left=math.inf, **more):
    log = LogSettings(every_seconds=every)

    def budget():
        return left - clock[0]

    times = {"seconds_left": budget, "budget": budget}
    return console.ProgressBar("train", "step", 100, log, **times, **more)


def test_in_a_file_a_line_comes_now_and_then(clock, capsys):
    with progress(clock, left=500.0) as shown:
        for _ in range(40):
            clock[0] += 3.0
            shown.measure(loss=0.25, exact_accuracy=0.5)
            shown.update()
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 10  # every fourth step, the first after ten seconds
    assert lines[0] == (
        "train: step 4 of 100, 4%, 0.3 steps/s, 0:04:48 left, budget 0:08:08, "
        "loss 0.25, exact accuracy 0.5"
    )


def test_the_time_left_is_at_most_the_budget_and_at_the_rate_of_now(clock, capsys):
    with progress(clock, every=0.0, left=1e6, first=10) as shown:
        for seconds in [100.0] * 10 + [1.0] * 70:
            clock[0] += seconds
            shown.update()
    lines = capsys.readouterr().out.splitlines()
    assert "step 11 of 100, 11%, 0.0 steps/s, 2:28:20 left" in lines[0]
    assert "step 90 of 100, 90%, 1.0 steps/s, 0:00:10 left" in lines[-1]
    with progress(clock, every=0.0, left=clock[0] + 30.0) as shown:
        clock[0] += 10.0
        shown.update()
    assert "0:00:20 left, budget 0:00:20" in capsys.readouterr().out


def test_json_is_one_object_a_line(run_here, capsys):
    changes = [*SHORT, "log.form=json", "log.every_seconds=0"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert call("predict", "--run-name", "a", changes=[*changes, "predict.adapt=all"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)
    (built,) = [line for line in lines if line["message"] == "build"]
    assert built["tasks"] == 16
    steps = [line for line in lines if line.get("stage") == "pretrain"]
    assert [line["steps"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[2].keys() >= {"loss", "lr", "examples_per_second", "left_seconds"}
    stages = {line["stage"] for line in lines if "stage" in line}
    assert stages == {"build", "pretrain", "adapt", "predict"}
    (score,) = [line for line in lines if line["message"] == "score"]
    assert score["num_tasks"] == 16
    assert score["per_task"].keys() >= {"pass@1", "pass@2"}
    assert call("predict", "--run-name", "a", changes=[*changes, "weights=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"
    assert "nowhere: no such checkpoint" in json.loads(line)["message"]


def test_quiet_says_nothing_but_what_is_wrong(run_here, capsys):
    changes = [*SHORT, "log.form=quiet", "log.every_seconds=0"]
    assert call("pretrain", "--run-name", "a", changes=changes) == 0
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert capsys.readouterr() == ("", "")
    (run_here / "runs" / "a" / "config.json").write_text("3")
    assert call("predict", "--run-name", "a", changes=changes) == 0
    assert (
        "config.json: expected a JSON object, got 3; these notes are left out"
        in capsys.readouterr().out
    )
    assert call("predict", "--run-name", "a", changes=[*changes, "weights=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere")


def test_a_terminal_shows_one_line_that_is_drawn_again(run_here):
    """In a terminal of its own; its lines end with a carriage return until they are done."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "pipeline", "pretrain", "--run-name", "a", "--set"]
    changes = [*SHORT, "train.num_steps=40", "train.time_limit_seconds=1000"]
    with subprocess.Popen(
        [*command, " ".join(changes)],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                shown += os.read(master, 65536)
            except OSError:  # the other side is closed
                break
    os.close(master)
    assert process.returncode == 0
    bars = [part for part in re.split(r"[\r\n]+", shown.decode()) if part.startswith("pretrain: ")]
    drawn = [bar for bar in bars if "|" in bar]
    assert drawn, shown
    assert re.search(r"100%\|.*40/40 .* steps/s, 0:00:00 left, budget 0:1\d:\d\d, loss ", drawn[-1])
    assert not any("step 40 of 40, 100%" in bar for bar in bars)  # and no lines of a file
    assert "pretrain: step 40 of 40, runs/a/checkpoints" in bars[-1]


def test_lines_and_tables_that_nobody_reads_cost_nothing(run_here):
    """The reader of the pipe is gone before the first line; or there is no output at all."""
    for stage in ("pretrain", "predict"):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "pipeline", stage, "--run-name", "a"]
        done = subprocess.run(
            [*command, "--set", " ".join(SHORT)],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")
    page = run_here / "runs" / "a" / "report" / "index.html"
    assert page.exists()
    page.unlink()
    command = f"{sys.executable} -m pipeline report --run-name a >&- 2>&-"
    assert (
        subprocess.run(command, shell=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
        == 0
    )
    assert page.exists()


def test_what_a_terminal_cannot_show_is_written_in_signs_it_can(run_here):
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "build",
        "--run-name",
        "漢",
        "--set",
        " ".join(SHORT),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "runs/\\u6f22/dataset is intact" in done.stdout


# Line breaks, signs that clear the screen or turn the writing, and a byte that is no text.
WILD = "a\r\n\x1b[2J\x9b\u202e\u2028\udcff漢"
TAMED = r"a\r\n\x1b[2J\x9b\u202e\u2028\udcff漢"


def test_lines_and_cells_are_lines_whatever_they_hold(capsys):
    console.configure_log(LogSettings())
    console.say(WILD)
    console.warn(WILD)
    console.fail(WILD)
    console.say_table(WILD, {"name": "", "count": ","}, [(WILD, 1)])
    out, err = capsys.readouterr()
    first, second, _, row = out.rstrip("\n").split("\n")
    assert (first, second, err) == (TAMED, TAMED, f"error: {TAMED}\n")
    assert row.split() == [TAMED, "1"]
    assert "\x1b" not in out
    console.configure_log(LogSettings(form="json"))
    try:
        console.say(WILD, source=WILD)
        console.say_table(WILD, {"source": ""}, [(WILD,)])
    finally:
        console.configure_log(LogSettings())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["message"], line["source"]) for line in lines] == [(TAMED, TAMED)] * 2


def test_what_nobody_can_read_is_refused_or_shown_by_its_bytes(run_here, capsys, small_tasks):
    """A folder whose name is not UTF-8 holds tasks like any other; settings must be UTF-8."""
    write_task_folder(run_here / os.fsdecode(b"tasks/\xff"), small_tasks[:1])
    own = [change for change in SHORT if not change.startswith("data.predicted=")]
    own += ["data.trained=", "data.max_side=30", "model.canvas_side=30"]
    for form in ("text", "json"):
        changes = [*own, "data.predicted=folder:tasks", f"log.form={form}"]
        assert call("build", "--run-name", form, changes=changes) == 0
    capsys.readouterr()
    named = os.fsdecode(b"folder:tasks/\xff")
    for stage in ("build", "predict"):
        assert call(stage, changes=[*own, f"data.predicted={named}"]) == 2
        assert call(stage, "--run-name", os.fsdecode(b"\xff")) == 2
        first, second = capsys.readouterr().err.splitlines()
        assert first == r"error: setting 'data.predicted=folder:tasks/\udcff': not UTF-8"
        assert second.startswith(r"error: run '\udcff': a run's name is made of printable")
    assert call("data", named, "folder:\x1b", changes=()) == 2
    out, err = capsys.readouterr()
    assert r"folder:tasks/\udcff" in out
    assert err == "error: \\x1b: not a folder\n"
    assert call("settings", changes=["'weights=a\x1b\nb'"]) == 2
    assert r"setting 'weights=a\x1b\nb': holds" in capsys.readouterr().err
