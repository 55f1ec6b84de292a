"""Training and prediction of ``full`` and ``box``, beside the oracle and beside bare products."""

from argparse import Namespace
from dataclasses import replace

import numpy as np
import torch
from oracle import loss as oracle_loss
from oracle import supervision_step
from timing import Report, take_turns, time_of
from workloads import CANVAS, LENGTH, TRAIN, Trainer, arc1_mix, boxed, prediction_of, product_rate

from augment.boxes import full_boxes
from augment.examples import Examples
from solver.ema import EMA
from solver.engine import Engine
from solver.flop import flop_of_training
from solver.kinds import new_model
from solver.optimizer import make_optimizer
from solver.packing import lengths_of
from solver.queries import Plan
from solver.settings import ModelSettings, swiglu_width

NARROW = ModelSettings(
    canvas="box", dim=128, num_heads=4, rows_per="task", rotary="grid", rotary_base=100.0,
    num_cycles=1, num_latent_steps=1, max_supervision_steps=2,
)  # fmt: skip


class EagerTrainer:
    """The oracle's step with the same optimisers, on all examples at once."""

    def __init__(self, model: ModelSettings, examples: Examples, engine: Engine) -> None:
        self.model, self.engine, count = (
            new_model(model).to(engine.device),
            engine,
            len(examples.rows),
        )
        self.optimizer = make_optimizer(self.model, TRAIN, engine.dtype)
        self.ema = EMA(self.model)
        self.rows = torch.zeros(count, model.dim, device=engine.device, requires_grad=True)
        self.tokens, self.labels = (
            torch.from_numpy(array).long().to(engine.device)
            for array in (examples.inputs, examples.labels)
        )
        start = self.model.start(count * LENGTH, engine.dtype)
        self.state = tuple(tensor.view(count, LENGTH, model.dim) for tensor in start)

    def loss(self) -> torch.Tensor:
        p = dict(self.model.named_parameters())
        cells = torch.arange(CANVAS**2, device=self.engine.device)
        logits, halt, self.state = supervision_step(
            p, self.model.settings, self.tokens, cells, self.rows, self.state, self.engine.dtype
        )
        return oracle_loss(logits, halt, self.labels)

    def step(self) -> None:
        self.loss().backward()
        with torch.no_grad():
            self.rows.mul_(1 - 1e-3).sub_(1e-2 * self.rows.grad.sign())
            self.rows.grad = None
        for parameter in self.model.parameters():
            parameter.grad /= len(self.tokens)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model, TRAIN.ema_rate)


def compare_training(
    name: str,
    model: ModelSettings,
    examples: Examples,
    engine: Engine,
    report: Report,
    rounds: int,
    rate: float,
    *,
    beside_eager: bool,
) -> None:
    """Time training steps of ``full`` and ``box`` on the same examples, and of the oracle."""
    sides = {m.canvas: Trainer.of(m, examples, engine).step for m in (model, boxed(model))}
    if beside_eager:
        sides["eager"] = EagerTrainer(model, examples, engine).step
    for side, run in sides.items():
        report.add(f"train_{side}_first_step_seconds_{name}", time_of(run, engine.device), "s")
    seconds = take_turns(sides, rounds, engine.device)
    count = len(examples.rows)
    report.ratio(f"train_box_over_full_{name}", seconds["full"], seconds["box"])
    if beside_eager:
        report.ratio("full_over_eager", seconds["eager"], seconds["full"])
    real = flop_of_training(model, lengths_of(examples.boxes, model))
    padded = flop_of_training(model, np.full(count, LENGTH))
    report.add(f"train_flop_full_over_box_{name}", padded / real, "x, the floor")
    for side, done in (("full", padded), ("box", real)):
        report.rates(f"train_{side}", name, count, done, real, seconds[side], rate)


def compare_prediction(
    name: str, plan: Plan, engine: Engine, report: Report, rounds: int, rate: float
) -> None:
    """Time prediction of ``full`` and ``box`` on the same views, whose plan is in boxes."""
    full = replace(plan.on_full_canvas(), model=replace(plan.model, canvas="full"))
    sides = {"full": full, "box": plan}
    runs = {side: prediction_of(planned, engine) for side, planned in sides.items()}
    for run in runs.values():
        run()
    seconds = take_turns(runs, rounds, engine.device)
    report.ratio(f"predict_box_over_full_{name}", seconds["full"], seconds["box"])
    padded, real = (sides[side].flop for side in ("full", "box"))
    report.add(f"predict_flop_full_over_box_{name}", padded / real, "x, the floor")
    for side, done in (("full", padded), ("box", real)):
        report.rates(f"predict_{side}", name, len(plan.boxes), done, real, seconds[side], rate)


def check_outputs(model: ModelSettings, examples: Examples, engine: Engine) -> None:
    """Compare the sides' outputs from the same start, before anything is timed."""
    few = examples.take(np.arange(2))
    expected = EagerTrainer(model, few, engine).loss().item()
    whole = replace(few, boxes=full_boxes(2, CANVAS))
    for name, settings, chosen in (("full", model, few), ("box", boxed(model), whole)):
        loss = Trainer.of(settings, chosen, replace(engine, compile=False)).loss()
        if abs(loss / expected - 1) > 1e-2:
            raise SystemExit(f"{name}: the loss is {loss}, the oracle's is {expected}")


def measure_width_128(engine: Engine, report: Report, options: Namespace, rate: float) -> None:
    """Training steps of the demo's model on whole canvases' mix, beside products of its width."""
    examples = arc1_mix(4 if options.tiny else 64)
    trainer = Trainer.of(NARROW, examples, engine)
    trainer.step()
    trainer.step()
    seconds = take_turns({"step": trainer.step}, options.rounds, engine.device)["step"]
    flop = flop_of_training(NARROW, lengths_of(examples.boxes, NARROW))
    own = product_rate(engine, 4096, 128, swiglu_width(128, NARROW.expansion))
    for name, peak in (("products_of_width_128", own), ("products_of_width_512", rate)):
        report.add(f"train_d128_share_of_{name}", [flop / s / peak for s in seconds])
