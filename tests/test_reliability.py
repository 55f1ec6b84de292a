"""Whole runs through faults, a short version of ``make chaos``; and what is refused beforehand."""

import os
import socket
import subprocess
import sys

from chaos import Trial, chaos, print_chaos
from commands import ROOT, SHORT, call
from results import votes_of

from pipeline.run import Run


def test_faults_leave_a_valid_file_and_the_same_result(capsys):
    kinds = ("kill worker", "checkpoint altered", "full disk", "NaN")
    trials = chaos(len(kinds), jobs=2, kinds=kinds)
    assert [trial.kind for trial in trials] == list(kinds)
    assert {trial.machine for trial in trials} >= {"usual", "cold cache"}
    assert all(trial.reads > 10 for trial in trials)
    for trial in trials:
        assert (trial.invalid, trial.failed) == (0, ""), trial.text
        assert trial.same is not False, trial.text
    assert sum(trial.struck for trial in trials) >= 3
    print_chaos([*trials, Trial("made up", invalid=3)])
    assert "made up" in capsys.readouterr().out


def test_two_nodes_answer_as_one_process(run_here):
    """Two torchrun, as on two machines that share the folder."""
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "weights=runs/a/checkpoints/step_000000006"]
    assert call("predict", "--run-name", "one", changes=changes) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"127.0.0.1:{port}",
        "-m", "pipeline", "predict", "--run-name", "two", "--set", " ".join(changes),
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(
            launch,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert "2 processes" in "".join(texts)
    alone, together = (run_here / "runs" / name for name in ("one", "two"))
    assert votes_of(Run(alone)) == votes_of(Run(together))
    assert (alone / "submission.json").read_bytes() == (together / "submission.json").read_bytes()


def test_a_run_that_does_not_fit_is_refused_before_it_starts(run_here, capsys):
    assert call("pretrain", "--run-name", "a") == 0
    changes = [*SHORT, "predict.adapt=all", "engine.memory_gb=0.001"]
    assert call("predict", "--run-name", "a", changes=changes) == 2
    assert "error: memory: 0." in capsys.readouterr().err
    assert (run_here / "runs" / "a" / "submission.json").exists()
