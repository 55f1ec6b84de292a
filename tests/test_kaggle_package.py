"""What a package holds, what it refuses to hold, and that it installs offline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SHORT, call, write_task_folder
from kaggle_objects import USER
from kaggle_run import CHANGES, TRAINING, make_package

from augment.task_files import read_challenges
from kernels_kaggle.__main__ import main
from kernels_kaggle.at_home.folder import PackageFolder
from kernels_kaggle.exchange import Manifest
from pipeline.recipes import load_recipe
from pipeline.run import Run

pytest_plugins = ["kaggle_fixtures"]


def test_the_package_holds_what_its_manifest_names(packages):
    for name in ("k", "p"):
        folder = PackageFolder(Run(packages / "runs" / name))
        manifest = json.loads((folder.dataset / "manifest.json").read_text())
        there = {path.name: path.stat().st_size for path in folder.dataset.iterdir()}
        del there["manifest.json"], there["dataset-metadata.json"]
        assert manifest["sizes"] == there
        assert manifest["files"].keys() == there.keys()
        wheels = {name.partition("-")[0] for name in there if name.endswith(".whl")}
        assert wheels == {"arc_trm", "adam_atan2_pytorch"}
        assert {"licence", "code_version"} <= manifest.keys()
    assert "arc-agi_training_solutions.json" in there


def test_only_what_a_solver_may_see_of_predicted_tasks_is_packed(packages):
    folder = PackageFolder(Run(packages / "runs" / "p")).dataset
    names = ("arc-agi_training_challenges.json", "arc-agi_training_solutions.json")
    assert len(read_challenges(*(folder / name for name in names))) == 400
    assert len(read_challenges(folder / "arc-agi_evaluation_challenges.json")) == 400
    assert not (folder / "arc-agi_evaluation_solutions.json").exists()


def test_training_that_gives_answers_away_is_not_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("package", "--run-name", "p", "--notebook", "pretrain")
    assert call(*arguments, changes=TRAINING, program=main) == 2
    assert (
        "the demonstrations of 070dd51e are the demonstrations of 40853293"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.fresh", "fresh pairs do not travel to Kaggle"),
        ("data.evaluated", "tasks to evaluate on do not travel"),
        ("train.start_from", "weights to start from do not travel"),
    ],
)
def test_what_training_would_need_from_home_is_not_packed(
    name, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = ("package", "--run-name", "p", "--notebook", "pretrain")
    assert call(*arguments, changes=[*TRAINING, f"{name}=folder:f"], program=main) == 2
    assert f"{name}: {message}" in capsys.readouterr().err


def test_paths_of_this_machine_stay_at_home(tmp_path, monkeypatch, arc1):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "secret-home"
    write_task_folder(home, [task for task in arc1 if task.longest_side() <= 4])
    sources = [f"data.trained=folder:{home}", f"data.evaluated=folder:{home}"]
    changes = [*SHORT, *sources, "data.predicted=", "train.num_steps=1", "train.eval_every=1"]
    assert call("pretrain", "--run-name", "k", changes=changes) == 0
    weights = tmp_path / "runs" / "k" / "checkpoints" / "step_000000001"
    settings = (weights / "checkpoint.json").read_text()
    assert "secret-home" in settings
    named = [f"weights={weights}", f"shipped_weights={weights}", f"train.start_from={weights}"]
    named += [*sources, f"data.fresh=folder:{home}", "train.eval_every=1"]
    folder = make_package(tmp_path, changes=[*named, f"kaggle.owner={USER}"])
    for path in folder.root.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path
    manifest = Manifest.read(folder.dataset)
    load_recipe(manifest.recipe, manifest.changes)


def test_a_copy_without_git_makes_no_package(tmp_path):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "pipeline" / "strange.py").touch()
    command = [sys.executable, "-m", "kernels_kaggle", "package", "--set", " ".join(CHANGES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "packages come from a git checkout only" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_package_is_made_again(folder):
    (folder.dataset / "weights.safetensors").unlink()
    (folder.dataset / "puzzles.json").write_text("{}")
    make_package(folder.root.parents[2])
    assert json.loads((folder.dataset / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("run", ["First", "a_b", "-a", "x" * 40])
def test_a_run_whose_name_kaggle_would_change_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("package", "--run-name", run, changes=CHANGES, program=main) == 2
    assert "small letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kaggle.competition=https://kaggle.com/c/arc", "the end of its address, of 1 to 50 signs"),
        ("kaggle.competition=" + 51 * "a", "of 1 to 50 signs"),
        ("adapt.start=scratch", "leave out weights="),
        ("kaggle.owner=someone/x", "kaggle.owner must be a Kaggle user name, got 'someone/x'"),
        ("kaggle.owner=--help", "kaggle.owner must be a Kaggle user name, got '--help'"),
        ("kaggle.competition=--help", "the end of its address"),
        ("kaggle.licence=MIT-0", "Input should be 'CC0-1.0', "),
        ("kaggle.machine_shape=NvidiaP100", "Input should be 'NvidiaL4', 'NvidiaTeslaT4', "),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("package", "--run-name", "k")
    assert call(*arguments, changes=[*CHANGES, change], program=main) == 2
    assert message in capsys.readouterr().err


def test_weights_that_were_taught_the_answers_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = ["data.trained=arc1/training", "data.predicted=", *SHORT[1:], "train.num_steps=1"]
    assert call("pretrain", "--run-name", "t", changes=training) == 0
    changes = [f"kaggle.owner={USER}", "data.predicted=arc1/training", "data.max_side=4"]
    arguments = ("package", "--run-name", "t")
    assert call(*arguments, changes=changes, program=main) == 2
    assert "trained on the solutions of" in capsys.readouterr().err
    changes.append("predict.refuse_leaks=false")
    assert call(*arguments, changes=changes, program=main) == 0


def test_the_weights_of_7_million_parameters_take_less_than_40_mb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full_size = ("model.", "train.schedule")
    training = [change for change in SHORT if not change.startswith(full_size)]
    changes = [*training, "data.trained=", "train.num_steps=1", "train.global_batch=2"]
    arguments = ("pretrain", "--recipe", "arc1", "--run-name", "full")
    assert call(*arguments, changes=[*changes, "data.left_out="]) == 0
    folder = make_package(tmp_path, "full", changes=[f"kaggle.owner={USER}"])
    manifest = json.loads((folder.dataset / "manifest.json").read_text())
    assert 25e6 < sum(manifest["sizes"].values()) < 40e6


def list_pythons():
    """This Python, and another version where there is one."""
    versions = [sys.executable]
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    candidates = [path for root in roots for path in sorted(root.glob("3.1[23]*/bin/python"))]
    candidates += [Path(p) for v in ("3.12", "3.13") if (p := shutil.which(f"python{v}"))]
    for path in candidates:
        probe = subprocess.run([path, "-c", "import ensurepip"], capture_output=True)
        if probe.returncode == 0:
            return [*versions, str(path)]
    return versions


@pytest.mark.parametrize("python", list_pythons())
def test_the_package_installs_offline(packages, tmp_path, python):
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    installed = str(tmp_path / "venv" / "bin" / "python")
    wheels = sorted((packages / "runs" / "k" / "kaggle" / "dataset").glob("*.whl"))
    assert len(wheels) == 2
    install = [installed, "-m", "pip", "install", "--no-index", "--no-deps", "-q", *wheels]
    subprocess.run(install, check=True, cwd=tmp_path)
    program = "from pipeline.version import code_version; print(code_version())"
    command = [installed, "-c", program]
    shown = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.startswith("0.1.0+g")
