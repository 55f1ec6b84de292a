"""The stage export: its weights answer as those of the run."""

import torch
from commands import SHORT, call

from solver.weights import load_weights


def test_exported_weights_answer_the_same(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    assert call("export", "--run-name", "a", "--to", "kept", changes=()) == 0
    assert call("predict", "--run-name", "b", changes=[*SHORT, "weights=kept"]) == 0
    first, second = (run_here / "runs" / name / "submission.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert call("export", "--run-name", "b", "--to", "kept", changes=()) == 2


def test_weights_rounded_to_float16_take_half_the_bytes(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("export", "--run-name", "a", "--to", "whole", changes=()) == 0
    assert call("export", "--run-name", "a", "--to", "half", "--float16", changes=()) == 0
    whole, half = (load_weights(run_here / name) for name in ("whole", "half"))
    for exact, rounded in zip(whole.model.parameters(), half.model.parameters(), strict=True):
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, exact.half().float())
    assert torch.equal(half.table.values, whole.table.values.half().float())
    for name in ("weights", "rows"):
        paths = (run_here / folder / f"{name}.safetensors" for folder in ("half", "whole"))
        smaller, larger = (path.stat().st_size for path in paths)
        assert smaller < 0.75 * larger
