"""The stage rearc: write fresh pairs of ARC-AGI-1 training tasks as a folder of task files."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from augment.errors import InputError
from augment.files import replace_folder, write_json
from augment.task import Pair, Task
from augment.task_files import write_task_file
from pipeline.console import ProgressBar, say, warn
from pipeline.rearc import Dropped, collect_scored_keys, load_programs, make_pairs
from pipeline.settings import LogSettings
from pipeline.sources import load_source
from solver.settings import require

OPTIONS = "rearc.options"
"""The file of the folder that says how it was made; a source reads ``*.json`` alone."""


def rearc(
    folder: Path,
    num_pairs: int = 100,
    difficulty: tuple[float, float] = (0.0, 0.2),
    seed: int = 0,
    task_ids: Sequence[str] = (),
) -> None:
    """Write ``num_pairs`` verified pairs of each task into ``folder``, a file for each task.

    ``task_ids`` are of ARC-AGI-1 training tasks, of which all are made where none is named.
    ``difficulty`` is the part of every range, from 0 to 1, that a generator draws its numbers from.
    The last pair stands under "test". The same options write the same files, unless a pair takes
    too long.
    """
    require(num_pairs >= 2, f"rearc: a task needs at least 2 pairs, got {num_pairs}")
    lower, upper = difficulty
    require(0 <= lower <= upper <= 1, f"rearc: difficulty must rise within 0..1: {lower},{upper}")
    training = [task.task_id for task in load_source("arc1/training")]
    if strangers := [task_id for task_id in task_ids if task_id not in training]:
        raise InputError(
            f"rearc: {', '.join(strangers)}: not ARC-AGI-1 training tasks; no others may be made, "
            "as a generator of an evaluation task gives it away"
        )
    if folder.exists() and not (folder / OPTIONS).exists():
        raise InputError(f"{folder}: is there already, and not written by rearc")
    programs = load_programs()
    if missing := [task_id for task_id in task_ids if task_id not in programs]:
        raise InputError(f"rearc: {', '.join(missing)}: this reasoning-gym has no generator")
    chosen = [task_id for task_id in training if task_id in (task_ids or programs)]
    start, scored = time.monotonic(), collect_scored_keys()
    counts: dict[str, int] = {}
    dropped: Counter[Dropped] = Counter()
    with (
        replace_folder(folder) as temporary,
        ProgressBar("rearc", "task", len(chosen), LogSettings()) as bar,
    ):
        for task_id in chosen:
            made = make_pairs(task_id, programs[task_id], num_pairs, difficulty, seed, scored)
            counts[task_id] = len(made.pairs)
            dropped.update(made.dropped)
            if len(made.pairs) < num_pairs:
                left_out = "" if len(made.pairs) > 1 else ", so it is left out"
                warn(
                    f"rearc: task {task_id} has {len(made.pairs)} of {num_pairs} pairs{left_out} "
                    f"({_list(made.dropped)})"
                )
            if len(made.pairs) > 1:
                write_task_file(temporary / f"{task_id}.json", _as_task(task_id, made.pairs))
            bar.update()
        options = {
            "reasoning_gym": _package_version(),
            "num_pairs": num_pairs,
            "difficulty": difficulty,
            "seed": seed,
            "pairs": counts,
            "dropped": dropped,
        }
        write_json(temporary / OPTIONS, options)
    total, seconds = sum(counts.values()), time.monotonic() - start
    say(
        f"rearc: {folder}: {total:,} pairs of {len(chosen)} tasks in {seconds:.1f} s, dropped and "
        f"drawn again {dropped.total():,} ({_list(dropped)})"
    )


def _as_task(task_id: str, pairs: Sequence[Pair]) -> Task:
    *train, test = pairs
    return Task(task_id, tuple(train), (test.input,), (test.output,))


def _list(dropped: Mapping[Dropped, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items())) or "none"


def _package_version() -> str:
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:  # on the path, but not installed
        return "unknown"
