"""The states of a package on its way to Kaggle, and what of them lies on the disk."""

import json

import pytest

from augment.errors import InputError
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.at_home.pushed import PushedState
from pipeline.run import Run

UPLOADED = {"package": "abc", "dataset_version": 3, "notebooks": []}
PUSHED = {
    **UPLOADED, "notebooks": ["a/n"], "notebook": "a/n", "version": 2, "competition": ["c"],
    "is_checked": False,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return PackageFolder(Run(tmp_path / "k"))


def test_every_state_is_read_as_it_was_written(folder):
    uploaded = PushedState().uploaded("abc", 3)
    pushed = uploaded.pushed("a/n", 2, ("c",))
    checked = pushed.checked(ended_well=True)
    submitted = checked.submitted()
    contents = {
        uploaded: UPLOADED,
        pushed: PUSHED,
        checked: {**PUSHED, "is_checked": True},
        submitted: {**PUSHED, "is_checked": True, "was_submitted": True},
    }
    for state, content in contents.items():
        state.write(folder)
        assert json.loads(folder.pushed.read_text()) == content
        assert PushedState.read(folder) == state
    assert submitted.pushed("a/n", 3, ("c",)) == pushed.pushed("a/n", 3, ("c",))
    assert submitted.uploaded("def", 4) == PushedState("def", 4, ("a/n",))


def test_before_a_push_there_is_no_latest_version(folder):
    for state in (PushedState(), PushedState().uploaded("abc", 3)):
        state.write(folder)
        with pytest.raises(InputError, match="nothing was pushed; make push RUN=k comes first"):
            PushedState.read_latest(folder)


def test_a_file_that_is_not_as_expected_is_an_error_of_one_line(folder):
    folder.root.mkdir(parents=True)
    folder.pushed.write_text(json.dumps({**PUSHED, "version": "two"}))
    with pytest.raises(InputError, match=r"pushed\.json: version: .*, got 'two'$"):
        PushedState.read(folder)
    folder.pushed.write_text(json.dumps({**PUSHED, "competition": ["c", "d"]}))
    with pytest.raises(InputError, match=r"pushed\.json: competition\."):
        PushedState.read(folder)
