"""What the notebooks do once the program is installed: machine, program, coverage, pictures."""

import glob
import importlib.metadata
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from augment.drawing import Picture
from augment.errors import InputError
from augment.files import hash_file, read_object, write_atomic, write_description
from augment.leaks import give_away
from augment.task import Task, parse_task, read_challenges, write_challenges, write_solutions
from kernels_kaggle.package import manifest_digest, read_manifest
from pipeline.console import say
from pipeline.recipes import Settings, load_recipe
from pipeline.runs import Run
from submission.rounds import read_votes
from submission.score import score_submission
from submission.vote import pool_votes
from submission.writer import build_submission, read_submission

SESSION_SECONDS = 42_600.0
"""What a notebook may take: Kaggle ends it after 12 hours; ten minutes are left."""

REPORT = "arc_trm.json"
"""What the notebook leaves for the person who fetches its output."""

REPORT_FORMAT = 1

_TRIES = 3  # the program goes on from where it was
_LEAST_SECONDS = 30.0  # that are worth another try
_GRACE_SECONDS = 60.0  # after which a program that should have ended is killed
_SECONDS_TO_SAVE = 300.0  # of pretraining: until its first step, and for its last checkpoint
_SECONDS_BETWEEN_LOOKS = 60.0
_SECONDS_TO_READ = 10.0  # the last lines of a program that has ended
_NUM_GPUS = {"NvidiaL4": 4, "NvidiaTeslaT4": 2}
_TEST_FILE = "arc-agi_test_challenges.json"
_TASKS = "tasks"  # the folder with the tasks of this run
_SUBMISSION = "submission.json"


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a notebook: its package, where it writes, when it began, if it is scored."""

    package: Path
    manifest: dict[str, Any]
    settings: Settings
    run: Run
    working: Path
    started: float
    is_rerun: bool

    @classmethod
    def open(cls, package: Path, working: Path, started: float, is_rerun: bool) -> "Session":
        """Return the session of a package, of which every file is checked."""
        manifest = read_manifest(package)
        settings = load_recipe(manifest["recipe"], manifest["changes"])
        run = Run(working / "runs" / manifest["run"])
        return cls(package, manifest, settings, run, working, started, is_rerun)

    def end(self, limit_seconds: float) -> float:
        """Return the Unix time at which the session, or a limit (0 = none) within it, is over."""
        return self.started + min(limit_seconds or SESSION_SECONDS, SESSION_SECONDS)


def print_banner(session: Session, *files: Path) -> None:
    """Print the machine, the versions and the hashes of what is read.

    Outside a scored rerun it is an error when this is not the machine that was asked for.
    """
    manifest = session.manifest
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    say(f"machine: {os.cpu_count()} CPUs, {memory:.0f} GB, {platform.platform()}")
    gpus = _gpus()
    for number, gpu in enumerate(gpus):
        say(f"GPU {number}: {gpu}")
    names = ("torch", "numpy", "numba", "adam-atan2-pytorch", "arc-trm")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    say(f"Python {platform.python_version()}, {', '.join(versions)}")
    say(f"package: {session.package}, code {manifest['code_version']}, {manifest['licence']}")
    say(f"recipe {manifest['recipe']} {shlex.join(manifest['changes'])}")
    for path in files:
        say(f"{path}: SHA-256 {hash_file(path)[:16]}")
    say("scored rerun" if session.is_rerun else "a run outside the scoring")
    machine = manifest["machine_shape"]
    expected = _NUM_GPUS.get(machine, 1) if machine else 0
    if len(gpus) < expected and not session.is_rerun:
        raise RuntimeError(
            f"{len(gpus)} GPUs here, but {machine} has {expected}: choose the accelerator in the "
            "notebook's settings, or package with another kaggle.machine_shape="
        )


def predict(session: Session, competition: Path) -> None:
    """Answer the hidden tasks in a scored rerun, else a few evaluation tasks, with a score.

    ``competition`` is the folder with the competition's files. The program's failure is an error,
    and so is, outside a rerun, that no answer owes anything to training. In a rerun the best
    answers so far take their place among the guesses of the submission as they come.
    """
    settings, run = session.settings, session.run
    folder = session.working / _TASKS
    if session.is_rerun:
        tasks, submission = _read_valid(competition / _TEST_FILE), session.working / _SUBMISSION
        end = session.end(settings.predict.time_limit_seconds)
        changes = []
    else:
        tasks, submission = _choose_tried(session, competition), folder / _SUBMISSION
        end = min(session.end(0), time.time() + settings.kaggle.smoke_seconds)
        changes = ["predict.adapt=all"]  # as the hidden tasks, of which no row is known
        write_solutions(folder / "arc-agi_test_solutions.json", tasks)
    write_challenges(folder / _TEST_FILE, tasks)
    changes += [
        f"data.predicted=kaggle/test:{_TASKS}",
        "data.max_side=30",
        "predict.time_limit_seconds=0",
        f"predict.deadline={end}",
        "predict.refuse_taught=false",
    ]
    if (session.package / "checkpoint.json").exists():
        changes.append(f"weights={session.package}")

    def take_over() -> None:
        """Put the answers there are into the submission, once they are valid."""
        if run.submission.exists():
            read_submission(run.submission, tasks)
            guesses = read_object(submission) if submission.exists() else {}
            write_atomic(submission, orjson.dumps({**guesses, **read_object(run.submission)}))

    try:
        _call("predict", session, changes, end + _GRACE_SECONDS, take_over)
    finally:
        take_over()
        shutil.rmtree(run.adapted, ignore_errors=True)  # large, and of no use afterwards
    report = _report(session)
    if not session.is_rerun:
        if not report["answered_by_model"]:
            raise RuntimeError("the model answered none of the tasks: not worth a submission")
        if settings.adapt.num_steps and not report["steps"]:
            raise RuntimeError("nothing was learned from the tasks: not worth a submission")


def pretrain(session: Session, inputs: Path) -> None:
    """Train until done or the session's time is over.

    It goes on from the newest checkpoint of this run below ``inputs``, where the output that this
    notebook saved before is mounted. A failure after which there is a newer one is no error: its
    output is worth saving.
    """
    run = session.run
    earlier = _newest_checkpoint(inputs, run)
    if earlier is not None:
        say(f"going on from {earlier}")
        _copy(earlier.iterdir(), run.checkpoints / earlier.name)
        _copy(earlier.parents[1].glob(run.metrics_of("pretrain").name), run.folder)
    changes = []
    for split, name in (("training", "trained"), ("evaluation", "predicted")):
        files = list(session.package.glob(f"arc-agi_{split}_*.json"))
        # Copies, as their place is a part of the settings, and mounts move.
        _copy(files, session.working / _TASKS)
        changes.append(f"data.{name}=" + (f"kaggle/{split}:{_TASKS}" if files else ""))
    end = session.end(0)
    left = max(1.0, end - _SECONDS_TO_SAVE - time.time())
    limit = min(left, session.settings.train.time_limit_seconds or left)
    try:
        _call("pretrain", session, [*changes, f"train.time_limit_seconds={limit}"], end)
    except RuntimeError as error:
        newest = max(run.checkpoints.glob("step_*[0-9]"), default=None)
        if newest is None or (earlier is not None and newest.name <= earlier.name):
            raise
        say(f"{error}; {newest.name} is kept, and the next run goes on from there")
    for folder in (run.dataset, session.working / _TASKS):  # made again in seconds
        shutil.rmtree(folder, ignore_errors=True)
    _leave(session, {})


def draw(session: Session, count: int = 4) -> Iterator[Picture]:
    """Yield pictures of ``count`` tasks, spread over all, with both attempts at each test."""
    tasks = _answered_tasks(session.run)
    attempts = read_submission(session.run.submission, tasks).attempts
    for task in _spread(tasks, count):
        yield task.draw(attempts[task.task_id])


def _read_valid(path: Path) -> list[Task]:
    """Return the tasks in a file but for those that are not valid, which get a line each."""
    tasks = []
    for task_id, raw in read_object(path).items():
        try:
            tasks.append(parse_task(task_id, raw, str(path)))
        except InputError as error:
            say(f"{error}; it keeps its guess")
    return [task.without_answers() for task in tasks]


def _choose_tried(session: Session, competition: Path) -> list[Task]:
    """Return the evaluation tasks that are tried, small to large.

    Those that the weights were taught are left out, unless there are no others.
    """
    names = ("arc-agi_evaluation_challenges.json", "arc-agi_evaluation_solutions.json")
    tasks = read_challenges(*(competition / name for name in names))
    path = session.package / "taught.npy"
    taught = set(np.load(path, allow_pickle=False).tolist()) if path.exists() else set()
    fresh = [task for task in tasks if taught.isdisjoint(give_away(task))] or tasks
    return _spread(sorted(fresh, key=Task.longest_side), session.settings.kaggle.smoke_tasks)


def _copy(paths: Iterable[Path], folder: Path) -> None:
    """Copy files, but not their modes: what is mounted may be read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)


