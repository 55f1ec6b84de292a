"""The stage rearc writes a folder that a source reads, of ARC-AGI-1 training tasks alone."""

import json

import pytest
from commands import call
from fake_rearc import EVALUATION, FEW, GOOD, HANGING, LYING

from pipeline.sources import fingerprint_sources, load_source
from pipeline.stages.rearc import OPTIONS

pytest_plugins = ["rearc_fixtures"]
SMALL = ("--pairs", "5", "--difficulty", "0,1")


def make(folder, *arguments):
    return call("rearc", "--to", str(folder), *SMALL, *arguments, changes=())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.usefixtures("fake_package")
def test_a_source_reads_the_folder(run_here, capsys):
    assert make(run_here / "fresh") == 0
    printed = capsys.readouterr().out
    assert f"task {FEW} has 3 of 5 pairs (47 repeated)" in printed
    assert f"task {HANGING} has 0 of 5 pairs, so it is left out (3 too slow)" in printed
    assert "13 pairs of 6 tasks" in printed
    tasks = load_source("folder:fresh")
    assert [(task.task_id, len(task.train), len(task.solutions)) for task in tasks] == [
        (GOOD, 4, 1), (LYING, 4, 1), (FEW, 2, 1),
    ]  # fmt: skip
    options = json.loads((run_here / "fresh" / OPTIONS).read_text())
    assert (options["seed"], options["num_pairs"], options["difficulty"]) == (0, 5, [0, 1])
    assert options["pairs"][FEW] == 3


@pytest.mark.usefixtures("fake_package")
def test_a_task_is_the_same_whatever_others_are_made(run_here):
    assert make(run_here / "both", "--tasks", f"{LYING},{GOOD}") == 0
    assert make(run_here / "one", "--tasks", GOOD) == 0
    assert contents(run_here / "one").items() < contents(run_here / "both").items()
    before = fingerprint_sources(["folder:one"])
    assert make(run_here / "one", "--tasks", GOOD, "--seed", "1") == 0  # written by rearc before
    assert fingerprint_sources(["folder:one"]) != before
    assert contents(run_here / "one")[f"{GOOD}.json"] != contents(run_here / "both")[f"{GOOD}.json"]


@pytest.mark.usefixtures("fake_package")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--tasks", f"{GOOD},{EVALUATION}"), f"{EVALUATION}: not ARC-AGI-1 training tasks"),
        (("--tasks", "nope"), "nope: not ARC-AGI-1 training tasks"),
        (("--tasks", "05269061"), "05269061: this reasoning-gym has no generator"),
        (("--pairs", "1"), "at least 2 pairs, got 1"),
        (("--difficulty", "0.2,0.1"), "difficulty must rise within 0..1: 0.2,0.1"),
        (("--difficulty", "0,x"), "'0,x': expected two numbers"),
        (("--difficulty", "nan,nan"), "difficulty must rise within 0..1"),
        (("--to", "mine"), "mine: is there already, and not written by rearc"),
    ],
)
def test_what_cannot_be_made_is_one_line(run_here, capsys, arguments, line):
    (run_here / "mine").mkdir()
    assert make(run_here / "fresh", *arguments) == 2
    captured = capsys.readouterr()
    assert line in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in run_here.iterdir() if path.name != "path"] == ["mine"]


@pytest.mark.usefixtures("no_package")
def test_without_the_package_a_line_says_how_to_install_it(run_here, capsys):
    assert make(run_here / "fresh") == 2
    assert "pip install --no-deps reasoning-gym" in capsys.readouterr().err
