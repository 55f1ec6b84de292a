"""The notebooks, executed as on Kaggle: its folders, its packages, no network."""

import re
import shutil

import pytest
from commands import ROOT, call
from kaggle_machine import has_namespaces, make_image, run_notebook

from augment.task import Task, read_challenges, write_challenges, write_solutions
from kernels_kaggle.__main__ import main as kaggle_main
from pipeline.sources import load_source
from submission.writer import read_submission

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not has_namespaces(), reason="no namespaces can be made here (unshare)"),
]
COMPETITION, DATASET = "arc-prize-2026-arc-agi-2", "arc-trm-k"
LAYOUTS = {
    "flat": (COMPETITION, DATASET),
    "by kind": (f"competitions/{COMPETITION}", f"datasets/tester/{DATASET}"),
    "mixed": (f"competitions/{COMPETITION}", DATASET),
}
TASKS = 240
HIDDEN = "arc-agi_test_challenges.json"
SECONDS = 40
CHANGES = [
    f"weights={ROOT / 'solver' / 'weights' / 'demo'}",
    "kaggle.owner=tester",
    "kaggle.machine_shape=",
    f"kaggle.smoke_seconds={SECONDS}",
    f"predict.time_limit_seconds={SECONDS}",
    "predict.num_views=8",
    "predict.num_supervision_steps=2",
    "predict.ranking=count",
    "adapt.global_batch=16",
    "adapt.num_cycles=1",
    "adapt.num_latent_steps=1",
    "adapt.max_supervision_steps=2",
]
KILLED = """
import os, signal, sys, threading
if "pipeline" in sys.orig_argv:
    threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGKILL)).start()
"""


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """The competition's files, with public tasks in the place of the hidden ones."""
    folder = tmp_path_factory.mktemp("competition")
    hidden = sorted(load_source("arc1/evaluation"), key=Task.longest_side)
    write_challenges(folder / HIDDEN, [task.without_answers() for task in hidden[:TASKS]])
    tasks = load_source("arc2/evaluation")
    write_challenges(folder / "arc-agi_evaluation_challenges.json", tasks)
    write_solutions(folder / "arc-agi_evaluation_solutions.json", tasks)
    return folder


def make_package(folder, stage, run, changes):
    """Return the folder ``runs/RUN/kaggle`` of a package made by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["package", "--notebook", stage, "--run-name", run]
        assert call(*arguments, changes=changes, program=kaggle_main) == 0
    return folder / "runs" / run / "kaggle"


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("packages"), "predict", "k", CHANGES)


class Machine:
    """A machine whose inputs a test sets up and, where it likes, breaks."""

    def __init__(self, folder, packaged, competition):
        self.folder, self.packaged, self.competition = folder, packaged, competition

    def set_up(self, layout="flat", with_package=True, site=""):
        places = [self.folder / "input" / name for name in LAYOUTS[layout]]
        shutil.copytree(self.competition, places[0])
        self.package = places[1]
        if with_package:
            unread = shutil.ignore_patterns("dataset-metadata.json")
            shutil.copytree(self.packaged / "dataset", self.package, ignore=unread)
        make_image(self.folder / "image", site)

    def execute(self, is_rerun):
        ended = run_notebook(self.folder, self.packaged / "notebook" / "predict.ipynb", is_rerun)
        print(ended.text)
        return ended

    def count_guesses(self, ended):
        """Return how many hidden tests have the first guess; all have a valid answer."""
        tasks = read_challenges(self.competition / HIDDEN)
        attempts = read_submission(ended.working / "submission.json", tasks).attempts
        assert len(attempts) == TASKS
        guesses = [
            attempt_2.shape == (1, 1) for tests in attempts.values() for _, attempt_2 in tests
        ]
        return sum(guesses)


@pytest.fixture
def machine(tmp_path, packaged, competition):
    return Machine(tmp_path, packaged, competition)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_scored_rerun(machine, layout):
    machine.set_up(layout)
    ended = machine.execute(is_rerun=True)
    assert ended.completed
    assert "scored rerun" in ended.text
    assert machine.count_guesses(ended) < 10
    answered = int(re.search(r"coverage: model (\d+) of \d+", ended.text)[1])
    assert answered > 70  # as many as fit the canvas of the demo's weights
    assert ended.pictures == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_outside_the_scoring(machine, layout):
    machine.set_up(layout)
    ended = machine.execute(is_rerun=False)
    assert ended.completed
    assert re.search(r"coverage: model [1-9]\d* of", ended.text)
    assert "test outputs solved in two attempts" in ended.text
    assert machine.count_guesses(ended) > TASKS  # the first guesses at the hidden ones
    assert (ended.working / "arc_trm.json").exists()
    assert not (ended.working / "runs" / "k" / "adapted").exists()


def lose_weights(machine):
    shutil.rmtree(machine.package)


def lose_a_file(machine):
    (machine.package / "weights.safetensors").unlink()


def spoil_weights(machine):
    path = machine.package / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def spoil_program(machine):
    path = next(machine.package.glob("arc_trm-*.whl"))
    path.write_bytes(path.read_bytes()[:-200])


BROKEN = {
    lose_weights: "no manifest.json",
    lose_a_file: "weights.safetensors: cannot be read",
    spoil_weights: "weights.safetensors: differs",
    spoil_program: "arc_trm",
}


@pytest.mark.parametrize("is_rerun", [True, False])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_package_leaves_guesses_or_fails(machine, fault, is_rerun):
    machine.set_up()
    fault(machine)
    ended = machine.execute(is_rerun)
    assert ended.completed == is_rerun
    assert BROKEN[fault] in ended.text
    assert machine.count_guesses(ended) > TASKS


@pytest.mark.parametrize("is_rerun", [True, False])
@pytest.mark.parametrize("seconds", [1, 14])
def test_a_program_that_is_killed_leaves_what_it_had_or_fails(machine, seconds, is_rerun):
    machine.set_up(site=KILLED.format(seconds=seconds))
    ended = machine.execute(is_rerun)
    assert ended.completed == is_rerun
    assert "ended with status -9" in ended.text
    guesses = machine.count_guesses(ended)
    assert (guesses < 10) == (is_rerun and seconds > 1)
