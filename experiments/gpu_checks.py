"""Whether the model computes on a GPU what it computes on a CPU: `make gpu` asks this first.

Golden numbers of the reference, attention over packed sequences, a training step, compiling, and
going on from a checkpoint. Each check returns a line, or raises :class:`WrongError` with one.
"""

import json
import math
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from workloads import CANVAS, Trainer, arc1_mix, boxed, data_set

from augment.boxes import full_boxes
from augment.errors import InputError
from augment.examples import Examples, ExampleStream
from augment.tokens import PAD
from pipeline.console import say
from solver.attention import Sequences, attend, choose_kernel
from solver.carry import start_carry
from solver.checkpoint import CheckpointWriter, restore_training
from solver.checkpoint_files import latest_checkpoint
from solver.engine import Engine, open_engine
from solver.kinds import new_model
from solver.loader import Batch, batches
from solver.loss import IGNORED
from solver.model import Model
from solver.packing import pack
from solver.puzzle_table import PuzzleTable
from solver.reference import convert_reference, reference_names
from solver.settings import EngineSettings, ModelSettings, TrainSettings
from solver.train import start_training, supervise, train_step

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
CPU = Engine(torch.device("cpu"), torch.float32)
SMALL = ModelSettings(canvas="box", dim=128, num_heads=4, num_cycles=2, num_latent_steps=1)
# Relative errors of the arithmetic, of a few times what a CPU shows in the same dtype.
LOGITS = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
GRADIENTS = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.1}
ATTENTION = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


class WrongError(Exception):
    """A result that is not what it should be."""


def require(name: str, error: float, limit: float) -> str:
    """Return a line; raise :class:`WrongError` unless the error is a number up to its limit."""
    line = f"{name}: relative error {error:.1e}, limit {limit:.0e}"
    if not error <= limit:  # true for NaN
        raise WrongError(line)
    return line


def error_of(value: Tensor, expected: Tensor) -> float:
    value, expected = value.detach().cpu().double(), expected.detach().cpu().double()
    return float((value - expected).norm() / expected.norm().clamp(min=1e-12))


