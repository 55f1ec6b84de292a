"""The stage export: its weights answer as those of the run."""

from commands import SHORT, call


def test_exported_weights_answer_the_same(run_here):
    assert call("pretrain", "--run-name", "a") == 0
    assert call("predict", "--run-name", "a") == 0
    assert call("export", "--run-name", "a", "--to", "kept", changes=()) == 0
    assert call("predict", "--run-name", "b", changes=[*SHORT, "weights=kept"]) == 0
    first, second = (run_here / "runs" / name / "submission.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert call("export", "--run-name", "b", "--to", "kept", changes=()) == 2
