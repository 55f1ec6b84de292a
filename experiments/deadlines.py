"""Time limits of ``predict``, tried on whole runs: ``make deadlines``.

Each run answers real ARC tasks with the shipped weights after training on them, while its
submission is watched. What was measured is in docs/RELIABILITY.md.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from watched_run import Command

from pipeline.console import say_table
from pipeline.run import Run
from pipeline.sources import load_source, within_side
from submission.rounds import read_votes

LARGE = "data.max_side=10 predict.adapt=all predict.num_views=64 adapt.num_steps=1000000"
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
            by_step = read_votes(run.votes) if run.has_votes else {0: []}
            answered = {
                (p.task_id, p.test)
                for predictions in by_step.values()
                for p in predictions
                if p.grid is not None
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
    parser.add_argument("--longest", type=int, default=180, help="longest time limit, seconds")
    options = parser.parse_args()
    sys.exit(not deadlines(options.longest))


if __name__ == "__main__":
    main()
