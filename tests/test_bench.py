"""The benchmarks run, compare their outputs first, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {
    "train_box_over_full_arc1",
    "train_box_over_full_arc2_eval",
    "predict_box_over_full_arc1_eval",
    "predict_box_over_full_arc2_eval",
    "full_over_eager",
    "train_d128_share_of_products_of_width_128",
    "loader_examples_per_second",
    "decode_views_per_second",
    "help_seconds",
    "train_full_peak_memory_mb",
}


def test_the_benchmark_writes_its_figures(tmp_path):
    path = f"{ROOT}:{ROOT / 'tests'}"
    subprocess.run(
        [sys.executable, ROOT / "experiments" / "bench.py", "cpu", "--tiny", "--rounds", "1",
         "--examples", "2"],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=600,
    )  # fmt: skip
    figures = json.loads((tmp_path / "runs" / "bench" / "cpu.json").read_text())
    assert figures.keys() >= PROMISED
    assert all(figures[name] > 0 for name in PROMISED)
    assert {"machine", "torch", "date", "dtype"} <= figures.keys()


def test_an_experiment_trains_its_arms_and_is_not_made_again(tmp_path):
    """A second call finds its runs, and prints the same table."""
    command = [
        sys.executable,
        ROOT / "experiments" / "compare.py",
        "--arms",
        "demo",
        "--no-compile",
    ]
    command += ["--arm", "narrow: model.dim=32 model.num_heads=2 model.patch=1"]
    command += ["--seeds", "0", "1", "--budget", "3e10", "--side", "6", "--held-out", "4"]
    command += ["--workers", "1"]
    printed = []
    for _ in range(2):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
        printed.append(done.stdout)
    lines = (tmp_path / "runs" / "experiment" / "curves.jsonl").read_text().splitlines()
    curves = [json.loads(line) for line in lines]
    assert {(line["arm"], line["seed"]) for line in curves} == {
        (arm, seed) for arm in ("demo", "narrow") for seed in (0, 1)
    }
    ends = [line for line in curves if "pass@2" in line]
    assert len(ends) == 4
    # Equal compute: the smaller model takes more steps, every seed as many.
    steps = {
        arm: {line["step"] for line in ends if line["arm"] == arm} for arm in ("demo", "narrow")
    }
    assert max(steps["demo"]) < min(steps["narrow"])
    assert len(steps["demo"]) == len(steps["narrow"]) == 1
    table = (tmp_path / "runs" / "experiment" / "table.md").read_text()
    assert printed[1].strip() == table.strip()
    assert table.strip() in printed[0]


def test_models_are_compared_on_puzzles_and_not_trained_again(tmp_path):
    script = ROOT / "experiments" / "compare_puzzles.py"
    command = [sys.executable, script, "--arms", "trm-mlp", "direct", "--seeds", "0", "--flop"]
    command += ["1e8", "--workers", "1", "--set", "data.trained=sudoku/30",
                "data.predicted=sudoku/30", "puzzles.num_trained=8", "puzzles.num_predicted=4",
                "train.global_batch=4", "model.dim=16", "puzzles.steps=1,2"]  # fmt: skip
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    tables = []
    for _ in range(2):
        subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=600
        )
        tables.append((tmp_path / "runs" / "puzzles" / "table.md").read_text())
    assert tables[0] == tables[1]
    lines = (tmp_path / "runs" / "puzzles" / "curves.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert [run["arm"] for run in runs] == ["trm-mlp", "direct"]
    assert all(run["steps"] > 0 and 0 <= run["exact@2"] <= 1 for run in runs)
