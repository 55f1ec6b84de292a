"""The command line and make: errors are one line, light commands import nothing heavy."""

import json
import os
import subprocess
import sys

import pytest
from commands import ROOT, call

from augment.task_files import write_challenges, write_solutions
from submission.writer import build_submission, write_submission


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (["build", "--recipe", "nope"], [], "recipe 'nope' is not known; choose from demo, arc1"),
        (["build"], ["train.speed=1"], "setting 'train.speed' is not known; choose from train."),
        (["build"], ["speed=1"], "choose from data, model, train"),
        (["build"], ["train=1"], "setting 'train' is not known"),
        (["build"], ["train.lr.x=1"], "setting 'train.lr.x' is not known"),
        (["build"], ["train.lr"], "expected name=value"),
        (["build"], ["train.lr=fast"], "setting 'train.lr=fast': Input should be a valid number"),
        (["build"], ["train.num_steps=1.5"], "setting 'train.num_steps=1.5': Input should be"),
        (["build"], ["model.variant=cnn"], "Input should be 'attention' or 'mlp'"),
        (["build"], ["engine.dtype=int8"], "Input should be 'auto', 'bfloat16'"),
        (["build"], ["train.global_batch=0"], "global_batch must be at least 1, got 0"),
        (["build"], ["data.predicted=arc3/training"], "source 'arc3/training' is not known; choo"),
        (["build"], ["data.predicted=folder:nowhere"], "nowhere: not a folder"),
        (["build"], ["data.predicted=kaggle/test:nowhere"], "challenges.json: cannot be read"),
        (["build"], ["data.predicted=arc1/training,arc1/training"], "'007bbfb7' comes twice"),
        (["build"], ["data.left_out=abc"], "data.left_out: abc not in data.trained"),
        (["build"], ["data.trained=arc1/training"], "training would see solutions of"),
        (["build"], ["train.lr='3"], "No closing quotation"),
        (["build"], ["train.lr=nan"], "lr must be a number below 2147483648, got nan"),
        (["build"], ["train.rows_lr=inf"], "rows_lr must be a number"),
        (["build"], ["data.seed=-1"], "seed must be at least 0, got -1"),
        (["build"], ["train.betas=0.9,1"], "betas must be in [0, 1)"),
        (["build"], ["train.num_steps=99999999999999999999"], "num_steps must be a number below"),
        (["build"], ["model.dim=0"], "dim must be at least 2"),
        (["build"], ["engine.positions_per_pass=-1"], "positions_per_pass must be at least 0"),
        (
            ["sweep", "--views", "1,x"],
            [],
            "'1,x': expected numbers such as 1,8,32, of",
        ),
        (["sweep", "--steps", "1001"], [], "'1001': expected numbers such as 1,8,32, of 1 to 1000"),
        (["sweep", "--steps", "\uff11"], [], "expected numbers such as 1,8,32"),
        (["build", "--run-name", "a/b"], [], "run 'a/b': a run's name is one folder name"),
        (["build", "--run-name", ".."], [], "run '..'"),
        (["predict"], ["weights=nowhere"], "nowhere: no such checkpoint"),
        (["predict", "--recipe", "arc1"], [], "no checkpoint; pretrain first"),
        (["predict"], ["data.max_side=1"], "no task to predict"),
        (["score"], None, "score needs --run-name, or --submission"),
        (["score", "--run-name", "nope"], None, "challenges.json: cannot be read"),
        (["data", "nope"], None, "source 'nope' is not known"),
    ],
)
def test_errors_are_one_line(run_here, capsys, arguments, changes, named):
    assert call(*arguments, changes=changes) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert not list(run_here.rglob("dataset.json"))
    # Where the tasks are known there is a valid file, whatever else is wrong.
    knows_tasks = arguments[0] == "predict" and "data.max_side=1" not in changes
    assert len(list(run_here.rglob("submission.json"))) == knows_tasks


HEAVY = {"torch", "numba", "rich", "tqdm"}


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["data", "arc1/training"], {"rich"}),
        (["build", "--set", "data.max_side=3"], {"rich", "tqdm"}),
        (
            ["score", "--submission", "s.json", "--challenges", "c.json", "--solutions", "a.json"],
            {"rich"},
        ),
    ],
)
def test_light_commands_import_nothing_heavy(run_here, arc1, arguments, needed):
    write_challenges(run_here / "c.json", arc1[:1])
    write_solutions(run_here / "a.json", arc1[:1])
    write_submission(run_here / "s.json", build_submission(arc1[:1], {})[0], arc1[:1])
    script = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=run_here,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(done.stdout.splitlines()[-1].split()) == needed


