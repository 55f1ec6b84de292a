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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from augment.drawing import draw_task
from augment.files import hash_file, write_atomic, write_description
from augment.leaks import give_away
from augment.task import Task, read_challenges, write_challenges, write_solutions
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

_TRIES = 3  # in a scored rerun: the program goes on from where it was
_LEAST_SECONDS = 30.0  # that are worth another try
_GRACE_SECONDS = 60.0  # after which a program that should have ended is killed
_TEST_FILE = "arc-agi_test_challenges.json"
_TRIED_FILES = "arc-agi_evaluation_challenges.json", "arc-agi_evaluation_solutions.json"


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

    Outside a scored rerun a missing GPU is an error: the machine is not the one asked for.
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
    if manifest["machine_shape"] and not gpus and not session.is_rerun:
        raise RuntimeError(
            f"no GPU here, but machine_shape is {manifest['machine_shape']}: choose the "
            "accelerator in the notebook's settings, or package with kaggle.machine_shape="
        )


def predict(session: Session, competition: Path) -> None:
    """Answer the hidden tasks in a scored rerun, else a few evaluation tasks, with a score.

    ``competition`` is the folder with the competition's files. The program's failure is an error,
    and so is, outside a rerun, that the model answered nothing. After a rerun the best answers
    there are have become the submission, whatever happened.
    """
    settings, run = session.settings, session.run
    if session.is_rerun:
        source = f"kaggle/test:{competition}"
        end = session.end(settings.predict.time_limit_seconds)
    else:
        source = f"kaggle/evaluation:{_write_tried_tasks(session, competition)}"
        end = min(session.end(0), time.time() + settings.kaggle.smoke_seconds)
    changes = [
        f"data.predicted={source}",
        "data.max_side=30",
        "predict.time_limit_seconds=0",
        f"predict.deadline={end}",
        "predict.refuse_taught=false",
    ]
    if (session.package / "checkpoint.json").exists():
        changes.append(f"weights={session.package}")
    try:
        _call("predict", session, changes, end, tries=_TRIES if session.is_rerun else 1)
    finally:
        shutil.rmtree(run.adapted, ignore_errors=True)  # large, and of no use afterwards
        if session.is_rerun and run.submission.exists():
            read_submission(run.submission, read_challenges(competition / _TEST_FILE))
            content = run.submission.read_bytes()
            write_atomic(session.working / "submission.json", content)
    report = _report(session)
    if not session.is_rerun and not report["answered_by_model"]:
        raise RuntimeError("the model answered none of the tasks tried: not worth a submission")


def pretrain(session: Session, inputs: Path) -> None:
    """Train until done or the session's time is over.

    It goes on from the newest checkpoint of this run below ``inputs``, where the output that this
    notebook saved before is mounted.
    """
    checkpoint = _newest_checkpoint(inputs, session.run)
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
        earlier = checkpoint.parents[1]
        for path in (*checkpoint.iterdir(), earlier / session.run.metrics.name):
            copy = session.run.folder / path.relative_to(earlier)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    end = session.end(session.settings.train.time_limit_seconds)
    changes = [f"train.time_limit_seconds={max(1.0, end - time.time())}"]
    for split, name in (("training", "trained"), ("evaluation", "predicted")):
        has = (session.package / f"arc-agi_{split}_challenges.json").exists()
        changes.append(f"data.{name}=" + (f"kaggle/{split}:{session.package}" if has else ""))
    _call("pretrain", session, changes, end, tries=1)
    shutil.rmtree(session.run.dataset, ignore_errors=True)  # built again in seconds
    _leave(session, {})


def draw(session: Session, count: int = 4) -> Iterator[str]:
    """Yield pictures (SVG) of ``count`` tasks, spread over all, with both attempts at each test."""
    tasks = _answered_tasks(session.run)
    attempts = read_submission(session.run.submission, tasks).attempts
    for task in _spread(tasks, count):
        yield draw_task(task, attempts[task.task_id])