def read_golden(name: str) -> tuple[dict[str, np.ndarray], Model, PuzzleTable]:
    with np.load(GOLDEN / name) as arrays:
        golden = {key: arrays[key] for key in arrays.files}
    weights = {k[2:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith("w:")}
    model, rows = convert_reference(weights, json.loads(str(golden["config_json"])))
    tensors = {"start": rows[0] * 0, "numbers": torch.arange(len(rows)), "rows": rows}
    return golden, model, PuzzleTable.from_tensors(len(rows), tensors)


def check_golden_logits(engine: Engine) -> str:
    """Four supervision steps of the reference, attention and MLP."""
    errors = []
    for name in ("trm_attention.npz", "trm_mlp.npz"):
        golden, model, table = read_golden(name)
        engine.prepare(model.requires_grad_(False))
        inputs, count = golden["inputs"].astype(np.uint8), len(golden["inputs"])
        boxes = full_boxes(count, model.settings.canvas_side)
        numbers, codes = np.arange(count), np.zeros(count, dtype=np.uint32)
        examples = Examples.without_labels(inputs, numbers, codes, boxes)
        packed = pack(model.settings, engine.device, examples, numbers)
        rows = table.to(engine.device).look_up(golden["puzzle_identifiers"])
        with torch.no_grad():
            x = model.embed(packed, rows).to(engine.dtype)
            state = model.start(len(x), engine.dtype)
            for expected in golden["eval_logits"]:
                state, logits, *_ = model(state, x, packed)
                cells = logits[: packed.num_positions].unflatten(0, (count, -1))
                cells = cells[:, model.settings.prefix_length :].float()
                errors.append(error_of(cells, torch.from_numpy(expected)))
    return require("golden logits", max(errors), LOGITS[engine.dtype])


def check_golden_gradients(engine: Engine) -> str:
    """One training step of the reference with attention."""
    golden, model, table = read_golden("trm_attention.npz")
    labels, count = golden["train_labels"], len(golden["inputs"])
    zeros, side = np.zeros(count, dtype=np.int64), math.isqrt(labels.shape[1])
    examples = Examples(
        golden["inputs"].astype(np.uint8),
        np.where(labels == IGNORED, PAD, labels).astype(np.uint8),
        golden["puzzle_identifiers"].astype(np.int64),
        zeros.astype(np.uint32),
        full_boxes(count, side),
    )
    engine.prepare(model)
    carry = start_carry(model, count, engine.device, engine.dtype)
    supervise(model, table.to(engine.device), carry, Batch(examples, zeros), engine)
    theirs = {ours: name for name, ours in reference_names(model).items()}
    errors = [
        error_of(p.grad, torch.from_numpy(golden[f"g:{theirs[name]}"]))
        for name, p in model.named_parameters()
        if p.grad is not None
    ]
    return require("golden gradients", max(errors), GRADIENTS[engine.dtype])


def check_attention(engine: Engine) -> str:
    """Lengths 64 mod 128 and others: what float64 gives, and no NaN where scores are hundreds."""
    lengths = torch.tensor([64, 192, 320, 17, 916, 448, 33, 2])
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    draws = torch.Generator().manual_seed(0)
    name = f"attention ({choose_kernel(engine.device, engine.dtype)})"
    values = [x.to(engine.dtype) for x in torch.randn(4, int(bounds[-1]), 4, 64, generator=draws)]
    results = []
    for device, dtype in ((torch.device("cpu"), torch.float64), (engine.device, engine.dtype)):
        results.append(attend_with_gradients([x.to(device, dtype) for x in values], bounds))
    worst = max(error_of(ours, exact) for exact, ours in zip(*results, strict=True))
    q, k, *others = (x.to(engine.device) for x in values)
    if not all(
        x.isfinite().all() for x in attend_with_gradients([12 * q, 12 * k, *others], bounds)
    ):
        raise WrongError(f"{name}: not finite where scores are hundreds")
    return require(name, worst, ATTENTION[engine.dtype])


def attend_with_gradients(values: list[Tensor], bounds_E: Tensor) -> list[Tensor]:
    """Return the mixed values, and the gradients of q, k and v for that of the fourth value."""
    leaves = [x.detach().requires_grad_() for x in values[:3]]
    device, dtype = values[0].device, values[0].dtype
    kernel = choose_kernel(device, dtype)
    sequences = Sequences(bounds_E.to(device, torch.int32), 916, kernel)
    mixed = attend(leaves[0], leaves[1], leaves[2], sequences)
    return [mixed, *torch.autograd.grad(mixed, leaves, values[3])]


def check_step(engine: Engine) -> str:
    """Loss and gradients of real examples of all sizes, beside those of a CPU in float32."""
    examples = arc1_mix(12)
    results = []
    for chosen in (CPU, engine):
        trainer = Trainer.of(SMALL, examples, chosen)
        training = trainer.training
        outcome = supervise(training.model, training.table, training.carry, trainer.batch, chosen)
        gradients = [p.grad.flatten() for p in training.model.parameters() if p.grad is not None]
        results.append((outcome.losses.total, torch.cat([*gradients]).float()))
    (loss, gradient), (our_loss, our_gradient) = results
    require("loss of real examples", error_of(our_loss, loss), LOGITS[engine.dtype])
    return require("gradients of real examples", error_of(our_gradient, gradient),
                   GRADIENTS[engine.dtype])  # fmt: skip


def check_boxes(engine: Engine) -> str:
    """Boxes of the whole canvas are the whole canvas."""
    examples = arc1_mix(4)
    examples = replace(examples, boxes=full_boxes(4, CANVAS))
    full, box = (
        Trainer.of(model, examples, engine).loss()
        for model in (replace(SMALL, canvas="full"), boxed(SMALL))
    )
    return require("boxes of the whole canvas", abs(box / full - 1), 1e-5)


def check_compiled(engine: Engine) -> str:
    """The compiled model is the model, and compiling works."""
    examples = arc1_mix(12)
    lines: list[str] = []
    losses = []
    for compile in (False, True):
        chosen = replace(engine, compile=compile, say=lines.append)
        trainer = Trainer.of(SMALL, examples, chosen)
        for _ in range(2):
            trainer.step()
        losses.append(trainer.training.sums[3].item())
    if lines:
        raise WrongError(f"compiling: {lines[0]}")
    return require("compiled", abs(losses[1] / losses[0] - 1), LOGITS[engine.dtype])


def check_resume(engine: Engine) -> str:
    """Steps after a checkpoint are those of a run that never stopped."""
    settings = TrainSettings(num_steps=8, global_batch=16, warmup_steps=1, optimizer="normuon")
    dataset = data_set(["arc1/training"], [])
    index, stream = dataset.index, ExampleStream(dataset, 0)
    training = new_training(index.num_rows, settings, engine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = CheckpointWriter(folder, index, dataset.trained_on, "gpu", engine.group, keep=1)
        for batch in batches(stream, settings, SMALL, engine.group, 0):
            train_step(training, batch, settings, engine)
            if training.step == 4:
                writer.save(training, {})
        checkpoint = latest_checkpoint(folder)
        assert checkpoint is not None
        again = new_training(index.num_rows, settings, engine)
        restore_training(checkpoint, again, index, {}, engine.group)
    for batch in batches(stream, settings, SMALL, engine.group, again.step):
        train_step(again, batch, settings, engine)
    error = abs(again.sums[3].item() / training.sums[3].item() - 1)
    return require("going on from a checkpoint", error, LOGITS[engine.dtype])


def new_training(num_rows: int, settings: TrainSettings, engine: Engine):
    table = PuzzleTable(num_rows, torch.zeros(SMALL.dim))
    return start_training(new_model(SMALL), table, settings, engine)


CHECKS: tuple[Callable[[Engine], str], ...] = (
    check_attention,
    check_golden_logits,
    check_golden_gradients,
    check_step,
    check_boxes,
    check_resume,
    check_compiled,
)


def check_all(device: str, dtypes: list[str]) -> int:
    """Print a line for each check in each dtype; return how many went wrong."""
    num_wrong = 0
    for dtype in dtypes:
        settings = EngineSettings(device=device, dtype=dtype, compile="false")
        engine = open_engine(settings, say)
        for check in CHECKS:
            start = time.monotonic()
            try:
                line = f"right  {check(engine)}"
            except Exception as error:  # whatever fails is what this program looks for
                num_wrong += 1
                line = f"WRONG  {check.__name__}: {type(error).__name__}: {error}"
            name = str(engine.dtype).removeprefix("torch.")
            say(f"{name:9} {line} ({time.monotonic() - start:.1f} s)")
    return num_wrong


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["auto", "float32"])
    options = parser.parse_args()
    try:
        num_wrong = check_all(options.device, options.dtypes)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    say(f"checks: {num_wrong} wrong" if num_wrong else "checks: all right")
    raise SystemExit(1 if num_wrong else 0)


if __name__ == "__main__":
    main()
