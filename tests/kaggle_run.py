"""What tests of the way to Kaggle share: the package of a run, and what a notebook leaves."""

import json

import pytest
from commands import ROOT, SHORT, call
from kaggle_objects import USER
from kaggle_server import KaggleServer

from augment.files import hash_file
from kernels_kaggle.__main__ import main
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.exchange import Report, read_digest
from pipeline.run import Run

CHANGES = [f"weights={ROOT / 'solver' / 'pretrained' / 'demo'}", f"kaggle.owner={USER}"]
TRAINING = [
    *SHORT,
    "data.trained=arc1/training",
    "data.predicted=arc1/evaluation",
    f"kaggle.owner={USER}",
]
PRETRAINING = [*TRAINING, "data.left_out=40853293,caa06a1f"]  # they give solutions away
COMPETITION = "arc-prize-2026-arc-agi-2"
DATASET, NOTEBOOK = f"{USER}/arc-trm-k", f"{USER}/arc-trm-k-predict"


def make_package(folder, run="k", stage="predict", changes=CHANGES):
    """Return the folder of a package made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["package", "--run-name", run, "--notebook", stage]
        assert call(*arguments, changes=changes, program=main) == 0
    return PackageFolder(Run(folder / "runs" / run))


def list_calls(server: KaggleServer, method):
    """Return the bodies of all calls of a method."""
    return [body for name, body in server.requests if name == method]


def leave_output(server: KaggleServer, folder, text="all is well\n", package=None):
    """Have the notebook leave what it leaves on Kaggle."""
    notebook = server.notebooks[NOTEBOOK]
    output = folder.run.folder / "left"
    output.mkdir(exist_ok=True)
    (output / "submission.json").write_text("{}")
    files = {"submission.json": hash_file(output / "submission.json")}
    Report(package or read_digest(folder.dataset), 231, 28).write(output, files)
    notebook.output = {path.name: path.read_bytes() for path in output.iterdir()}
    notebook.log = json.dumps([{"stream_name": "stdout", "time": 1.0, "data": text}])
