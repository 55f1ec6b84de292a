"""The notebook that pretrains, executed as on Kaggle: its folders, its packages, no network."""

import shutil

import pytest
from commands import SHORT
from kaggle_machine import make_image, run_notebook
from kaggle_run import make_package

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]
pytest_plugins = ["kaggle_fixtures"]


def test_pretraining_goes_on_in_the_next_run(tmp_path):
    changes = [*SHORT, "kaggle.owner=tester", "kaggle.machine_shape="]
    packaged = make_package(tmp_path, "p", "pretrain", changes)
    code = packaged.notebook / "pretrain.ipynb"
    shutil.copytree(packaged.dataset, tmp_path / "input" / "arc-trm-p")
    make_image(tmp_path / "image")
    ended = run_notebook(tmp_path, code)
    assert ended.completed, ended.text
    checkpoints = ended.working / "runs" / "p" / "checkpoints"
    assert [path.name for path in sorted(checkpoints.iterdir())] == [
        "step_000000004", "step_000000006",
    ]  # fmt: skip
    whole = {path.name: path.read_bytes() for path in (checkpoints / "step_000000006").iterdir()}
    shutil.rmtree(checkpoints / "step_000000006")  # as if the session had been over
    shutil.copytree(ended.working, tmp_path / "input" / "notebooks" / "arc-trm-p-pretrain")
    (tmp_path / "input" / "arc-trm-p").rename(tmp_path / "input" / "moved")
    ended = run_notebook(tmp_path, code)
    assert ended.completed, ended.text
    assert "going on from /kaggle/input/notebooks/arc-trm-p-pretrain/runs/p" in ended.text
    for name, content in whole.items():
        if name.endswith(".safetensors"):
            assert (checkpoints / "step_000000006" / name).read_bytes() == content, name
