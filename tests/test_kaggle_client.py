"""The way to Kaggle and back: the unmodified client against a stand-in for its server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SHORT, call
from kaggle_server import KEY, USER, Answer, KaggleServer, Notebook

from augment.errors import InputError
from augment.files import hash_file, write_description
from augment.task import read_challenges, write_solutions
from kernels_kaggle import stages
from kernels_kaggle.__main__ import main as kaggle_main
from kernels_kaggle.client import Client, KaggleError
from kernels_kaggle.notebook import REPORT, REPORT_FORMAT
from kernels_kaggle.package import Place, manifest_digest
from pipeline.runs import Run
from pipeline.sources import load_source

WEIGHTS = ROOT / "solver" / "weights" / "demo"
CHANGES = [f"weights={WEIGHTS}", f"kaggle.owner={USER}"]
TRAINING = [
    *SHORT,
    "data.trained=arc1/training",
    "data.predicted=arc1/evaluation",
    f"kaggle.owner={USER}",
]
COMPETITION = "arc-prize-2026-arc-agi-2"
BOTH = ("challenges", "solutions")
DATASET, NOTEBOOK = f"{USER}/arc-trm-k", f"{USER}/arc-trm-k-predict"


def make_package(folder, run="k", stage="predict", changes=CHANGES):
    """Return the place of a package made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["package", "--run-name", run, "--notebook", stage]
        assert call(*arguments, changes=changes, program=kaggle_main) == 0
    return Place.of(Run(folder / "runs" / run))


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    make_package(folder)
    make_package(folder, "p", "pretrain", [*TRAINING, "data.left_out=40853293"])
    return folder


@pytest.fixture
def places(packages, tmp_path):
    shutil.copytree(packages / "runs", tmp_path / "runs")
    return {name: Place.of(Run(tmp_path / "runs" / name)) for name in ("k", "p")}


