"""`make gpu` at small size on a CPU: its checks, its rates, and its pieces from a bare checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"


def run(folder, script, *options, **environment):
    return subprocess.run(
        [sys.executable, EXPERIMENTS / script, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_checks_hold_on_a_cpu_and_name_what_does_not(tmp_path):
    done = run(tmp_path, "gpu_checks.py", "--device", "cpu", "--dtypes", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right  ") == 7
    assert done.stdout.endswith("checks: all right\n")
    wrong = "import gpu_checks as g; g.ATTENTION.clear(); g.CHECKS = g.CHECKS[:1]; g.main()"
    done = subprocess.run(
        [sys.executable, "-c", wrong, "--device", "cpu", "--dtypes", "float32"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{EXPERIMENTS}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "WRONG  check_attention: KeyError" in done.stdout
    assert done.stdout.endswith("checks: 1 wrong\n")


def test_the_rates_are_measured_and_written(tmp_path):
    done = run(tmp_path, "gpu_rates.py", "--small", "--device", "cpu", "--out", "rates.json")
    assert done.returncode == 0, done.stderr
    assert "not measured" not in done.stdout
    figures = json.loads((tmp_path / "rates.json").read_text())
    promised = ("arc1-fast_train_examples", "arc1_predict_full_views", "d128_eager_examples")
    assert all(figures[f"{name}_per_second"] > 0 for name in promised)
    assert figures["attention_tflops"] > 0
    assert figures["arc1-fast_kernels"][0]["share"] > 0


def test_pieces_go_on_from_what_the_one_before_left_elsewhere(tmp_path):
    """Each call in a folder of its own, with nothing of the others but the state."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "beside-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("beside.py", "here = True\n")
    options = ["--small", "--minutes", "0.8", "--piece-minutes", "0.4", "--wheels", wheels]
    options += ["--phases", "trained", "score", "--set", "train.seed=7"]
    before = tmp_path / "none"
    for number in range(6):
        folder = tmp_path / f"machine_{number}"
        folder.mkdir()
        state = tmp_path / f"state_{number}"
        done = run(folder, "gpu.py", *options, "--from", before, "--to", state)
        assert done.returncode == 0, done.stdout + done.stderr
        parts = list(state.glob("state.[0-9][0-9][0-9]"))
        assert parts
        assert all(part.stat().st_size <= 15_000_000 for part in parts)
        assert (folder / "runs" / "gpu" / "packages" / "beside.py").exists()
        before = state
        if done.stdout.endswith("gpu: done\n"):
            break
        assert done.stdout.endswith("gpu: the same command goes on from here\n")
    results = json.loads((before / "results.json").read_text())
    assert results["trained"]
    description = json.loads((before / "weights" / "checkpoint.json").read_text())
    assert description["settings"]["train"]["seed"] == 7
    assert len(results["legs"]) == len(results["held_out"])
    assert (before / "weights" / "checkpoint.json").exists()
    steps = [looked["step"] for looked in results["held_out"]]
    assert steps == sorted(steps)
    assert results["score"]["num_tasks"] > 0
    assert (before / "submission.json").exists()
    assert "| ARC-AGI-1 evaluation |" in (before / "results.md").read_text()


@pytest.mark.parametrize("options", [["--minutes", "x"], ["--phases", "dance"]])
def test_what_is_no_option_is_said(tmp_path, options):
    done = run(tmp_path, "gpu.py", *options)
    assert done.returncode == 2
    assert "error: argument" in done.stderr
