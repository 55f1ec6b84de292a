"""The notebook that predicts, executed as on Kaggle: its folders, its packages, no network."""

import json
import re
import shutil
import time
from dataclasses import replace

import pytest
from commands import ROOT, call
from kaggle_machine import make_image, run_notebook
from kaggle_run import make_package

from augment.task import Task
from augment.task_files import read_challenges, write_challenges, write_solutions
from kernels_kaggle.on_kaggle import predict
from kernels_kaggle.on_kaggle.session import Session
from pipeline.sources import load_source
from submission.writer import read_submission

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]
pytest_plugins = ["kaggle_fixtures"]
COMPETITION, DATASET = "arc-prize-2026-arc-agi-2", "arc-trm-k"
LAYOUTS = {
    "flat": (COMPETITION, DATASET),
    "by kind": (f"competitions/{COMPETITION}", f"datasets/tester/{DATASET}"),
    "mixed": (f"competitions/{COMPETITION}", DATASET),
}
TASKS = 240
HIDDEN = "arc-agi_test_challenges.json"
CHANGES = [
    f"weights={ROOT / 'solver' / 'pretrained' / 'demo'}",
    "kaggle.owner=tester",
    "kaggle.machine_shape=",
    "kaggle.smoke_seconds=250",
    "predict.time_limit_seconds=250",
    "predict.num_views=8",
    "predict.num_supervision_steps=2",
    "predict.ranking=count",
    "adapt.num_steps=20",
    "adapt.global_batch=16",
    "adapt.num_cycles=1",
    "adapt.num_latent_steps=1",
    "adapt.max_supervision_steps=2",
    "adapt.per_task_steps=0",
]
# Run by every Python of the machine: the program is killed when this file is there.
KILLED = """
import os, signal, sys, threading, time

def kill():
    while not os.path.exists("{when}"):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

if "pipeline" in sys.orig_argv:
    threading.Thread(target=kill, daemon=True).start()
"""


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """The competition's files, with public tasks in the place of the hidden ones."""
    folder = tmp_path_factory.mktemp("competition")
    hidden = sorted(load_source("arc1/evaluation"), key=Task.longest_side)
    write_challenges(folder / HIDDEN, [task.without_solutions() for task in hidden[:TASKS]])
    tasks = load_source("arc2/evaluation")
    write_challenges(folder / "arc-agi_evaluation_challenges.json", tasks)
    write_solutions(folder / "arc-agi_evaluation_solutions.json", tasks)
    return folder


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("packages"), changes=CHANGES)


class Machine:
    """A machine whose inputs a test sets up and, where it likes, breaks."""

    def __init__(self, folder, packaged, competition):
        self.folder, self.packaged, self.competition = folder, packaged, competition

    def set_up(self, layout="flat", with_package=True, site=""):
        competition, self.package = (self.folder / "input" / name for name in LAYOUTS[layout])
        shutil.copytree(self.competition, competition)
        if with_package:
            unread = shutil.ignore_patterns("dataset-metadata.json")
            shutil.copytree(self.packaged.dataset, self.package, ignore=unread)
        make_image(self.folder / "image", site)

    def execute(self, is_rerun):
        ended = run_notebook(self.folder, self.packaged.notebook / "predict.ipynb", is_rerun)
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
    report = json.loads((ended.working / "arc_trm.json").read_text())
    assert report["steps"] > 0
    assert "runs/k/submission.json" in report["files"]
    assert all(name.startswith("runs/k/") for name in report["files"])
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
    spoil_program: "is invalid",
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
@pytest.mark.parametrize("when", ["/kaggle/working", "runs/k/votes/round_0001"])
def test_a_program_that_is_killed_leaves_what_it_had_or_fails(machine, when, is_rerun):
    machine.set_up(site=KILLED.format(when=when))
    ended = machine.execute(is_rerun)
    assert ended.completed == is_rerun
    assert ended.text.count("predict ended with status -9") == (3 if is_rerun else 1)
    answered = is_rerun and when.startswith("runs")
    assert (machine.count_guesses(ended) < 10) == answered


@pytest.mark.parametrize("is_rerun", [True, False])
def test_a_budget_nearly_spent(tmp_path, competition, is_rerun):
    hurry = [*CHANGES, "predict.time_limit_seconds=2", "kaggle.smoke_seconds=2"]
    machine = Machine(tmp_path, make_package(tmp_path, changes=hurry), competition)
    machine.set_up()
    ended = machine.execute(is_rerun)
    assert ended.completed == is_rerun
    assert "coverage: model 0 of" in ended.text
    assert (machine.count_guesses(ended) < 10) == is_rerun
    assert ("not worth a submission" in ended.text) != is_rerun