@pytest.fixture
def place(places):
    return places["k"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Kaggle's stand-in, which the client of this process will call."""
    folder = tmp_path / "client"
    folder.mkdir()
    with KaggleServer(folder) as started:
        environment = started.environment()
        for name in os.environ.keys() - environment.keys():
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(pauses):
    return Client(pauses.append)


def calls(server, method):
    """The bodies of all calls of a method."""
    return [body for name, body in server.requests if name == method]


def leave_output(server, place, text="all is well\n", package=None):
    """Have the notebook leave what it leaves on Kaggle."""
    notebook = server.notebooks[NOTEBOOK]
    folder = place.folder.parent / "left"
    folder.mkdir(exist_ok=True)
    (folder / "submission.json").write_text("{}")
    values = {"answered_by_model": 231, "answered_by_fallback": 28}
    files = {"submission.json": hash_file(folder / "submission.json")}
    report = {"format": REPORT_FORMAT, "package": package or manifest_digest(place.dataset)}
    write_description(folder / REPORT, {**report, **values, "files": files})
    notebook.output = {path.name: path.read_bytes() for path in folder.iterdir()}
    pieces = [{"stream_name": "stdout", "time": 1.0, "data": text}]
    notebook.log = json.dumps(pieces)


@pytest.fixture
def done(server, place):
    """A notebook that was pushed and has run on Kaggle; return its place."""
    server.notebooks[NOTEBOOK] = Notebook(saved=[{}], statuses=("COMPLETE",))
    pushed = {"package": manifest_digest(place.dataset), "notebook": NOTEBOOK, "version": 1}
    latest = {"competition": [COMPETITION], "is_checked": True, "notebooks": [NOTEBOOK]}
    place.pushed.write_text(json.dumps({**pushed, **latest}))
    leave_output(server, place)
    return place


# The straight way


def test_four_commands_lead_from_a_run_to_a_submission(place, server, monkeypatch, capsys):
    monkeypatch.chdir(place.folder.parents[2])
    monkeypatch.setattr(stages, "_SECONDS_BETWEEN_LOOKS", 0.0)
    assert call("push", "--run-name", "k", changes=[], program=kaggle_main) == 0
    leave_output(server, place)
    assert call("status", "--run-name", "k", changes=[], program=kaggle_main) == 0
    submit = ("submit", "--run-name", "k", "--message", "first try")
    assert call(*submit, changes=[], program=kaggle_main) == 2  # nobody is here to be asked
    assert server.submissions == []
    assert call(*submit, "--yes", changes=[], program=kaggle_main) == 0
    shown = capsys.readouterr().out
    assert "answered by model: 231" in shown
    assert "1 left today" in shown
    assert "Successfully submitted" in shown
    uploaded = server.datasets[DATASET]
    assert (uploaded.licence, uploaded.is_private) == ("CC0-1.0", True)
    manifest = json.loads((place.dataset / "manifest.json").read_text())
    assert set(uploaded.versions[0]) == {"manifest.json", *manifest["files"]}
    for name, content in uploaded.versions[0].items():
        assert content == (place.dataset / name).read_bytes()
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


def test_what_kaggle_has_is_not_uploaded_again_and_what_changed_is(server, place, client):
    for _ in range(2):
        stages.push(place, client)
    assert len(server.datasets[DATASET].versions) == 1
    assert len(server.notebooks[NOTEBOOK].saved) == 2
    again = make_package(place.folder.parents[2], changes=[*CHANGES, "predict.num_views=7"])
    stages.push(again, client)
    assert len(server.datasets[DATASET].versions) == 2
    assert json.loads(again.pushed.read_text())["version"] == 3


def test_pretraining_goes_on_from_its_own_output(server, places, client):
    place = places["p"]
    stages.push(place, client)
    make_package(place.folder.parents[2], "p", changes=CHANGES)  # the other notebook of this run
    stages.push(place, client)
    make_package(place.folder.parents[2], "p", "pretrain", [*TRAINING, "data.left_out=40853293"])
    stages.push(place, client)
    first, second = server.notebooks[f"{USER}/arc-trm-p-pretrain"].saved
    assert not first.get("kernelDataSources")
    assert second["kernelDataSources"] == [f"{USER}/arc-trm-p-pretrain"]
    with pytest.raises(InputError, match="trains; package its weights"):
        stages.submit(place, client, "", stages.agree)


def test_the_notebook_is_pushed_when_the_data_set_is_ready(server, place, client, pauses):
    server.faults["GetDatasetStatus"] = [
        Answer(404, "Not found"), Answer(404, "Not found"),  # ours, and the client's own
        Answer(403, "Permission 'datasets.get' was denied"),
    ]  # fmt: skip
    stages.push(place, client)
    names = [name for name, _ in server.requests]
    assert names.index("CreateDataset") < names.index("SaveKernel")
    assert len(pauses) >= 2  # not to be seen, then not ready


# What Kaggle refuses


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
def test_errors_that_end_with_status_0_are_errors(server, place, client, method, body, message):
    server.faults[method] = refuse(body)
    with pytest.raises(KaggleError, match=message):
        stages.push(place, client)
    with pytest.raises(InputError, match="nothing was pushed"):
        stages.submit(place, client, "", stages.agree)


def test_a_new_version_that_fails_is_an_error(server, place, client):
    server.faults["CreateDatasetVersion"] = refuse({"status": "error", "error": "No room left"})
    client.create_dataset(place.dataset)
    with pytest.raises(KaggleError, match="No room left"):
        stages.push(place, client)


def test_a_data_set_that_fails_on_kaggle_is_an_error(server, place, client):
    client.create_dataset(place.dataset)
    server.datasets[DATASET].statuses = ("BLOBS_RECEIVED", "FAILED")
    with pytest.raises(KaggleError, match="failed on Kaggle"):
        stages.push(place, client)
    assert NOTEBOOK not in server.notebooks


def test_a_file_that_cannot_be_uploaded_is_an_error(server, place, client):
    server.faults["PUT"] = [Answer(400, "No")]
    with pytest.raises(KaggleError, match=r"Upload unsuccessful: .*Next: push again"):
        stages.push(place, client)
    assert NOTEBOOK not in server.notebooks


def test_a_broken_upload_goes_on(server, place, client):
    server.faults["PUT"] = [Answer(503, kept=4), Answer(308, headers={"Range": "bytes=0-3"})]
    stages.push(place, client)
    for name, content in server.datasets[DATASET].versions[0].items():
        assert content == (place.dataset / name).read_bytes()


def test_a_busy_server_is_asked_again(server, place, client, pauses):
    server.faults["CreateDataset"] = [Answer(429, "Too many requests", {"Retry-After": "0"})]
    server.faults["SaveKernel"] = [Answer(503, "Service unavailable"), Answer(429, b"")]
    server.faults["GetKernelSessionStatus"] = [Answer(0), Answer(500, b"")]
    stages.push(place, client)
    leave_output(server, place)
    stages.status(place, client)
    assert len(server.notebooks[NOTEBOOK].saved) == 1
    assert pauses.count(5.0) == 2
    assert pauses.count(15.0) == 2


def test_patience_ends(server, client, pauses):
    server.faults["GetSubmissionLimits"] = [Answer(503, "Service unavailable")] * 9
    with pytest.raises(KaggleError, match="submission-limits: Service unavailable"):
        client.submissions_left(COMPETITION)
    assert pauses == [5.0, 15.0, 45.0, 120.0]


def test_a_push_whose_answer_is_lost_is_not_repeated(server, place, client):
    server.faults["SaveKernel"] = [Answer(0, done=True)]
    with pytest.raises(KaggleError, match="kernels push"):
        stages.push(place, client)
    assert len(server.notebooks[NOTEBOOK].saved) == 1


# What the notebook left


def test_a_notebook_that_failed_shows_its_last_lines(server, done, client, capsys):
    notebook = server.notebooks[NOTEBOOK]
    notebook.statuses, notebook.failure = ("RUNNING", "ERROR"), "Notebook threw"
    leave_output(server, done, "step 1\nstep 2\nValueError: no such thing\n")
    with pytest.raises(KaggleError, match=r"ended with error \(Notebook threw\)"):
        stages.status(done, client)
    assert "ValueError: no such thing" in capsys.readouterr().out
    with pytest.raises(InputError, match="works is not known"):
        stages.submit(done, client, "", stages.agree)
    assert server.submissions == []


def test_output_of_another_package_or_damaged_on_the_way_is_refused(server, done, client):
    leave_output(server, done, package="something else")
    with pytest.raises(KaggleError, match="another package"):
        stages.status(done, client)
    leave_output(server, done)
    server.notebooks[NOTEBOOK].output["submission.json"] = b'{"a": []}'
    with pytest.raises(InputError, match=r"submission\.json: differs"):
        stages.status(done, client)
    del server.notebooks[NOTEBOOK].output[REPORT]
    with pytest.raises(KaggleError, match="not among the output: all is well"):
        stages.status(done, client)


# One submission a day


def test_nothing_is_submitted_without_a_yes(server, done, client):
    asked = []
    stages.submit(done, client, "", asked.append)
    assert asked == [f"{COMPETITION}: submit version 1 of {NOTEBOOK}? (1 left today)"]
    assert server.submissions == []


def test_the_first_submission_of_all_is_possible(server, done, client):
    """Who is on no team yet is told that no submission is left."""
    server.faults["GetSubmissionLimits"] = [Answer(200, {})]
    asked = []
    stages.submit(done, client, "", asked.append)
    assert "not known" in asked[0]


def test_only_what_was_seen_to_work_is_submitted(server, place, client):
    stages.push(place, client)
    leave_output(server, place)
    with pytest.raises(InputError, match="make status RUN=k"):
        stages.submit(place, client, "", stages.agree)
    assert server.submissions == []
    stages.status(place, client)
    stages.submit(place, client, "", stages.agree)
    assert len(server.submissions) == 1


def test_a_day_without_submissions_left(server, done, client):
    server.faults["GetSubmissionLimits"] = [Answer(200, {"numToday": 1, "numTotal": 5})]
    with pytest.raises(KaggleError, match="no submission is left today"):
        stages.submit(done, client, "", stages.agree)
    assert calls(server, "CreateCodeSubmission") == []


@pytest.mark.parametrize(
    ("answer", "is_unclear"),
    [
        (Answer(403, "You have used all your submissions today"), False),
        (Answer(403, "You must accept the competition's rules"), False),
        (Answer(503, "Service unavailable"), True),
        (Answer(0, done=True), True),
        (Answer(200, {"message": "Submission not allowed"}), True),
        (Answer(200, {}), True),
    ],
)
def test_a_submission_is_tried_once(server, done, client, answer, is_unclear):
    server.faults["CreateCodeSubmission"] = [answer]
    with pytest.raises(KaggleError) as caught:
        stages.submit(done, client, "", stages.agree)
    assert ("may have arrived" in str(caught.value)) == is_unclear
    if is_unclear:  # and is not tried by mistake either
        with pytest.raises(InputError, match="was submitted, see"):
            stages.submit(done, client, "", stages.agree)
    assert len(calls(server, "CreateCodeSubmission")) == 1


def test_no_version_is_submitted_twice(server, done, client):
    server.submissions_allowed = 5
    stages.submit(done, client, "", stages.agree)
    with pytest.raises(InputError, match="version 1 was submitted"):
        stages.submit(done, client, "", stages.agree)
    with pytest.raises(InputError, match="was seen to work; make submit RUN=k"):
        stages.push(done, client)
    assert len(server.submissions) == 1


# Secrets


def test_secrets_reach_no_log(server, place, client, capsys, monkeypatch):
    monkeypatch.setenv("VERBOSE", "1")
    monkeypatch.setenv("VERBOSE_OUTPUT", "1")
    server.faults["SaveKernel"] = [Answer(400, f"your key {KEY} is not welcome")]
    with pytest.raises(KaggleError, match=r"your key \*\*\* is not welcome"):
        stages.push(place, client)
    assert client.username() == USER
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


def test_without_credentials_the_next_step_is_named(server, client, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(KaggleError, match=r"Authentication required.*Next: get a token"):
        client.submissions_left(COMPETITION)
    with pytest.raises(KaggleError, match=r"get a token"):
        client.dataset_state(DATASET)


def test_a_talkative_client_would_have_shown_the_key(server):
    """Why VERBOSE is taken out of its environment."""
    command = [sys.executable, "-m", "kaggle", "competitions", "submission-limits", COMPETITION]
    environment = {**os.environ, "VERBOSE": "1", "VERBOSE_OUTPUT": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Authorization" in done.stdout + done.stderr


# The package


def test_the_package_holds_what_its_manifest_names(packages):
    for name in ("k", "p"):
        place = Place.of(Run(packages / "runs" / name))
        manifest = json.loads((place.dataset / "manifest.json").read_text())
        there = {path.name: path.stat().st_size for path in place.dataset.iterdir()}
        del there["manifest.json"], there["dataset-metadata.json"]
        assert manifest["sizes"] == there
        assert manifest["files"].keys() == there.keys()
        wheels = {name.partition("-")[0] for name in there if name.endswith(".whl")}
        assert wheels == {"arc_trm", "adam_atan2_pytorch"}
        assert {"licence", "code_version"} <= manifest.keys()
    assert "arc-agi_training_solutions.json" in there


def test_only_what_a_solver_may_see_of_predicted_tasks_is_packed(packages):
    folder = Place.of(Run(packages / "runs" / "p")).dataset
    assert len(read_challenges(*(folder / f"arc-agi_training_{n}.json" for n in BOTH))) == 400
    assert len(read_challenges(folder / "arc-agi_evaluation_challenges.json")) == 400
    assert not (folder / "arc-agi_evaluation_solutions.json").exists()


def test_training_that_gives_answers_away_is_not_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("package", "--run-name", "p", "--notebook", "pretrain")
    assert call(*arguments, changes=TRAINING, program=kaggle_main) == 2
    assert "070dd51e (40853293)" in capsys.readouterr().err


STRANGERS = {
    "kaggle.json": ('{"username":"a","key":"0123456789abcdef0123456789abcdef"}', "credentials"),
    "notes.txt": ('{"key": "0123456789abcdef0123456789abcdef"}', "credentials"),
    "more.txt": ("anything", "not listed in manifest.json"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_refused_by_name_and_stay(server, place, client, name, capsys, monkeypatch):
    content, reason = STRANGERS[name]
    (place.dataset / name).write_text(content)
    with pytest.raises(InputError, match=rf"refused: {name} \({reason}"):
        stages.push(place, client)
    monkeypatch.chdir(place.folder.parents[2])
    assert call("package", "--run-name", "k", changes=CHANGES, program=kaggle_main) == 2
    assert f"{name} ({reason}" in capsys.readouterr().err
    assert (place.dataset / name).read_text() == content
    assert server.requests == []


def test_solutions_of_scored_tasks_are_refused(server, place, client):
    tasks = load_source("arc2/evaluation")
    write_solutions(place.dataset / "arc-agi_evaluation_solutions.json", tasks)
    with pytest.raises(InputError, match="solutions of 120 scored tasks"):
        stages.push(place, client)
    assert server.requests == []


def test_folders_and_damaged_files_are_refused(server, place, client):
    (place.dataset / "more").mkdir()
    with pytest.raises(InputError, match=r"more \(folders are not uploaded\)"):
        stages.push(place, client)
    (place.dataset / "more").rmdir()
    with (place.dataset / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"weights\.safetensors: differs"):
        stages.push(place, client)


def test_a_damaged_package_is_made_again(place):
    (place.dataset / "weights.safetensors").unlink()
    (place.dataset / "puzzles.json").write_text("{}")
    make_package(place.folder.parents[2])
    assert json.loads((place.dataset / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("run", ["First", "a_b", "-a", "x" * 40])
def test_a_run_whose_name_kaggle_would_change_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("package", "--run-name", run, changes=CHANGES, program=kaggle_main) == 2
    assert "small letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kaggle.competition=https://kaggle.com/c/arc", "the end of its address"),
        ("adapt.start=scratch", "leave out weights="),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("package", "--run-name", "k")
    assert call(*arguments, changes=[*CHANGES, change], program=kaggle_main) == 2
    assert message in capsys.readouterr().err


def test_a_notebook_of_another_package_is_refused(server, place, client):
    path = place.notebook / "predict.ipynb"
    path.write_text(path.read_text().replace(manifest_digest(place.dataset), "0" * 64))
    with pytest.raises(InputError, match="made for another package"):
        stages.push(place, client)


def test_weights_that_were_taught_the_answers_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = ["data.trained=arc1/training", "data.predicted=", *SHORT[1:], "train.num_steps=1"]
    assert call("pretrain", "--run-name", "t", changes=training) == 0
    changes = [f"kaggle.owner={USER}", "data.predicted=arc1/training", "data.max_side=4"]
    arguments = ("package", "--run-name", "t")
    assert call(*arguments, changes=changes, program=kaggle_main) == 2
    assert "trained on the answers of" in capsys.readouterr().err
    changes.append("predict.refuse_taught=false")
    assert call(*arguments, changes=changes, program=kaggle_main) == 0


def test_a_secret_in_the_program_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAGGLE_KEY", "Tiny Recursion Model")  # words of the program
    assert call("package", "--run-name", "k", changes=CHANGES, program=kaggle_main) == 2
    assert "(credentials in " in capsys.readouterr().err


def test_the_weights_of_7_million_parameters_take_less_than_40_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full_size = ("model.", "train.schedule")
    training = [change for change in SHORT if not change.startswith(full_size)]
    changes = [*training, "data.trained=", "train.num_steps=1", "train.global_batch=2"]
    arguments = ("pretrain", "--recipe", "arc1", "--run-name", "full")
    assert call(*arguments, changes=[*changes, "data.left_out="]) == 0
    place = make_package(tmp_path, "full", changes=[f"kaggle.owner={USER}"])
    manifest = json.loads((place.dataset / "manifest.json").read_text())
    assert 25e6 < sum(manifest["sizes"].values()) < 40e6


def pythons():
    """This Python, and another version where one is to be found."""
    found = [sys.executable]
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    candidates = [path for root in roots for path in sorted(root.glob("3.1[23]*/bin/python"))]
    candidates += [Path(p) for v in ("3.12", "3.13") if (p := shutil.which(f"python{v}"))]
    for path in candidates:
        probe = subprocess.run([path, "-c", "import ensurepip"], capture_output=True)
        if probe.returncode == 0:
            return [*found, str(path)]
    return found


@pytest.mark.parametrize("python", pythons())
def test_the_package_installs_offline(packages, tmp_path, python):
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    installed = str(tmp_path / "venv" / "bin" / "python")
    wheels = sorted((packages / "runs" / "k" / "kaggle" / "dataset").glob("*.whl"))
    assert len(wheels) == 2
    install = [installed, "-m", "pip", "install", "--no-index", "--no-deps", "-q", *wheels]
    subprocess.run(install, check=True, cwd=tmp_path)
    asked = "from pipeline.version import code_version; print(code_version())"
    command = [installed, "-c", asked]
    shown = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.startswith("0.1.0+g")
