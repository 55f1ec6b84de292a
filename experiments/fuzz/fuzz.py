"""Hostile inputs, tried by the hundred thousand against an oracle: ``make fuzz``.

Real tasks, submissions, settings, checkpoints, votes and data sets are mutated and read. An input
is read right, refused right (an error of one line that names it), or found: read wrong, a
traceback, or a hang. Input n of a seed is always the same, so ``--only n`` tries it again.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import fuzz_settings as settings
import fuzz_store_oracle as store_oracle
import fuzz_stores as stores
import fuzz_tasks as tasks
from fuzz_inputs import Input
from fuzz_oracle import Doubts, Invalid

from augment.errors import InputError
from pipeline.console import say, say_table

OUTCOMES = ("read right", "refused right", "wrong", "traceback", "hang")
FOUND = OUTCOMES[2:]
MEMORY = 2 * 2**30  # bytes that a worker may take beside what it starts with
LONGEST = 1000  # characters of a readable error, its path aside


@dataclass(frozen=True, slots=True)
class Kind:
    """How inputs of a kind are made, judged and read, and how many there are of each."""

    weight: int
    make: Callable[[random.Random], Input]
    judge: Callable[[Path, tuple[str, ...], Doubts], object]
    read: Callable[[Path, tuple[str, ...]], object]


KINDS = {
    "tasks": Kind(8, tasks.make_tasks, tasks.judge_tasks, tasks.read_tasks),
    "submissions": Kind(4, tasks.make_submissions, tasks.judge_submissions, tasks.read_submissions),
    "settings": Kind(4, settings.make_settings, settings.judge_settings, settings.read_settings),
    "checkpoints": Kind(
        2, stores.make_checkpoints, store_oracle.judge_checkpoints, stores.read_checkpoints
    ),
    "votes": Kind(2, stores.make_votes, store_oracle.judge_votes, stores.read_rounds),
    "data sets": Kind(2, stores.make_datasets, store_oracle.judge_datasets, stores.read_datasets),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an input."""

    number: int
    kind: str
    outcome: str
    text: str


def make_input(seed: int, number: int, kinds: Sequence[str]) -> Input:
    """Return input ``number`` of a seed, of one of the kinds."""
    weights = [KINDS[kind].weight for kind in kinds]
    [kind] = random.Random(f"{seed} {number}").choices(kinds, weights)
    return KINDS[kind].make(random.Random(f"{seed} {kind} {number}"))


