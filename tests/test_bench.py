"""The benchmarks run, compare their outputs first, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {
    "cpu": {
        "train_box_over_full_arc1",
        "train_box_over_full_arc2_eval",
        "predict_box_over_full_arc1_eval",
        "predict_box_over_full_arc2_eval",
        "full_over_eager",
        "loader_examples_per_second",
        "decode_views_per_second",
        "help_seconds",
        "train_full_peak_memory_mb",
    },
    "ceilings": {"product_tflop_per_second_8192", "attention_tflop_per_second_mix"},
    "training": {"train_box_over_full_arc1_192", "train_box_per_second_arc1_768"},
    "prediction": {"predict_end_to_end_over_model", "predict_box_over_full_arc1_eval_4_steps"},
}


@pytest.mark.parametrize("what", PROMISED)
def test_a_benchmark_writes_its_figures(what, tmp_path):
    sizes = ["--tiny", "--rounds", "1", "--examples", "2", "--device", "cpu"]
    subprocess.run(
        [sys.executable, ROOT / "tests" / "bench.py", what, *sizes],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=600,
    )
    figures = json.loads((tmp_path / "runs" / "bench" / f"{what}.json").read_text())
    assert PROMISED[what] <= figures.keys()
    assert all(figures[name] > 0 for name in PROMISED[what])
    assert {"machine", "torch", "date", "dtype"} <= figures.keys()
