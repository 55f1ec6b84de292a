"""The command line: every error is one line, and light commands import nothing heavy."""

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
        (["build"], ["engine.tokens_per_pass=-1"], "tokens_per_pass must be at least 0"),
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
