"""The models of the field on the same generated Sudoku, at equal compute: which learns most?

    python experiments/compare_puzzles.py --seeds 0 1 2 --flop 3e13 --set data.trained=sudoku/40 ...

Every arm changes a few settings of the recipe `sudoku-small`, trains until the same number of FLOP
is spent (`solver.flop`), and then answers the same puzzles after 1, 2, 4, 8 and 16 supervision
steps, by the commands pretrain and evaluate. One line of JSON per run in
runs/puzzles/curves.jsonl; runs found there are not made again. The table of means and spreads goes
to runs/puzzles/table.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.recipes import load_recipe
from pipeline.run import Run
from pipeline.training_log import read_metrics
from solver.flop import flop_of_training

FOLDER = Path("runs/puzzles")
RECIPE = "sudoku-small"
_DEEP = ("model.kind=transformer", "model.num_layers=8")
ARMS: Mapping[str, tuple[str, ...]] = {
    "trm-mlp": (),
    "trm-attention": ("model.variant=attention",),
    "hrm": ("model.kind=hrm", "model.num_cycles=2", "model.num_latent_steps=2"),
    "transformer": _DEEP,
    "direct": (*_DEEP, "model.max_supervision_steps=1"),
}
"""All but one mix positions with an MLP: two layers, for HRM two and two, eight in transformers."""


def changes_of(arm: str, seed: int, changes: Sequence[str]) -> list[str]:
    """Return what an arm and a seed change of the recipe, besides ``changes`` for every arm."""
    return [*ARMS[arm], *changes, f"train.seed={seed}"]


def run_of(arm: str, seed: int, flop: float, changes: Sequence[str]) -> dict[str, Any]:
    """Train an arm, evaluate it, and return what came out."""
    changes = changes_of(arm, seed, changes)
    settings = load_recipe(RECIPE, changes)
    lengths = np.full(settings.train.global_batch, settings.model.length)
    num_steps = max(1, round(flop / flop_of_training(settings.model, lengths)))
    name = f"puzzles-{arm}-{round(flop)}-{seed}"
    folder = Run.named(name)
    shutil.rmtree(folder.folder, ignore_errors=True)
    every = min(20, num_steps)
    changed = [*changes, f"train.num_steps={num_steps}", f"train.log_every={every}",
               "log.form=quiet"]  # fmt: skip
    options = ["--recipe", RECIPE, "--run-name", name, "--set", " ".join(changed)]
    for stage in ("pretrain", "evaluate"):
        subprocess.run([sys.executable, "-m", "pipeline", stage, *options], check=True)
    evaluation = json.loads((folder.evaluation / "evaluation.json").read_text())
    last = list(read_metrics(folder.metrics_of("pretrain")))[-1]
    shutil.rmtree(folder.folder)
    return {
        "arm": arm,
        "seed": seed,
        "flop": flop,
        "changes": changes,
        "steps": num_steps,
        "examples": num_steps * settings.train.global_batch,
        "trained_exact": last.get("exact_accuracy"),
        "loss": last["loss"],
        **{f"exact@{line['steps']}": line["exact"] for line in evaluation["by_step"]},
        **{f"cells@{line['steps']}": line["cells"] for line in evaluation["by_step"]},
    }


def spread(values: Sequence[float]) -> str:
    """Return the mean in percent, with the smallest and the largest of several."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} .. {100 * max(values):.1f})"


def table_of(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table."""
    columns = [key for key in lines[0] if key.startswith("exact@")]
    yield "| arm | FLOP | examples | " + " | ".join(f"{name}, %" for name in columns) + " |"
    yield "|---" * (3 + len(columns)) + "|"
    for arm, flop in dict.fromkeys((line["arm"], line["flop"]) for line in lines):
        of_arm = [line for line in lines if (line["arm"], line["flop"]) == (arm, flop)]
        cells = [spread([line[column] for line in of_arm]) for column in columns]
        yield f"| {arm} | {flop:.1e} | {of_arm[0]['examples']:,} | " + " | ".join(cells) + " |"


def main() -> None:
    """Make the runs that are missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--flop", nargs="+", type=float, default=[3e13])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", dest="changes", nargs="*", default=[], help="for every arm")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.workers))
    FOLDER.mkdir(parents=True, exist_ok=True)
    curves = FOLDER / "curves.jsonl"
    curves.touch()
    lines = [json.loads(line) for line in curves.read_text().splitlines()]

    jobs = list(product(options.arms, options.seeds, options.flop))

    def job_of(line: Mapping[str, Any]) -> tuple[str, int, float] | None:
        job = line["arm"], line["seed"], line["flop"]
        is_asked = job in jobs and line["changes"] == changes_of(*job[:2], options.changes)
        return job if is_asked else None

    lines = [line for line in lines if job_of(line)]
    made = {job_of(line) for line in lines}
    left = sorted((job for job in jobs if job not in made), key=lambda job: job[1])  # by seed
    with ThreadPoolExecutor(options.workers) as pool:
        for finished in as_completed([pool.submit(run_of, *job, options.changes) for job in left]):
            line = finished.result()
            lines.append(line)
            with curves.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    table = "\n".join(table_of(sorted(lines, key=lambda line: (line["flop"], line["arm"]))))
    (FOLDER / "table.md").write_text(table + "\n")
    print(table, flush=True)


if __name__ == "__main__":
    main()
