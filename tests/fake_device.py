"""Real steps on a device without values: ``fake_device.py RECIPE ...`` prints a line a case.

A case is one or two training steps, or a prediction, of a recipe at its real sizes. The line is a
JSON object: what was counted in its last step, and as ``faults`` what must not be. ``options`` in
place of a recipe runs what no recipe chooses, and ``plants`` runs cases with a fault put in.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from card import Watch, open_card, put_on, watched
from planted import PLANTS
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from augment.dataset import Dataset
from augment.examples import ExampleStream
from augment.puzzle_index import PuzzleIndex
from pipeline.recipes import RECIPES
from pipeline.settings import Settings
from pipeline.sources import load_source
from solver.engine import Engine
from solver.kinds import new_model
from solver.loader import batches
from solver.model import Model
from solver.packing import lengths_of, plan_passes
from solver.predict import Predictor
from solver.process_group import ProcessGroup
from solver.puzzle_table import PuzzleTable
from solver.queries import Plan, list_queries
from solver.settings import TrainSettings
from solver.train import Supervision, Training, start_training, supervise, train_step
from solver.weights import Weights

RANK, SIZE = 1, 4  # of this process where there are several
BFLOAT, HALF, FLOAT = torch.bfloat16, torch.float16, torch.float32
# dtype, number of processes, and whether each step trains the trunk
TRAININGS = (
    (BFLOAT, 1, (False, True)),
    (BFLOAT, SIZE, (False, True)),
    (HALF, SIZE, (True,)),
    (FLOAT, 1, (True,)),
)
VIEWS = 3  # of each task, beside the original
HRM = {"kind": "hrm", "num_cycles": 2, "num_latent_steps": 2, "max_supervision_steps": 4}
TRANSFORMER = {"kind": "transformer", "num_cycles": 1, "num_latent_steps": 1, "num_heads": 32}
NUM_ROWS = 10_000
ALL_AT_ONCE = 10**9  # positions of a pass


@dataclass(frozen=True)
class Setup:
    """A model and how it is trained, with real tasks, of which training makes its examples."""

    model: Model
    training: TrainSettings
    dataset: Dataset

    @classmethod
    def of(cls, recipe: Settings, **changes) -> "Setup":
        """Return what the recipe does for longest."""
        model = replace(recipe.model, **changes)
        training = longest_training(recipe)
        with patch("solver.layers.truncated_normal_", untouched), \
                patch("solver.model.truncated_normal_", untouched):  # fmt: skip
            return cls(new_model(model), training, real_tasks(model.canvas_side, model.rows_per))

    def table(self, device: torch.device) -> PuzzleTable:
        start_D = torch.zeros(self.model.settings.dim, device=device)
        return PuzzleTable(NUM_ROWS, start_D)


def longest_training(recipe: Settings) -> TrainSettings:
    """Return what the recipe does for longest: pretraining, or test-time training."""
    return max((recipe.train, recipe.adapt), key=lambda settings: settings.num_steps)


def untouched(tensor: Tensor, *_) -> Tensor:
    return tensor


@cache
def real_tasks(side: int, rows_per: str) -> Dataset:
    tasks = [task.without_solutions() for task in load_source("arc1/training")]
    tasks = [task for task in tasks if task.longest_side() <= side]
    index = PuzzleIndex.of(tasks, VIEWS, 0, rows_per)
    return Dataset(tuple(tasks), index, (False,) * len(tasks), side)


def group_of(num_processes: int, device: torch.device) -> ProcessGroup:
    """Return this process alone, or among as many as the group that was started has."""
    return ProcessGroup(RANK if num_processes == SIZE else 0, num_processes, device)


def run_training(
    watch: Watch,
    setup: Setup,
    device: torch.device,
    dtype: torch.dtype = BFLOAT,
    num_processes: int = 1,
    trains: tuple[bool, ...] = (True,),
    tokens: int = ALL_AT_ONCE,
    recompute: bool = False,
) -> dict[str, Any]:
    """Run training steps and return what was counted in the last one."""
    group = group_of(num_processes, device)
    engine = Engine(device, dtype, recompute=recompute, planned_positions=tokens, group=group)
    watch.allowed = ("_all_finite",)
    training = start_training(
        put_on(device, setup.model), setup.table(device), setup.training, engine
    )
    settings, model = replace(setup.training, num_steps=len(trains)), setup.model.settings
    given = batches(ExampleStream(setup.dataset, 0), settings, model, group, 0)
    for batch, trains_trunk in zip(given, trains, strict=True):
        outcomes: list[Supervision] = []
        watch.start_step()
        with patch("solver.train.supervise", partial(kept, outcomes)):
            settings = replace(settings, rows_only_share=0.0 if trains_trunk else 1.0)
            train_step(training, batch, settings, engine)
        (outcome,) = outcomes
        lengths_B = lengths_of(outcome.carry.examples.boxes, model)
        num_passes = len(plan_passes(lengths_B, tokens))
        watch.faults += misplaced(training, outcome, engine, trains_trunk)
        # Where every lane halts in any case, no step waits to learn which do.
        num_fetches = num_passes if model.max_supervision_steps > 1 else 0
        watch.faults += unexpected_waits(watch, engine, num_fetches)
    moments = [value for state in training.optimizer.state.values() for value in state.values()]
    return {
        "operations": watch.operations,
        "bytes": watch.bytes,
        "uploads": watch.uploads,
        "peak_bytes": watch.peak,
        "moments_bytes": sum(moment.nbytes for moment in moments if isinstance(moment, Tensor)),
        "lanes": len(lengths_B),
        "positions": int(lengths_B.sum()),
        "rows": len(training.table.values),
    }


def kept(outcomes: list[Supervision], *arguments) -> Supervision:
    outcomes.append(supervise(*arguments))
    return outcomes[-1]


def misplaced(
    training: Training, outcome: Supervision, engine: Engine, trains_trunk: bool
) -> Iterator[str]:
    """Say which results of a step have another device, dtype or shape than they should."""
    settings = training.model.settings
    lengths_B = lengths_of(outcome.carry.examples.boxes, settings)
    lanes, state = (len(lengths_B),), (int(lengths_B.sum()), settings.dim)
    of_loss = torch.float64 if settings.output == "stablemax" else FLOAT
    results = {
        **{
            name: (tensor, engine.dtype, state)
            for name, tensor in zip(training.model.STATES, outcome.carry.state, strict=True)
        },
        "token loss": (outcome.losses.tokens, of_loss, lanes),
        "halt loss": (outcome.losses.halt, FLOAT, lanes),
        "accuracy": (outcome.losses.accuracy, FLOAT, lanes),
        "exact": (outcome.losses.exact, torch.bool, lanes),
        "halt logits": (outcome.halt_B, FLOAT, lanes),
        "row gradients": (outcome.row_gradients_BD, FLOAT, (*lanes, settings.dim)),
        "sums": (training.sums, torch.float64, tuple(training.sums.shape)),
        "rows": (training.table.values, FLOAT, (len(training.table.values), settings.dim)),
    }
    for name, parameter in training.model.named_parameters():
        shape = tuple(parameter.shape)
        results[name] = (parameter, FLOAT, shape)
        results[f"average of {name}"] = (training.ema.average[name], FLOAT, shape)
        if (parameter.grad is not None) != trains_trunk:
            yield f"gradient of {name}: {parameter.grad}"
        elif trains_trunk:
            results[f"gradient of {name}"] = (parameter.grad, FLOAT, shape)
    for name, (tensor, *expected) in results.items():
        result = [tensor.dtype, tuple(tensor.shape)]
        if [*result, tensor.device] != [*expected, engine.device]:
            yield f"{name}: expected {expected}, got {result} on {tensor.device}"


def unexpected_waits(watch: Watch, engine: Engine, num_fetches: int) -> Iterator[str]:
    """Say how the waits of a training step differ from one at its end, for what was fetched."""
    expected = {"fetch": num_fetches + (engine.group.size > 1)}
    if engine.dtype == HALF:
        expected["_all_finite"] = 1
    result = {"fetch": watch.waits["fetch"] + watch.waits["fetch of the newest"]}
    result |= {name: count for name, count in watch.waits.items() if "fetch" not in name}
    if result != expected:
        yield f"waits: expected {expected}, got {result}"
    before, place = watch.first_wait or (0, "")
    if watch.first_wait and before < watch.last_backward:
        yield f"a fetch is awaited before the last backward pass has ended: {place}"


def run_prediction(
    watch: Watch,
    setup: Setup,
    device: torch.device,
    dtype: torch.dtype = BFLOAT,
    num_processes: int = 1,
    num_steps: int = 1,
    stop_when_halted: bool = False,
) -> dict[str, Any]:
    """Predict chunks of views, and the first ones of each again on the full canvas."""
    host = torch.device("cpu")  # where the rows of weights lie that were read from a file
    weights = Weights(put_on(device, setup.model), setup.table(host), setup.dataset.index,
                      np.empty(0, np.uint64), "", "")  # fmt: skip
    tasks = setup.dataset.tasks[:30]
    queries = list_queries(weights, tasks, 1 + VIEWS)
    plan = Plan.of(setup.model.settings, num_steps, tasks, queries)
    half = -(-int(plan.lengths.sum()) // (2 * num_processes))
    group, lines = group_of(num_processes, device), list[str]()
    engine = Engine(device, dtype, planned_positions=half, group=group, say=lines.append)
    watch.allowed = ("Predictor.join.<locals>.<genexpr>",)
    watch.allowed += ("Predictor._begin_pass",) if stop_when_halted else ()
    predictor = Predictor(weights, plan, engine, stop_when_halted=stop_when_halted)
    while not predictor.is_finished:
        for of_part in predictor.chunks:
            predictor.submit(of_part)
        predictor.join()
    result = predictor.predictions()
    if len(result) != len(queries.tasks) or not any(result):
        watch.faults.append("predictions are missing")
    if not watch.waits["fetch"]:
        watch.faults.append("the device had nothing to do while predictions were awaited")
    return {
        "views": len(result),
        "outgrown": predictor.num_outgrown,
        "operations": watch.operations,
        "lines": lines,
    }


def report(name: str, body: Callable[[Watch], dict[str, Any]], **of_case) -> None:
    """Print what the body counts, and the faults that were seen while it ran."""
    started, plant = time.perf_counter(), of_case.pop("plant", nullcontext())
    counted: dict[str, Any] = {}
    with watched() as watch, plant:
        try:
            counted = body(watch)
        except Exception as error:
            watch.faults.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    seconds = round(time.perf_counter() - started, 1)
    seen = {"waits": dict(watch.waits), "faults": list(dict.fromkeys(watch.faults))}
    line = {"case": name, **counted, **seen, "seconds": seconds}
    print(json.dumps(line), flush=True)


def run_recipe(name: str, device: torch.device) -> None:
    setup = Setup.of(RECIPES[name]())
    for dtype, num_processes, trains in TRAININGS:
        body = partial(run_training, setup=setup, device=device, dtype=dtype,
                       num_processes=num_processes, trains=trains)  # fmt: skip
        report(f"{name} training {str(dtype)[6:]} {num_processes}", body)
    body = partial(run_prediction, setup=setup, device=device, num_processes=SIZE)
    report(f"{name} prediction", body)


def run_options(device: torch.device) -> None:
    """Run what no recipe chooses, with the model of arc1-fast, one of each kind."""
    fast, demo = RECIPES["arc1-fast"](), RECIPES["demo"]()
    setup = Setup.of(fast)
    run = partial(run_training, device=device)
    report("recompute", partial(run, setup=setup, recompute=True))
    report("frozen", partial(run, setup=setup, dtype=HALF, trains=(False,)))
    report("passes", partial(run, setup=setup, tokens=2_000, num_processes=SIZE))
    changes: dict[str, dict[str, Any]] = {
        "dropout": {"dropout": 0.1},
        "gradient_cycles": {"num_cycles": 3, "gradient_cycles": 2},
        "full canvas": {"canvas": "full"},
        "hrm": HRM,
        "transformer": TRANSFORMER,
    }
    for name, change in changes.items():
        report(name, partial(run, setup=Setup.of(fast, **change)))
    report("mlp", partial(run, setup=Setup.of(demo, canvas="full", variant="mlp")))
    predict = partial(run_prediction, setup=setup, device=device)
    report("two steps", partial(predict, num_steps=2))
    report("stop_when_halted", partial(predict, num_steps=2, stop_when_halted=True))
    report("out of range", partial(predict, dtype=HALF), plant=patch.object(Watch, "finite", False))


def run_plants(device: torch.device) -> None:
    """Run cases with a fault put in, with the model of the demo."""
    setup = Setup.of(RECIPES["demo"]())
    for name, (in_training, place, fault) in PLANTS.items():
        body = partial(run_training if in_training else run_prediction, setup=setup, device=device)
        report(name, body, plant=patch(place, fault))


def main(names: list[str]) -> None:
    device = open_card()
    dist.init_process_group(f"{device.type}:fake,cpu:fake", store=FakeStore(),
                            rank=RANK, world_size=SIZE)  # fmt: skip
    for name in names:
        if name == "options":
            run_options(device)
        elif name == "plants":
            run_plants(device)
        else:
            run_recipe(name, device)


if __name__ == "__main__":
    main(sys.argv[1:])