def _write_tried_tasks(session: Session, competition: Path) -> Path:
    """Write the evaluation tasks that are tried, small to large, and return their folder.

    Those that the weights were taught are left out, unless there are no others.
    """
    challenges, solutions = _TRIED_FILES
    tasks = read_challenges(competition / challenges, competition / solutions)
    path = session.package / "taught.npy"
    taught = set(np.load(path, allow_pickle=False).tolist()) if path.exists() else set()
    fresh = [task for task in tasks if taught.isdisjoint(give_away(task))]
    chosen = _spread(
        sorted(fresh or tasks, key=Task.longest_side), session.settings.kaggle.smoke_tasks
    )
    folder = session.working / "smoke"
    write_challenges(folder / challenges, chosen)
    write_solutions(folder / solutions, chosen)
    return folder


def _newest_checkpoint(inputs: Path, run: Run) -> Path | None:
    """Return the checkpoint of the run with the highest step, wherever outputs are mounted."""
    pattern = f"{inputs}/**/runs/{run.folder.name}/checkpoints/step_*/training.safetensors"
    found = [Path(path).parent for path in glob.glob(pattern, recursive=True)]
    return max(found, key=lambda folder: folder.name, default=None)


def _spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return ``count`` tasks at equal distances, the first and the last among them."""
    count = min(count, len(tasks))
    return [tasks[round(n * (len(tasks) - 1) / max(1, count - 1))] for n in range(count)]


def _call(stage: str, session: Session, changes: Sequence[str], end: float, tries: int) -> None:
    """Run a stage on all GPUs; raise where it fails ``tries`` times, or once near the end."""
    manifest = session.manifest
    launch = ["-m", "pipeline"]
    if len(gpus := _gpus()) > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "3"]
        launch = [*torchrun, "--nproc-per-node", str(len(gpus)), *launch]
    settings = shlex.join([*manifest["changes"], *changes])
    options = ["--recipe", manifest["recipe"], "--run-name", manifest["run"], "--set", settings]
    command = [sys.executable, *launch, stage, *options]
    for _ in range(tries):
        say(f"$ {shlex.join(command)}")
        status = _run_until(end + _GRACE_SECONDS, command, session.working)
        if status == 0:
            return
        say(f"{stage} ended with status {status}")
        if end - time.time() < _LEAST_SECONDS:
            break
    raise RuntimeError(f"{stage} failed; its last lines are above")


def _run_until(end: float, command: Sequence[str], folder: Path) -> int:
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
    with _killed_at(end, process):
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip("\n"))
        return process.wait()


@contextmanager
def _killed_at(end: float, process: "subprocess.Popen[str]") -> Iterator[None]:
    def kill() -> None:
        say("the time is over: the program is killed")
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(0.0, end - time.time()), kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _gpus() -> list[str]:
    """Return a line for each GPU; asked of the driver, as torch would take memory of the first."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
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
    candidates = pool_votes(read_votes(run.votes)).candidates if run.has_votes else {}
    _, coverage = build_submission(tasks, candidates)
    say(f"coverage: {coverage}")
    values = {"answered_by_model": coverage.model, "answered_by_fallback": coverage.fallback}
    if all(task.answers is not None for task in tasks):
        found = score_submission(read_submission(run.submission, tasks), tasks)
        values |= {"solved_outputs": found.num_solved, "outputs": found.num_outputs}
    return _leave(session, values)


def _leave(session: Session, values: dict[str, Any]) -> dict[str, Any]:
    """Write which package ran, ``values``, and the hash of every file the notebook leaves."""
    paths = [path.relative_to(session.working) for path in session.working.rglob("*")]
    kept = [path for path in paths if not str(path.name).startswith(".") and path.name != REPORT]
    files = {
        str(path): hash_file(session.working / path)
        for path in sorted(kept)
        if (session.working / path).is_file()
    }
    report = {"format": REPORT_FORMAT, "package": manifest_digest(session.package), **values}
    write_description(session.working / REPORT, {**report, "files": files})
    return report
