"""Kills, damage and faults of ``predict``, tried on whole runs: ``make chaos``.

Each run answers real ARC tasks with the shipped weights after training on them, meets one fault,
and is started again, while its submission is watched. What was measured is in docs/RELIABILITY.md.
"""

import argparse
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from machines import USUAL, Machine, open_machines, small_disk
from watched_run import Command

from augment.task import Task
from pipeline.console import say_table
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from submission.rounds import read_votes

SMALL = (
    "data.predicted=arc1/training data.max_side=4 data.views_per_task=15 predict.adapt=all "
    "predict.num_views=16 adapt.num_steps=24 adapt.global_batch=8 adapt.log_every=2 "
    "checkpoint.every=6"
)


def undisturbed(run: Run, tasks: list[Task], processes: int) -> Command:
    """Run the command to its end."""
    command = Command(run, tasks, SMALL, processes)
    command.wait()
    assert command.status == 0, command.text
    assert not command.invalid, command.text
    return command


Votes = dict[tuple[str, int], Counter[object]]


def newest_votes(run: Run) -> Votes:
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
    paths = sorted(folder.glob(pattern))
    if not paths:
        return False
    path = rng.choice([p for p in paths if p.parent == paths[-1].parent])
    content = bytearray(path.read_bytes())
    if not content:
        return False
    at = rng.randrange(len(content))
    path.write_bytes(
        content[:at] if cut else content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    )
    return True


@dataclass
class Trial:
    """What became of one fault."""

    kind: str
    machine: str = USUAL.name
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


def strike(
    kind: str, number: int, machine: Machine, folder: Path, tasks: list[Task], seconds: float
) -> Trial:
    """Let one fault meet a run at a random moment, then run the same command to its end."""
    rng = random.Random(f"{kind} {number}")
    run = Run(folder / "runs" / f"{kind.replace(' ', '_')}_{number}")
    trial = Trial(kind, machine.name)
    processes = 2 if kind in ("kill worker", "kill torchrun") else 1
    kilobytes = rng.randrange(300, 9000)
    disk = small_disk(run.folder, kilobytes) if kind == "full disk" else nullcontext(False)
    with disk as is_small:
        fault = {
            "NaN": f"spoil {rng.randrange(1, 24)}",
            "memory": f"starve {rng.randrange(60, 400)}",
        }.get(kind, "")
        refused = kind == "full disk" and not is_small
        limit = rng.randrange(1000, 300_000) if refused or kind == "file limit" else 0
        first = Command(run, tasks, SMALL, processes, fault, limit, machine)
        if not fault and kind not in ("file limit", "full disk"):
            _interrupt(first, run, kind, rng, seconds, trial)
        first.wait()
        if is_small:
            grow = ["mount", "-o", "remount,size=100m", str(run.folder)]
            subprocess.run(grow, check=True)
        if kind.endswith(("cut", "altered")):
            pattern = DAMAGED[kind.split()[0]]
            trial.struck = damage(run.folder, pattern, rng, kind.endswith("cut"))
        second = Command(run, tasks, SMALL, processes, machine=machine)
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
        newest_votes(run) == newest_votes(reference)
        and run.submission.read_bytes() == reference.submission.read_bytes()
    )


KINDS = (
    "kill", "SIGTERM", "kill worker", "checkpoint altered", "votes cut", "full disk", "NaN",
    "kill", "SIGINT", "kill torchrun", "checkpoint cut", "votes altered", "file limit", "memory",
    "config cut",
)  # fmt: skip
# These end with other numbers: smaller rates, other groups, or early votes by later weights.
MAY_DIFFER = ("NaN", "memory", "votes cut", "votes altered")


def chaos(
    num_runs: int, jobs: int, kinds: tuple[str, ...] = KINDS, *, is_verbose: bool = False
) -> list[Trial]:
    """Return what became of faults of all kinds in turn, on all machines."""
    tasks = within_side(load_source("arc1/training"), 4)
    with tempfile.TemporaryDirectory(prefix="chaos") as name, open_machines(Path(name)) as machines:
        folder = Path(name)
        wanted = list(itertools.islice(itertools.cycle(kinds), num_runs))
        numbers = (1, 2) if any("worker" in k or "torchrun" in k for k in wanted) else (1,)
        references = {n: undisturbed(Run(folder / "runs" / f"reference_{n}"), tasks, n)
                      for n in numbers}  # fmt: skip
        rounds = count_rounds(references[1].text)

        def try_fault(number: int) -> Trial:
            kind = wanted[number]
            usual = references[2 if kind in ("kill worker", "kill torchrun") else 1].seconds
            again, place = divmod(number, len(kinds))
            machine = machines[(place + again) % len(machines)]
            trial = strike(kind, number, machine, folder, tasks, usual)
            trial.rounds_again -= rounds
            if trial.kind in MAY_DIFFER:
                trial.same = None
            print(trial, flush=True)
            if trial.invalid or trial.failed or trial.same is False or is_verbose:
                print(trial.text, flush=True)
            return trial

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(try_fault, range(num_runs)))


def print_chaos(trials: list[Trial]) -> None:
    """Print a line for each kind of fault, for each machine, and for all."""
    columns = {"fault or machine": "", "tried": "", "met a run at work": "", "reads": ",",
               "invalid files": "", "rounds again": "", "most": "", "same result": "",
               "other result": "", "failed": ""}  # fmt: skip
    groups = {trial.kind: [t for t in trials if t.kind == trial.kind] for trial in trials}
    groups |= {trial.machine: [t for t in trials if t.machine == trial.machine] for trial in trials}
    rows = []
    for name, group in {**groups, "all": trials}.items():
        again = [max(0, t.rounds_again) for t in group]
        rows.append((
            name,
            len(group),
            sum(t.struck for t in group),
            sum(t.reads for t in group),
            sum(t.invalid for t in group),
            sum(again),
            max(again),
            sum(t.same is True for t in group),
            sum(t.same is False for t in group),
            sum(bool(t.failed) for t in group),
        ))  # fmt: skip
    say_table("chaos", columns, rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--verbose", action="store_true", help="print every run's lines")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trials = chaos(options.runs, options.jobs, is_verbose=options.verbose)
    print_chaos(trials)
    sys.exit(any(t.invalid or t.failed or t.same is False for t in trials))


if __name__ == "__main__":
    main()