def _newest_checkpoint(inputs: Path, run: Run) -> Path | None:
    """Return the checkpoint of the run with the highest step, wherever outputs are mounted."""
    name = glob.escape(run.folder.name)
    pattern = f"{inputs}/**/runs/{name}/checkpoints/step_*[0-9]/training.safetensors"
    found = [Path(path).parent for path in glob.glob(pattern, recursive=True)]
    return max(found, key=lambda folder: folder.name, default=None)


def _spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return ``count`` tasks at equal distances, the first and the last among them."""
    count = min(count, len(tasks))
    return [tasks[round(n * (len(tasks) - 1) / max(1, count - 1))] for n in range(count)]


def _call(
    stage: str,
    session: Session,
    changes: Sequence[str],
    end: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Run a stage on all GPUs until the Unix time ``end``; raise where it fails.

    In between ``meanwhile`` is called now and then. What failed is tried again, but for the first
    failure of a run that is there to show whether all works.
    """
    manifest = session.manifest
    launch = ["-m", "pipeline"]
    if len(gpus := _gpus()) > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "3"]
        launch = [*torchrun, "--nproc-per-node", str(len(gpus)), *launch]
    settings = shlex.join([*manifest["changes"], *changes])
    options = ["--recipe", manifest["recipe"], "--run-name", manifest["run"], "--set", settings]
    command = [sys.executable, *launch, stage, *options]
    is_trial = stage == "predict" and not session.is_rerun
    for _ in range(1 if is_trial else _TRIES):
        say(f"$ {shlex.join(command)}")
        status = _run_until(end, command, session.working, meanwhile)
        if status == 0:
            return
        say(f"{stage} ended with status {status}")
        if end - time.time() < _LEAST_SECONDS:
            break
    raise RuntimeError(f"{stage} failed; its last lines are above")