def try_input(tried: Input, folder: Path) -> tuple[str, str]:
    """Write, judge and read an input below ``folder``; return its outcome and what to say of it."""
    kind = KINDS[tried.kind]
    tried.write(folder)
    doubts: Doubts = []
    invalid, expected = "", None
    try:
        expected = kind.judge(folder, tried.arguments, doubts)
    except Invalid as error:
        invalid = str(error)
    try:
        value = kind.read(folder, tried.arguments)
    except InputError as error:
        if not invalid and not doubts:
            return "wrong", f"refused what is valid: {error}"
        fault = judge_message(str(error), tried, folder)
        return ("wrong", f"{fault}: {str(error)!r}") if fault else ("refused right", str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return "traceback", f"{type(error).__name__} at {where}: {error!s:.200} ({invalid})"
    if invalid:
        return "wrong", f"accepted what is invalid: {invalid}"
    return ("read right", "") if value == expected else ("wrong", "read as something else")


def judge_message(message: str, tried: Input, folder: Path) -> str:
    """Return what an error lacks to be one readable line that names what is wrong."""
    plain = message
    for name in tried.files:
        plain = plain.replace(name, "")  # the command line escapes signs of names
    if not plain.isprintable():
        return "an error that is not one printable line"
    if tried.kind == "settings":
        names = [change.partition("=")[0].rpartition(".")[2] for change in tried.arguments[1:]]
        names = [repr(name)[1:40] for name in (*names, tried.arguments[0])]
        if message.partition(" ")[0] in settings.TYPES or any(
            name.strip("'\"") in message for name in names
        ):
            return ""
        return "an error that names no setting"
    if str(folder) not in message:
        return "an error that names no file"
    return "" if len(message.replace(str(folder), "")) <= LONGEST else "an error of endless length"


def work(
    connection: Connection, seed: int, numbers: Sequence[int], kinds: Sequence[str], folder: Path
) -> None:
    """Try inputs one after the other, and send the result of each."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        tried = make_input(seed, number, kinds)
        outcome, text = try_input(tried, place)
        connection.send(Result(number, tried.kind, outcome, text))
        shutil.rmtree(place)


def fuzz(
    seed: int, numbers: Sequence[int], kinds: Sequence[str], workers: int, seconds: float
) -> Iterator[Result]:
    """Yield what came of inputs, each tried in one of some processes.

    One that takes more ``seconds`` is a hang.
    """
    context = multiprocessing.get_context("fork")  # a worker starts with everything loaded
    for kind in kinds:
        KINDS[kind].make(random.Random(0))
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="fuzz", dir=shared if shared.is_dir() else None
    ) as name:
        running: dict[Connection, tuple[Any, deque[int]]] = {}
        began: dict[Connection, float] = {}

        def start(left: deque[int]) -> None:
            if left:
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, seed, list(left), kinds, Path(tempfile.mkdtemp(dir=name)))
                process = context.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                running[ours], began[ours] = (process, left), time.monotonic()

        for worker in range(workers):
            start(deque(numbers[worker::workers]))
        while running:
            ready = wait(list(running), timeout=0.5)
            for connection, (process, left) in list(running.items()):
                if connection in ready:
                    try:
                        yield connection.recv()
                        left.popleft()
                        began[connection] = time.monotonic()
                        continue
                    except EOFError:
                        outcome = "traceback", "the process ended"
                elif time.monotonic() - began[connection] > seconds:
                    outcome = "hang", f"more than {seconds:g} s"
                else:
                    continue
                process.kill()
                process.join()
                del running[connection]
                if left:
                    number = left.popleft()
                    yield Result(number, make_input(seed, number, kinds).kind, *outcome)
                start(left)


def print_table(results: Counter[tuple[str, str]], kinds: Sequence[str]) -> None:
    """Print how many inputs of each kind had each outcome."""
    rows = [(kind, *(results[kind, outcome] for outcome in OUTCOMES)) for kind in kinds]
    rows.append(("all", *(sum(row[n] for row in rows) for n in range(1, len(OUTCOMES) + 1))))
    say_table("fuzz", {"inputs": "", **dict.fromkeys(OUTCOMES, ",")}, rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of inputs")
    parser.add_argument("--only", type=int, help="number of the one input to try")
    parser.add_argument("--seconds", type=float, default=20.0, help="that an input may take")
    parser.add_argument("--keep", type=Path, help="folder that inputs found are written to")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if not KINDS.keys() >= set(kinds):
        parser.error(f"kinds are {','.join(KINDS)}")
    numbers = range(options.inputs) if options.only is None else [options.only]
    results: Counter[tuple[str, str]] = Counter()
    for result in fuzz(options.seed, numbers, kinds, options.workers, options.seconds):
        results[result.kind, result.outcome] += 1
        if result.outcome in FOUND or options.only is not None:
            found = make_input(options.seed, result.number, kinds)
            what = "; ".join(found.mutations or found.arguments)
            line = f"{result.kind} {result.number}: {result.outcome}: {result.text} [{what!r}]"
            say(line[:2000])
            if options.keep is not None:
                options.keep.mkdir(parents=True, exist_ok=True)
                name = f"{result.kind.replace(' ', '_')}_{options.seed}_{result.number}.json"
                (options.keep / name).write_text(found.to_json())
    print_table(results, kinds)
    sys.exit(any(outcome in FOUND for _, outcome in results))


if __name__ == "__main__":
    main()
