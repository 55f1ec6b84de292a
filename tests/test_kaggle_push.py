"""Data set and notebook pushed by the unmodified client to a stand-in for Kaggle."""

import json

import pytest
from kaggle_objects import USER, Answer
from kaggle_run import CHANGES, DATASET, NOTEBOOK, PRETRAINING, make_package

from augment.errors import InputError
from kernels_kaggle.at_home.client import KaggleError
from kernels_kaggle.at_home.push import push
from kernels_kaggle.at_home.submit import agree, submit
from kernels_kaggle.exchange import read_digest

pytest_plugins = ["kaggle_fixtures"]


def test_what_kaggle_has_is_not_uploaded_again_and_what_changed_is(server, folder, client):
    for _ in range(2):
        push(folder, client)
    assert len(server.datasets[DATASET].versions) == 1
    assert len(server.notebooks[NOTEBOOK].saved) == 2
    again = make_package(folder.root.parents[2], changes=[*CHANGES, "predict.num_views=7"])
    push(again, client)
    assert len(server.datasets[DATASET].versions) == 2
    assert json.loads(again.pushed.read_text())["version"] == 3


def test_pretraining_goes_on_from_its_own_output(server, folders, client):
    folder = folders["p"]
    push(folder, client)
    make_package(folder.root.parents[2], "p", changes=CHANGES)  # the other notebook of this run
    push(folder, client)
    make_package(folder.root.parents[2], "p", "pretrain", PRETRAINING)
    push(folder, client)
    first, second = server.notebooks[f"{USER}/arc-trm-p-pretrain"].saved
    assert not first.get("kernelDataSources")
    assert second["kernelDataSources"] == [f"{USER}/arc-trm-p-pretrain"]
    with pytest.raises(InputError, match="trains; package its weights"):
        submit(folder, client, "", agree)


def test_the_notebook_is_pushed_when_the_data_set_is_ready(server, folder, client, pauses):
    server.faults["GetDatasetStatus"] = [
        Answer(404, "Not found"), Answer(404, "Not found"),  # ours, and the client's own
        Answer(403, "Permission 'datasets.get' was denied"),
    ]  # fmt: skip
    push(folder, client)
    names = [name for name, _ in server.requests]
    assert names.index("CreateDataset") < names.index("SaveKernel")
    assert len(pauses) >= 2  # not to be seen, then not ready


def refuse(body):
    return [Answer(200, body)]


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("CreateDataset", {"status": "error", "error": "Something is wrong"}, "Something is wrong"),
        ("SaveKernel", {"error": "Maximum batch GPU session count of 2 reached."}, "Next: wait"),
        (
            "SaveKernel",
            {"versionNumber": 1, "invalidDatasetSources": ["a/b"]},
            r"a/b.*Next: see.*version 1 was saved",
        ),
        (
            "SaveKernel",
            {"versionNumber": 1, "invalidCompetitionSources": ["c"]},
            "accept its rules",
        ),
        ("SaveKernel", {"versionNumber": 1, "invalidKernelSources": ["a/n"]}, "is there, then"),
        ("SaveKernel", {"ref": "x", "url": "x"}, "successfully pushed"),  # but no version
    ],
)
def test_errors_that_end_with_status_0_are_errors(server, folder, client, method, body, message):
    server.faults[method] = refuse(body)
    with pytest.raises(KaggleError, match=message):
        push(folder, client)
    with pytest.raises(InputError, match="nothing was pushed"):
        submit(folder, client, "", agree)


def test_a_new_version_that_fails_is_an_error(server, folder, client):
    server.faults["CreateDatasetVersion"] = refuse({"status": "error", "error": "No room left"})
    client.create_dataset(folder.dataset)
    with pytest.raises(KaggleError, match="No room left"):
        push(folder, client)


def test_a_data_set_that_fails_on_kaggle_is_an_error(server, folder, client):
    client.create_dataset(folder.dataset)
    server.datasets[DATASET].statuses = ("BLOBS_RECEIVED", "FAILED")
    with pytest.raises(KaggleError, match="failed on Kaggle"):
        push(folder, client)
    assert NOTEBOOK not in server.notebooks


def test_a_file_that_cannot_be_uploaded_is_an_error(server, folder, client):
    server.faults["PUT"] = [Answer(400, "No")]
    with pytest.raises(KaggleError, match=r"Upload unsuccessful: .*Next: push again"):
        push(folder, client)
    assert NOTEBOOK not in server.notebooks


def test_a_broken_upload_goes_on(server, folder, client):
    server.faults["PUT"] = [Answer(503, kept=4), Answer(308, headers={"Range": "bytes=0-3"})]
    push(folder, client)
    for name, content in server.datasets[DATASET].versions[0].items():
        assert content == (folder.dataset / name).read_bytes()


def test_a_push_whose_answer_is_lost_is_not_repeated(server, folder, client):
    server.faults["SaveKernel"] = [Answer(0, done=True)]
    with pytest.raises(KaggleError, match="kernels push"):
        push(folder, client)
    assert len(server.notebooks[NOTEBOOK].saved) == 1


@pytest.mark.parametrize("name", ["is_private", "enable_internet"])
def test_a_notebook_is_pushed_private_and_without_internet_only(server, folder, client, name):
    path = folder.notebook / "kernel-metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, name: not metadata[name]}))
    with pytest.raises(InputError, match=f"kernel-metadata.json: {name}: Input should be "):
        push(folder, client)
    assert server.requests == []
    del metadata[name]  # without it the client takes the internet
    path.write_text(json.dumps(metadata))
    push(folder, client)
    (saved,) = server.notebooks[NOTEBOOK].saved
    assert saved["isPrivate"] is True
    assert saved["enableInternet"] is False
    assert server.datasets[DATASET].is_private is True


def test_a_notebook_of_another_package_is_refused(server, folder, client):
    path = folder.notebook / "predict.ipynb"
    path.write_text(path.read_text().replace(read_digest(folder.dataset), "0" * 64))
    with pytest.raises(InputError, match="made for another package"):
        push(folder, client)