def _run_until(
    end: float, command: Sequence[str], folder: Path, meanwhile: Callable[[], object]
) -> int:
    """Return the exit status of a command whose lines are shown as they come.

    At the Unix time ``end`` it is killed, with its children.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**_triton(), **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def show() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                say(line.rstrip("\n"))

    # In a thread, as a child that outlives the program may hold the pipe open.
    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    while True:
        try:
            left = max(0.1, end - time.time())
            status = process.wait(timeout=min(left, _SECONDS_BETWEEN_LOOKS))
        except subprocess.TimeoutExpired:
            if time.time() >= end:
                say("the time is over: the program is killed")
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(InputError, OSError):
                meanwhile()
        else:
            reader.join(_SECONDS_TO_READ)
            return status


def _gpus() -> list[str]:
    """Return a line for each GPU; asked of the driver, as torch would take memory of the first."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.strip().splitlines()


def _triton() -> dict[str, str]:
    """Return where Triton finds the assembler of the image, which it may look for elsewhere."""
    assembler = Path("/usr/local/cuda/bin/ptxas")
    return {"TRITON_PTXAS_PATH": str(assembler)} if assembler.exists() else {}


def _answered_tasks(run: Run) -> list[Task]:
    return read_challenges(run.challenges, run.solutions if run.solutions.exists() else None)


def _report(session: Session) -> dict[str, Any]:
    """Print and keep what the model answered, and the score where answers are known."""
    run = session.run
    tasks = _answered_tasks(run)
    votes = read_votes(run.votes) if run.has_votes else {}
    _, coverage = build_submission(tasks, pool_votes(votes).candidates)
    steps = max(votes, default=0)
    say(f"coverage: {coverage}, after {steps} steps on the tasks")
    values = {
        "answered_by_model": coverage.model,
        "answered_by_fallback": coverage.fallback,
        "steps": steps,
    }
    if all(task.answers is not None for task in tasks):
        found = score_submission(read_submission(run.submission, tasks), tasks)
        values |= {"solved_outputs": found.num_solved, "outputs": found.num_outputs}
    return _leave(session, values)


def _leave(session: Session, values: dict[str, Any]) -> dict[str, Any]:
    """Write which package ran, ``values``, and the hash of every file the run leaves."""
    working = session.working
    paths = [path for path in session.run.folder.rglob("*") if path.is_file()]
    files = {
        str(path.relative_to(working)): hash_file(path)
        for path in sorted(paths)
        if not path.name.startswith(".")
    }
    report = {"format": REPORT_FORMAT, "package": manifest_digest(session.package), **values}
    write_description(working / REPORT, {**report, "files": files})
    return report