@pytest.mark.parametrize("option", ["--flop=inf", "--flop=1e400", "--hours=inf", "--nodes=9999999"])
def test_a_plan_for_more_than_there_can_be_is_refused(option, capsys):
    assert call("plan", option, changes=()) == 2
    assert "Invalid value for '--" in capsys.readouterr().err


@pytest.fixture
def make(tmp_path):
    """A function that calls make where every program does nothing but print its arguments."""
    (tmp_path / "requirements.txt").touch()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "torchrun"):
        path = programs / name
        path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n")
        path.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()

    def call_make(target, *, environment=(), **variables):
        named = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            ["make", "-f", ROOT / "Makefile", target, *named],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **dict(environment)},
            capture_output=True,
            text=True,
        )

    return call_make


HOSTILE = """ a'b"c$d$(shell touch x)${HOME}`touch x`;touch x|&<>(*)\\ #%$$ \\n\ntouch x\\"""
NAMED = {
    "rearc": "TO PAIRS DIFFICULTY SEED TASKS",
    "build": "RECIPE RUN SET",
    "plan": "RECIPE SET GPU NODES FLOP HOURS",
    "predict": "RECIPE RUN SET",
    "sweep": "RECIPE RUN SET VIEWS STEPS",
    "export": "RUN TO PRECISION",
    "score": "SUBMISSION CHALLENGES SOLUTIONS VOTES",
    "report": "RUN BESIDE",
    "show": "TASK RUN",
    "settings": "RECIPE SET",
    "package": "RECIPE RUN SET NOTEBOOK",
    "push": "RUN",
    "submit": "RUN MESSAGE",
    "gpu": "MINUTES PIECE SET TO FROM",
}


@pytest.mark.parametrize("target", NAMED)
def test_make_hands_on_what_was_typed(target, make, tmp_path):
    values = {name: name + HOSTILE for name in NAMED[target].split()}
    for given in ({**values}, {"environment": values}):
        done = make(target, **given)
        assert set(values.values()) <= set(json.loads(done.stdout.splitlines()[-1])), done
    assert not (tmp_path / "x").exists()


def test_make_calls_the_python_that_was_named(make, tmp_path):
    python = tmp_path / "a 'python'; $(shell touch x)"
    (tmp_path / ".venv" / "bin" / "python").rename(python)
    done = make("gpu", WHEELS="w", PYTHON=python)
    assert json.loads(done.stdout.splitlines()[-1])[0] == str(python), done
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("target", "variables", "arguments"),
    [
        ("build", {}, ["--recipe", "arc1-fast", "--run-name", "arc1-fast", "--set", ""]),
        ("build", {"RECIPE": "demo"}, ["--recipe", "demo", "--run-name", "demo", "--set", ""]),
        ("report", {"RECIPE": "demo"}, ["--run-name", "demo", "--beside", ""]),
        ("show", {}, ["--task", "", "--run-name", ""]),
        ("package", {}, ["kaggle", "--run-name", "kaggle", "--set", "", "--notebook", "predict"]),
        ("status", {"RECIPE": "demo"}, ["status", "--run-name", "demo"]),
        ("submit", {"YES": "1"}, ["--run-name", "kaggle", "--message", "", "--yes"]),
        ("score", {"JSON": "1"}, ["score", "--run-name", "arc1-fast", "--json"]),
        ("gpu", {"FROM": "f"}, ["--set", "", "--to", "runs/gpu-state", "--from", "f"]),
    ],
)
def test_make_names_what_was_not_typed(make, target, variables, arguments):
    shown = make(target, **variables).stdout.splitlines()[-1]
    assert json.loads(shown)[-len(arguments) :] == arguments


def test_make_starts_several_processes_with_torchrun(make):
    program, *arguments = json.loads(make("pretrain", NPROC="4").stdout)
    assert program.endswith("torchrun")
    assert arguments[4:8] == ["4", "-m", "pipeline", "pretrain"]


@pytest.mark.parametrize("number", ["", "0", "-1", "abc", "1 2", "%", "65", "100000", "$(shell x)"])
def test_make_refuses_what_is_no_number_of_processes(make, number):
    for given in ({"NPROC": number}, {"environment": {"NPROC": number}}):
        done = make("pretrain", **given)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"NPROC must be 1 to 64 processes, got {number}." in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("target", ["predict", "help", "clean"])
def test_make_refuses_variables_that_it_does_not_know(make, target):
    done = make(target, RECIEP="demo", SET="a=b")
    assert (done.returncode, done.stdout) == (2, "")
    assert "RECIEP is not known; choose from BESIDE CHALLENGES " in done.stderr
    assert done.stderr.count("\n") == 1
