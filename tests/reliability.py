"""Faults and deadlines of ``predict``, tried on whole runs: ``make chaos`` and ``make deadlines``.

Each run answers real ARC tasks with the shipped weights after training on them. A watcher reads and
validates the submission all the time. What was measured is in docs/RELIABILITY.md.
"""

import argparse
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from augment.errors import InputError
from augment.task import Task
from pipeline.console import say_table
from pipeline.runs import ROOT, Run
from pipeline.sources import load_source, within_side
from submission.rounds import read_votes
from submission.writer import read_submission

SMALL = (
    "data.predicted=arc1/training data.max_side=4 data.views_per_task=15 predict.adapt=all "
    "predict.num_views=16 adapt.num_steps=24 adapt.global_batch=8 adapt.log_every=2 "
    "checkpoint.every=6"
)
LARGE = "data.max_side=10 predict.adapt=all predict.num_views=64 adapt.num_steps=1000000"
SECONDS_BETWEEN_READS = 0.02


class Command:
    """A running command, whose submission is watched and whose lines are kept."""

    def __init__(self, run: Run, tasks: list[Task], changes: str, processes: int = 1,
                 fault: str = "", file_limit: int = 0) -> None:  # fmt: skip
        """Start ``predict`` in the run's folder's parent."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        launch = [*launch, "--max-restarts", "3"] if processes > 1 else []
        module = (
            [str(ROOT / "tests" / "faults.py"), *fault.split()] if fault else ["-m", "pipeline"]
        )
        stage = ["predict", "--run-name", run.folder.name, "--set", changes]
        limit = (file_limit, resource.RLIM_INFINITY)
        self._run, self._tasks = run, tasks
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *launch, *module, *stage],
            cwd=run.folder.parent.parent,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            if file_limit
            else None,
        )
        self.lines: list[str] = []
        self.reads = self.invalid = 0
        self._seen = run.submission.exists()
        self._threads = [threading.Thread(target=t) for t in (self._listen, self._watch)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.lines.extend(lines)

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._process.poll() is not None
            self._look()
            time.sleep(SECONDS_BETWEEN_READS)

    def _look(self) -> None:
        """Read the submission; it may be missing only before the first one of all."""
        self._seen |= self._run.submission.exists()
        if self._seen:
            self.reads += 1
            try:
                read_submission(self._run.submission, self._tasks)
            except InputError as error:
                self.invalid += 1
                self.lines.append(f"INVALID {error}\n")

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the command has ended within so many seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self.seconds = time.monotonic() - self.started
        for thread in self._threads:
            thread.join()
        return True

    @property
    def status(self) -> int:
        """The exit status."""
        return self._process.returncode

    @property
    def text(self) -> str:
        """All lines so far."""
        return "".join(self.lines)

    def workers(self) -> list[int]:
        """Return the processes that this one has started."""
        try:
            task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            return [int(number) for number in task.read_text().split()]
        except OSError:
            return []

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def send_all(self, number: int) -> None:
        """Send a signal to the process and all it has started."""
        os.killpg(self._process.pid, number)


def undisturbed(run: Run, tasks: list[Task], processes: int) -> Command:
    """Run the command to its end."""
    command = Command(run, tasks, SMALL, processes)
    command.wait()
    assert command.status == 0, command.text
    assert not command.invalid, command.text
    return command


Votes = dict[tuple[str, int], Counter[object]]


def votes_of(run: Run) -> Votes:
    """Return the votes of the newest weights."""
    by_step = read_votes(run.votes)
    votes: Votes = {}
    for p in by_step[max(by_step)]:
        grid = None if p.grid is None else p.grid.tobytes()
        votes.setdefault((p.task_id, p.test), Counter())[p.view, grid, p.q] += 1
    return votes


def count_rounds(text: str) -> int:
    """Return how many whole rounds a log reports."""
    rounds = re.findall(r"predict: views \d+\.\.\d+, ([\d,]+) of ([\d,]+) after", text)
    return sum(done == planned for done, planned in rounds)


def damage(folder: Path, pattern: str, rng: random.Random, cut: bool) -> bool:
    """Cut or alter one of the newest files that match; return whether there was one."""
    found = sorted(folder.glob(pattern))
    if not found:
        return False
    path = rng.choice([p for p in found if p.parent == found[-1].parent])
    content = bytearray(path.read_bytes())
    if not content:
        return False
    at = rng.randrange(len(content))
    path.write_bytes(
        content[:at] if cut else content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    )
    return True


@contextmanager
def small_disk(run: Run, megabytes: float) -> Iterator[Callable[[], None] | None]:
    """Give the run a disk of its own; what is given frees it. None where mounting is refused."""
    run.folder.mkdir(parents=True)
    size = f"size={int(megabytes * 1024)}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(run.folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    grow = ["mount", "-o", "remount,size=100m", str(run.folder)]
    try:
        yield lambda: subprocess.run(grow, check=True) and None
    finally:
        subprocess.run(["umount", str(run.folder)], check=True)


@dataclass
class Trial:
    """What became of one fault."""

    kind: str
    reads: int = 0
    invalid: int = 0
    struck: bool = True
    """Whether the fault met a run at work."""
    rounds_again: int = 0
    same: bool | None = None
    """Whether the result is that of an undisturbed run; None where it need not be."""
    text: str = field(default="", repr=False)
    failed: str = ""


DAMAGED = {
    "checkpoint": "adapted/step_*/*",
    "votes": "votes/round_*/*",
    "config": "config.json",
}


def strike(kind: str, number: int, folder: Path, tasks: list[Task], seconds: float) -> Trial:
    """Let one fault meet a run at a random moment, then run the same command to its end."""
    rng = random.Random(f"{kind} {number}")
    run = Run(folder / "runs" / f"{kind.replace(' ', '_')}_{number}")
    trial = Trial(kind)
    processes = 2 if kind in ("kill worker", "kill torchrun") else 1
    disk = small_disk(run, rng.uniform(0.3, 9.0)) if kind == "full disk" else nullcontext()
    with disk as grow:
        fault = {
            "NaN": f"spoil {rng.randrange(1, 24)}",
            "memory": f"starve {rng.randrange(60, 400)}",
        }.get(kind, "")
        refused = kind == "full disk" and grow is None
        limit = rng.randrange(1000, 300_000) if refused or kind == "file limit" else 0
        first = Command(run, tasks, SMALL, processes, fault, limit)
        if not fault and kind not in ("file limit", "full disk"):
            _interrupt(first, run, kind, rng, seconds, trial)
        first.wait()
        if grow is not None:
            grow()
        if kind.endswith(("cut", "altered")):
            pattern = DAMAGED[kind.split()[0]]
            trial.struck = damage(run.folder, pattern, rng, kind.endswith("cut"))
        second = Command(run, tasks, SMALL, processes)
        second.wait()
        trial.text = f"{first.text}--- again\n{second.text}"
        for command in (first, second):
            trial.reads += command.reads
            trial.invalid += command.invalid
        trial.rounds_again = count_rounds(trial.text)
        if second.status != 0:
            trial.failed = f"status {second.status}"
        if kind == "full disk" and first.status not in (0, 2):
            trial.failed = f"status {first.status} on a full disk"
        trial.same = _is_same(run, folder, processes)
    return trial


def _interrupt(
    first: Command, run: Run, kind: str, rng: random.Random, seconds: float, trial: Trial
) -> None:
    """Kill or stop the command at a random moment; with something to damage where that is next."""
    moment = rng.uniform(0.2, 0.95) * seconds
    pattern = DAMAGED.get(kind.split()[0])
    if pattern is not None:
        while not list(run.folder.glob(pattern)) and not first.wait(0.05):
            pass
        moment = rng.uniform(0.0, 0.4) * seconds
    trial.struck = not first.wait(moment)
    if not trial.struck:
        return
    if kind == "SIGTERM":
        first.send(signal.SIGTERM)
    elif kind == "SIGINT":
        first.send(signal.SIGINT)
    elif kind == "kill worker":
        workers = first.workers()
        trial.struck = bool(workers)
        if workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
    else:
        first.send_all(signal.SIGKILL)


def _is_same(run: Run, folder: Path, processes: int) -> bool:
    reference = Run(folder / "runs" / f"reference_{processes}")
    return (
        votes_of(run) == votes_of(reference)
        and run.submission.read_bytes() == reference.submission.read_bytes()
    )


KINDS = (
    "kill", "SIGTERM", "kill worker", "checkpoint altered", "votes cut", "full disk", "NaN",
    "kill", "SIGINT", "kill torchrun", "checkpoint cut", "votes altered", "file limit", "memory",
    "config cut",
)  # fmt: skip
# These end with other numbers: smaller rates, other groups, or early votes by later weights.
MAY_DIFFER = ("NaN", "memory", "votes cut", "votes altered")


def chaos(num_runs: int, jobs: int, kinds: tuple[str, ...] = KINDS) -> list[Trial]:
    """Return what became of faults of all kinds in turn."""
    tasks = within_side(load_source("arc1/training"), 4)
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        wanted = list(itertools.islice(itertools.cycle(kinds), num_runs))
        numbers = (1, 2) if any("worker" in k or "torchrun" in k for k in wanted) else (1,)
        references = {n: undisturbed(Run(folder / "runs" / f"reference_{n}"), tasks, n)
                      for n in numbers}  # fmt: skip
        rounds = count_rounds(references[1].text)

        def try_one(number: int) -> Trial:
            kind = wanted[number]
            usual = references[2 if kind in ("kill worker", "kill torchrun") else 1].seconds
            trial = strike(kind, number, folder, tasks, usual)
            trial.rounds_again -= rounds
            if trial.kind in MAY_DIFFER:
                trial.same = None
            if trial.invalid or trial.failed or trial.same is False or "--verbose" in sys.argv:
                print(f"{trial}\n{trial.text}", flush=True)
            return trial

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(try_one, range(num_runs)))


def print_chaos(trials: list[Trial]) -> None:
    """Print a line for each kind of fault and one for all."""
    columns = {"fault": "", "tried": "", "met a run at work": "", "reads": ",", "invalid files": "",
               "rounds again": "", "most": "", "same result": "", "other result": "",
               "failed": ""}  # fmt: skip
    rows = []
    for kind in [*dict.fromkeys(t.kind for t in trials), "all"]:
        some = [t for t in trials if kind in (t.kind, "all")]
        again = [max(0, t.rounds_again) for t in some]
        rows.append((
            kind,
            len(some),
            sum(t.struck for t in some),
            sum(t.reads for t in some),
            sum(t.invalid for t in some),
            sum(again),
            max(again),
            sum(t.same is True for t in some),
            sum(t.same is False for t in some),
            sum(bool(t.failed) for t in some),
        ))  # fmt: skip
    say_table("chaos", columns, rows)


LIMITS = (20, 20, 20, 20, 30, 30, 30, 40, 40, 40, 50, 50, 60, 60, 60, 90, 90, 120, 150, 180)


def deadlines(longest: int) -> bool:
    """Return whether all runs ended in time; print how they went. Limits up to ``longest``."""
    tasks = within_side([*load_source("arc1/training"), *load_source("arc1/evaluation")], 10)
    num_tests = sum(len(task.test_inputs) for task in tasks)
    columns = {"limit, s": "", "processes": "", "slowed": "", "ended after, s": ".1f",
               "used": ".0%", "training steps": "", "views": ",",
               f"answered of {num_tests}": ""}  # fmt: skip
    rows = []
    rng = random.Random(0)
    in_time = True
    with tempfile.TemporaryDirectory(prefix="deadlines") as name:
        limits = [limit for limit in LIMITS if limit <= longest]
        for number, limit in enumerate(limits):
            run = Run(Path(name) / "runs" / f"limit_{number}")
            processes = 1 + number % 2
            fault = ("", "", f"slow {rng.randrange(1, 10)}", "", f"stall {rng.randrange(2, 6)}")[
                number % 5
            ]
            changes = f"{LARGE} predict.time_limit_seconds={limit}"
            command = Command(run, tasks, changes, processes, fault)
            command.wait()
            by_step = read_votes(run.votes)
            answered = {
                (p.task_id, p.test) for some in by_step.values() for p in some if p.grid is not None
            }
            good = command.status == 0 and command.seconds <= limit and not command.invalid
            if not good:
                print(command.text)
            in_time &= good
            rows.append((
                limit,
                processes,
                fault or None,
                command.seconds,
                command.seconds / limit,
                max(by_step),
                sum(map(len, by_step.values())),
                len(answered),
            ))  # fmt: skip
            print(f"{number + 1} of {len(limits)}", flush=True)
    say_table("deadlines", columns, rows)
    return in_time


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("chaos", "deadlines"))
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--longest", type=int, default=180, help="longest time limit, seconds")
    parser.add_argument("--verbose", action="store_true", help="print every run's lines")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    if arguments.what == "deadlines":
        sys.exit(not deadlines(arguments.longest))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trials = chaos(arguments.runs, arguments.jobs)
    print_chaos(trials)
    sys.exit(any(t.invalid or t.failed or t.same is False for t in trials))


if __name__ == "__main__":
    main()