def test_a_short_budget_is_kept(tmp_path, competition):
    changes = [*CHANGES, "predict.time_limit_seconds=45", "adapt.num_steps=1000000"]
    machine = Machine(tmp_path, make_package(tmp_path, changes=changes), competition)
    machine.set_up()
    ended = machine.execute(is_rerun=True)
    assert ended.completed
    assert "the time is over: the program is killed" not in ended.text
    assert machine.count_guesses(ended) < 10


@pytest.mark.parametrize("is_rerun", [True, False])
def test_a_machine_without_the_gpus_that_were_asked_for(tmp_path, competition, is_rerun):
    changes = [*CHANGES, "kaggle.machine_shape=NvidiaL4", "predict.time_limit_seconds=2"]
    machine = Machine(tmp_path, make_package(tmp_path, changes=changes), competition)
    machine.set_up()
    ended = machine.execute(is_rerun)
    assert ended.completed == is_rerun
    assert ("0 GPUs here, but NvidiaL4 has 4" in ended.text) != is_rerun


def test_hidden_tasks_that_are_not_valid_cost_no_others(machine):
    machine.set_up()
    path = machine.folder / "input" / COMPETITION / HIDDEN
    tasks = json.loads(path.read_text())
    first, second, third = list(tasks)[:3]
    tasks[first]["train"] = []
    tasks[second]["test"][0]["input"] = [[0] * 31]
    del tasks[third]["test"][0]["input"]
    twice = '{"train": [], "train": [], "test": []}'
    deep = "[" * 3000 + "]" * 3000
    path.write_text(f'{{"deep": {deep}, "twice": {twice}, {json.dumps(tasks)[1:]}')
    ended = machine.execute(is_rerun=True)
    assert ended.completed
    assert ended.text.count("it keeps its guess") == 5
    submission = json.loads((ended.working / "submission.json").read_text())
    assert list(submission) == ["deep", "twice", *tasks]
    assert all(len(submission[name]) == len(tasks[name]["test"]) for name in tasks)
    assert submission[third][0] == {"attempt_1": [[1]], "attempt_2": [[0]]}
    assert re.search(r"coverage: model [1-9]\d+ of", ended.text)


def test_every_gpu_gets_a_process(machine):
    """Two cards, says the driver; the processes compute on the CPU all the same."""
    driver = machine.folder / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    card = "NVIDIA L4, 23034 MiB, 8.9"
    driver.write_text(f"#!/bin/sh\necho '{card}'\necho '{card}'\n")
    driver.chmod(0o755)
    machine.set_up()
    ended = machine.execute(is_rerun=True)
    assert ended.completed
    assert f"GPU 1: {card}" in ended.text
    assert ", 2 processes" in ended.text
    assert re.search(r"coverage: model [1-9]\d+ of", ended.text)


def test_nothing_is_mounted(machine):
    (machine.folder / "input" / "something-else").mkdir(parents=True)
    make_image(machine.folder / "image")
    ended = machine.execute(is_rerun=True)
    assert not ended.completed
    assert "no arc-agi_test_challenges.json" in ended.text
    assert "/kaggle/input/something-else" in ended.text


@pytest.mark.parametrize(
    ("change", "line"),
    [("adapt.num_steps=0", "nothing was learned"), ("adapt.per_task_steps=0", "no task was trai")],
)
def test_predictions_without_training_are_not_worth_a_submission(
    run_here, packaged, competition, monkeypatch, change, line
):
    """As after a training that hangs, where the watchdog ends the program with success."""

    def call_without_training(stage, session, changes, *more):
        # Without a limit, at whose end the tests' own process would end.
        untrained = [*CHANGES, *changes(), "predict.deadline=0", change]
        assert call(stage, "--recipe", "kaggle", "--run-name", "k", changes=untrained) == 0

    monkeypatch.setattr(predict, "run_stage", call_without_training)
    session = Session.open(packaged.dataset, run_here, time.time(), is_rerun=False)
    adapt = replace(session.settings.adapt, per_task_steps=4)
    session = replace(session, settings=replace(session.settings, adapt=adapt))
    with pytest.raises(RuntimeError, match=line):
        predict.predict(session, competition)
