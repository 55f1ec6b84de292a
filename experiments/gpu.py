"""A card that is there for half an hour: is it right, how fast is it, and what does it learn.

    make gpu MINUTES=30 TO=state               # all of it
    make gpu MINUTES=30 PIECE=9 TO=state       # nine minutes of it; the same command goes on

First checks (`gpu_checks.py`), then rates (`gpu_rates.py`), then the best recipe is pretrained on
ARC-AGI-1 for the time that is left, with held-out tasks looked at after each piece, and at last the
evaluation tasks are answered. What it needs to go on lies in the folder TO, in files of at most
15 MB, with the weights, results.json, results.md and the submission. Only the standard library is
imported here: WHEELS= names a folder of wheels for a machine that has torch and no network.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_program import SECONDS_TO_END, Program
from gpu_state import RUN, describe, install, newest_checkpoint, newest_step, pack

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "arc1-fast"
HELD_OUT = RUN / "held_out"
NUM_HELD_OUT = 40
LEAKS = ("40853293", "caa06a1f")  # training tasks that give solutions of evaluation tasks away
RATES_SECONDS, RATES_SHARE = 180.0, 0.1  # at most, and of all the time
# Of each piece: until a training process trains, and to answer the held-out tasks.
STARTING_SECONDS, HELD_OUT_SECONDS = 15.0, 30.0


def check(program: Program) -> None:
    """Is what the card computes right?"""
    device = ["--device", "cpu" if program.options.small else "cuda"]
    dtypes = ["--dtypes", "float32"] if program.options.small else []
    script = str(ROOT / "experiments" / "gpu_checks.py")
    program.run(script, *device, *dtypes, seconds=program.left_here)
    program.state["checks"] = "all right"


def measure(program: Program) -> None:
    """How fast is it?"""
    most = min(RATES_SECONDS * program.scale, RATES_SHARE * 60 * program.options.minutes)
    seconds = min(most, program.left_here)
    small = ["--small", "--device", "cpu"] if program.options.small else []
    out = RUN / "rates.json"
    script = str(ROOT / "experiments" / "gpu_rates.py")
    with suppress(subprocess.SubprocessError):  # what was measured until then is written
        options = ("--seconds", str(seconds), "--out", str(out), *small)
        program.run(script, *options, seconds=program.left_here)
    written = json.loads(out.read_text()) if out.exists() else {}
    program.state["rates"] = written or {"rates": "not measured"}


def train(program: Program) -> bool:
    """Pretrain for a leg of the time that is left; return whether this call has time for one."""
    state = program.state
    ids = write_held_out(program)
    looking = HELD_OUT_SECONDS * program.scale
    of_all = program.left - program.score_seconds - looking
    seconds = min(of_all, program.left_here - looking)
    if of_all <= 10 * program.scale:
        state["trained"] = "as long as there was time"
        return True
    if seconds <= 10 * program.scale:
        return False
    step, before = newest_step(), time.monotonic()
    starting = STARTING_SECONDS * program.scale
    changes = program.settings(
        f"data.trained={','.join(trained_sources())}",
        f"data.predicted=arc1/evaluation,folder:{HELD_OUT}",
        f"data.left_out={','.join(ids)}",
        "train.num_steps=100000000",
        f"train.ends_in_seconds={max(1.0, of_all - starting):.0f}",
        f"train.time_limit_seconds={max(1.0, seconds - starting):.0f}",
        "train.log_every=50",
        "checkpoint.keep=1",
        "checkpoint.every_seconds=120",
        "log.every_seconds=20",
        *program.options.changes.split(),
    )
    with suppress(subprocess.TimeoutExpired):  # what was learned until the last checkpoint stays
        program.run(*stage("pretrain", "gpu", changes), seconds=seconds + SECONDS_TO_END)
    took, reached = time.monotonic() - before, newest_step()
    state["legs"].append({"steps": reached - step, "seconds": round(took, 1)})
    state["trained"] = of_all - took < 10 * program.scale
    look_at_held_out(program, reached)
    return True


def look_at_held_out(program: Program, step: int) -> None:
    """Answer the held-out tasks with the newest weights, and note the score."""
    scored = answer(program, f"folder:{HELD_OUT}", "gpu-held-out", HELD_OUT_SECONDS * program.scale,
                   "predict.num_views=8", "predict.ranking=count",
                   "engine.compile=false")  # fmt: skip
    program.state["held_out"].append({"step": step, **scored})


def score(program: Program) -> None:
    """Answer the evaluation tasks of ARC-AGI-1 with what was learned."""
    seconds = min(program.left_here, max(program.left, program.score_seconds))
    program.state["score"] = answer(program, "arc1/evaluation", "gpu-score", seconds)


def answer(program: Program, tasks: str, run: str, seconds: float, *changes: str) -> dict[str, Any]:
    """Return the score of the newest weights on ``tasks``, or why there is none."""
    if newest_checkpoint() is None:
        return {"failed": "nothing was trained"}
    shutil.rmtree(Path("runs") / run, ignore_errors=True)
    chosen = program.settings(
        *changes, f"data.predicted={tasks}", "data.trained=", "data.left_out=", "adapt.num_steps=0",
        f"weights={newest_checkpoint()}", f"predict.time_limit_seconds={seconds:.0f}",
    )  # fmt: skip
    try:
        program.run(*stage("predict", run, chosen), seconds=seconds + SECONDS_TO_END)
        shown = program.run("-m", "pipeline", "score", "--run-name", run, "--json", seconds=60,
                            capture=True)  # fmt: skip
    except subprocess.SubprocessError as error:
        return {"failed": str(error)[:200]}
    scored = json.loads(shown)
    figures = {name: scored[name] for name in ("num_tasks", "num_outputs", "solved_outputs")}
    figures["solved_by_votes"] = scored["solved_by_votes"]
    return figures | {f"{name} per task": value for name, value in scored["per_task"].items()}


def export(program: Program) -> None:
    """Write the newest weights, as they are used and shipped, beside the state."""
    if newest_checkpoint() is None:
        return
    command = ("-m", "pipeline", "export", "--run-name", "gpu", "--precision", "int8", "--to",
               str(program.options.to / "weights"))  # fmt: skip
    with suppress(subprocess.SubprocessError):
        program.run(*command, seconds=SECONDS_TO_END)


def stage(name: str, run: str, changes: str) -> list[str]:
    """Return the command of a stage of the pipeline."""
    return ["-m", "pipeline", name, "--recipe", RECIPE, "--run-name", run, "--set", changes]


def trained_sources() -> list[str]:
    """Return what is trained on: what the recipe names and need not be downloaded."""
    from pipeline.recipes import load_recipe
    from pipeline.sources import needs_download

    sources = load_recipe(RECIPE, []).data.trained
    return [name for name in sources if not needs_download(name)]


def write_held_out(program: Program) -> list[str]:
    """Write training tasks that are held out, as a folder of tasks; return all that are left out.

    They are drawn, always the same, from the tasks that have no leak.
    """
    from pipeline.sources import load_source

    side = 5 if program.options.small else 30
    tasks = [t for t in load_source("arc1/training") if t.longest_side(with_solutions=True) <= side]
    chosen = [t for t in tasks if t.task_id not in LEAKS][3 :: max(1, len(tasks) // NUM_HELD_OUT)]
    HELD_OUT.mkdir(parents=True, exist_ok=True)
    for task in chosen:
        pairs = {"train": task.train, "test": task.test_pairs}
        content = {
            name: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in of_kind]
            for name, of_kind in pairs.items()
        }
        (HELD_OUT / f"{task.task_id}.json").write_text(json.dumps(content))
    return [*LEAKS, *(task.task_id for task in chosen)]


def go(program: Program) -> bool:
    """Do what there is time for; return whether all is done."""
    for name, phase in PHASES.items():
        while name in program.options.phases and not program.state.get(name):
            if program.left_here <= 0:
                return False
            print(f"gpu: {name}, {program.left:.0f} s left of all", flush=True)
            done = phase(program)
            program.keep()
            if done is False:
                return False
    return True


PHASES: dict[str, Callable[[Program], object]] = {
    "checks": check,
    "rates": measure,
    "trained": train,
    "score": score,
}


def main() -> None:
    """Run what there is time for, and leave the rest to the next call."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of all calls together")
    parser.add_argument("--piece-minutes", type=float, default=0.0, help="of this call; 0 = all")
    parser.add_argument("--to", type=Path, default=Path("runs/gpu-state"))
    parser.add_argument("--from", dest="source", type=Path, help="the folder of the call before")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that are missing here")
    parser.add_argument("--set", dest="changes", default="", help="settings of the training")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--small", action="store_true", help="a small model on a CPU, for tests")
    options = parser.parse_args()
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if options.wheels:
        paths.append(install(options.wheels))
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sys.path[1:1] = paths
    program = Program(options)
    is_done = False
    try:
        is_done = go(program)
    except subprocess.SubprocessError as error:
        print(f"gpu: stopped, {str(error)[:100]}; see the lines above", flush=True)
        raise SystemExit(1) from None
    finally:
        program.keep()
        pack(options.to)
        export(program)
        table = describe(program.state)
        (options.to / "results.md").write_text(table)
        print(table, flush=True)
    print("gpu: done" if is_done else "gpu: the same command goes on from here", flush=True)


if __name__ == "__main__":
    main()
