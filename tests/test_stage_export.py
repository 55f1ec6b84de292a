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


def test_a_link_to_itself_is_one_line(run_here, capfd):
    assert call("pretrain", "--run-name", "a") == 0
    (run_here / "loop").symlink_to("loop")
    for place, message in (("loop", "exists and is no export"), ("loop/x", "Too many levels")):
        capfd.readouterr()
        assert call("export", "--run-name", "a", "--to", place, changes=()) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert (run_here / "loop").is_symlink()


def test_rounded_weights_take_fewer_bytes(run_here):
    assert call("pretrain", "--run-name", "a", changes=[*SHORT, "model.dim=64"]) == 0
    sizes = []
    for precision in ("float32", "float16", "int8"):
        options = ["--to", precision, "--precision", precision]
        assert call("export", "--run-name", "a", *options, changes=()) == 0
        path = run_here / precision / "weights.safetensors"
        sizes.append(path.stat().st_size)
    whole, half, eighth = sizes
    assert half < 0.6 * whole
    assert eighth < 0.4 * whole
    exact, rounded = (load_weights(run_here / name) for name in ("float32", "float16"))
    for one, other in zip(exact.model.parameters(), rounded.model.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(other, one.half().float())
    assert torch.equal(rounded.table.values, exact.table.values.half().float())
