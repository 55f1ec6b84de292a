"""The four commands, called as a person calls them."""

import json

from commands import call
from kaggle_run import COMPETITION, DATASET, NOTEBOOK, leave_output

from kernels_kaggle.__main__ import main
from kernels_kaggle.at_home import push, status

pytest_plugins = ["kaggle_fixtures"]


def test_four_commands_lead_from_a_run_to_a_submission(folder, server, monkeypatch, capsys):
    monkeypatch.chdir(folder.root.parents[2])
    for module in (push, status):
        monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    assert call("push", "--run-name", "k", changes=[], program=main) == 0
    leave_output(server, folder)
    assert call("status", "--run-name", "k", changes=[], program=main) == 0
    submit = ("submit", "--run-name", "k", "--message", "first try")
    assert call(*submit, changes=[], program=main) == 2  # nobody is here to be asked
    assert server.submissions == []
    assert call(*submit, "--yes", changes=[], program=main) == 0
    shown = capsys.readouterr().out
    assert "answered by model: 231" in shown
    assert "1 left today" in shown
    assert "Successfully submitted" in shown
    uploaded = server.datasets[DATASET]
    assert (uploaded.licence, uploaded.is_private) == ("CC0-1.0", True)
    manifest = json.loads((folder.dataset / "manifest.json").read_text())
    assert set(uploaded.versions[0]) == {"manifest.json", *manifest["files"]}
    for name, content in uploaded.versions[0].items():
        assert content == (folder.dataset / name).read_bytes()
    (saved,) = server.notebooks[NOTEBOOK].saved
    assert saved["isPrivate"]
    assert not saved.get("enableInternet")
    assert saved["enableGpu"]
    assert saved["machineShape"] == "NvidiaL4"
    assert saved["datasetDataSources"] == [DATASET]
    assert saved["competitionDataSources"] == [COMPETITION]
    assert manifest["digest"] in saved["text"]
    (submitted,) = server.submissions
    assert submitted["kernelSlug"] == "arc-trm-k-predict"
    assert submitted["kernelVersion"] == 1
    assert submitted["fileName"] == "submission.json"
    assert submitted["submissionDescription"] == "first try"
