"""What surrounds the network: loader, decoding and votes, building, starting a command."""

import os
import subprocess
import sys
import tempfile
from functools import partial

import numpy as np
import torch
from timing import Report, take_turns, time_of
from workloads import CANVAS, data_set

from augment.examples import ExampleStream
from augment.grid import GridStore
from augment.prediction import Prediction
from augment.tokens import FIRST_COLOR, decode_grids, encode_grids
from augment.view import NUM_VIEWS
from pipeline.sources import load_source
from pipeline.version import ROOT
from submission.vote import count_votes


def around(report: Report) -> None:
    """Measure what surrounds the network: loader, decoding and votes, build, start-up."""
    cpu = torch.device("cpu")
    stream = ExampleStream(data_set(["arc1/training"], ["arc1/evaluation"]), 0)
    stream.examples(0, 768)
    loads = [lambda n=n: stream.examples(768 * n, 768 * (n + 1)) for n in range(1, 41)]
    times = [time_of(load, cpu) for load in loads]
    blocks = [sum(times[n : n + 8]) for n in range(0, 40, 8)]
    report.add("loader_examples_per_second", [8 * 768 / s for s in blocks])

    tasks = load_source("arc1/evaluation")
    rng = np.random.default_rng(0)
    codes = rng.integers(NUM_VIEWS, size=len(tasks) * 100).astype(np.uint32)
    outputs = [task.solutions[0] for task in tasks for _ in range(100)]
    store, at_origin = GridStore.of(outputs), np.zeros((len(codes), 2), dtype=np.int64)
    canvases = encode_grids(store, np.arange(len(codes)), codes, at_origin, CANVAS)
    canvases = canvases.reshape(-1, CANVAS, CANVAS)
    is_wrong = rng.random(len(canvases)) < 0.5  # one cell of the first row turns black in each
    canvases[is_wrong, 0, 0] = FIRST_COLOR
    names = [task.task_id for task in tasks for _ in range(100)]

    def vote() -> None:
        grids = decode_grids(canvases, codes)
        count_votes(Prediction(n, 0, g, 0.5) for n, g in zip(names, grids, strict=True))

    vote()
    times = take_turns({"vote": vote}, 5, cpu)["vote"]
    report.add("decode_views_per_second", [len(codes) / s for s in times])

    def run(folder: str, *command: str) -> None:
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipeline = [sys.executable, "-m", "pipeline", *command]
        subprocess.run(pipeline, cwd=folder, env=here, check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        sources = ["--recipe", "arc1", "--set", "data.trained=arc1/training"]
        build = time_of(partial(run, folder, "build", *sources), cpu)
        report.add("build_arc1_1000_views_seconds", build, "s")
        helps = take_turns({"help": partial(run, folder, "--help")}, 6, cpu)["help"]
        report.add("help_seconds", helps[1:], "s")
