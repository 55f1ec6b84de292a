"""The stage plan: what a recipe is expected to take on a card, by a roofline; nothing is trained.

Torch is imported only where memory is counted, and where a CPU is measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from augment.errors import InputError
from pipeline.budget import best_of_each_width, list_choices
from pipeline.console import say, say_table
from pipeline.scaling import Rule
from pipeline.settings import Settings, change_settings
from pipeline.workload import (
    PredictionWork,
    TrainingWork,
    Workload,
    read_workload,
    without_absent_sources,
)
from solver.cards import CALIBRATION, POSITIONS_ON_CPU, Card, choose_card, measure_cpu
from solver.roofline import Time, prediction_bytes, prediction_time, training_time
from solver.settings import AdaptSettings, swiglu_width

_GB = 1e9
_POSITIONS_OF_VIEWS = 65_536  # as the engine computes them on a GPU
_COLUMNS = {
    "stage": "", "unit": "", "a second": ",.1f", "limited by": "", "of peak": ".1%",
    "ms": ",.2f", "products": ".0%", "attention": ".0%", "element-wise": ".0%", "other": ".0%",
    "gaps": ".0%", "host": ".0%", "minutes": ",.1f",
}  # fmt: skip
_CHOICE_COLUMNS = {
    "width": "", "canvas": "", "tasks that fit": ",", "batch": ",", "steps": ",",
    "presentations a pair": ",.0f", "FLOP": ".1e", "minutes": ",.1f", "communication": ".0%",
    "pass@2, %: low": ".1f", "expected": ".1f", "high": ".1f",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fit:
    """How work lies in the memory of each of the cards that it uses, a process for each."""

    card: Card
    positions_at_once: int
    bytes: Mapping[str, float]
    """On each card, by purpose."""
    global_batch: int = 0
    recompute: bool = False


def plan(settings: Settings, gpu: str, machines: int, flop: float, hours: float) -> None:
    """Print what ``settings`` are expected to take on ``gpu``, such as h100, l4x4 or cpu.

    With ``flop`` or ``hours`` (0: not given) they are first changed to train what the fitted rule
    expects most of for that much.
    """
    if gpu == "cpu":
        inner = swiglu_width(settings.model.dim, settings.model.expansion)
        card = measure_cpu(settings.model.dim, inner, settings.engine.dtype)
        calibration = f"products of {1000 * card.product_tflops:.0f} GFLOP/s measured here just now"
    else:
        card, calibration = choose_card(gpu, machines), CALIBRATION
    say(
        f"plan: {card.label}, {card.dtype}: all figures are expected by a roofline, not measured; "
        f"calibrated on {calibration}"
    )
    settings = without_absent_sources(settings)
    changes: tuple[str, ...] = ()
    if flop or hours:
        changes = choose_training(settings, card, flop or math.inf, 3600 * hours or math.inf)
        settings = change_settings(settings, changes)
    plan_workload(card, settings, read_workload(settings), changes)


def choose_training(settings: Settings, card: Card, flop: float, seconds: float) -> tuple[str, ...]:
    """Print what so much compute can train, and return the changes of which most is expected."""
    rule = Rule.read()
    best = best_of_each_width(list_choices(settings, card, rule, flop, seconds))
    if not best:
        raise InputError("plan: that is too little compute for any training the rule knows of")
    rows: list[Sequence[object]] = []
    for c in best:
        low, middle, high = (100 * np.percentile(c.solved_R, (5, 50, 95))).tolist()
        communication = c.time.communication / c.time.seconds
        minutes = c.num_steps * c.time.seconds / 60
        rows.append((
            c.dim, c.side, c.num_fitting, c.batch, c.num_steps, c.presentations, c.flop, minutes,
            communication, low, middle, high,
        ))  # fmt: skip
    say_table("choices", _CHOICE_COLUMNS, rows)
    chosen = max(best, key=lambda choice: choice.expected)
    beyond = chosen.flop / rule.largest_flop
    model = settings.model
    depth = model.num_layers * model.num_cycles * (model.num_latent_steps + 1)
    say(
        f"plan: width {chosen.dim}, {depth} layers deep as the recipe is, on a canvas of "
        f"{chosen.side} is expected to score most. The rule was fitted on ARC-AGI-1 training tasks "
        f"with up to {rule.largest_flop:.0e} FLOP"
        + (f": this is {beyond:,.0f} times as much, so believe it little" if beyond > 3 else "")
    )
    return chosen.changes


def plan_workload(
    card: Card, settings: Settings, work: Workload, changes: Sequence[str] = ()
) -> None:
    """Print what ``work`` is expected to take on ``card``, and the settings to use.

    ``changes``: those of the recipe that were chosen already.
    """
    training, prediction = work.training, work.prediction
    fit = fit_training(card, settings, training) if training else None
    used = fit.card if fit else card
    fits: dict[str, Fit] = {}
    rows: list[Sequence[object]] = []
    if prediction:
        stays_on = training is not None and training.stage == "adapt"
        fits["predict"] = fit_prediction(used, settings, prediction, fit if stays_on else None)
        rows.append(_predict_row(used, prediction, fits["predict"]))
    lines = []
    if training and fit:
        fits = {training.stage: fit, **fits}
        time = _training_time(training, fit)
        rows.insert(0, _training_row(training, fit, time))
        lines.append(_describe_passes(training, fit))
        lines.append(_describe_limit(settings, training, time, rows))
    elif training:
        lines.append(f"{training.stage} does not fit into the memory, whatever the batch")
    _say_memory(card, settings, fits)
    say_table("plan", _COLUMNS, rows)
    for line in filter(None, lines):
        say(f"plan: {line}")
    say(f"plan: settings: {choose_settings(settings, training, used, fit, changes)}")


def fit_training(card: Card, settings: Settings, work: TrainingWork) -> Fit | None:
    """Return how training fits into the memory, with as few changes as that takes.

    First a batch is computed in several passes, then passes are computed again for their gradient,
    then the batch is halved. None where not even a batch of one fits.
    """
    import torch

    from solver.kinds import new_model
    from solver.memory import fitting_positions, most_positions, plan_memory

    # The numbers of both take two bytes, and a CPU counts what is kept faster in bfloat16.
    dtype = torch.float32 if card.dtype == "float32" else torch.bfloat16
    model, batch = new_model(work.model), work.settings.global_batch
    available = _available_bytes(card, settings)
    wanted = settings.engine.positions_per_pass or (
        POSITIONS_ON_CPU if card.name == "cpu" else math.inf
    )
    while batch:
        count = max(n for n in range(1, card.count + 1) if batch % n == 0)
        lanes, on_gpu = batch // count, card.name != "cpu"
        positions = most_positions(work.lengths, lanes, work.model.length)
        for recompute in sorted({settings.engine.recompute, True}):
            model.recompute = recompute
            most = fitting_positions(
                model, work.num_rows, positions, dtype, available,
                num_processes=count, on_gpu=on_gpu,
            )  # fmt: skip
            if most:
                at_once = int(min(most, wanted))
                parts = plan_memory(
                    model, work.num_rows, at_once, positions, dtype,
                    num_processes=count, on_gpu=on_gpu,
                )  # fmt: skip
                return Fit(replace(card, count=count), at_once, parts, batch, recompute)
        batch //= 2
    return None


def fit_prediction(
    card: Card, settings: Settings, work: PredictionWork, training: Fit | None
) -> Fit:
    """Return how prediction fits into the memory, beside a training that stays there."""
    kept = {"device": 1.0 * _GB} if card.name != "cpu" else {}
    if training:
        stays = sum(training.bytes.values()) - training.bytes.get("activations", 0.0)
        kept = {"training": stays}
    width = 4 if card.dtype == "float32" else 2
    default = POSITIONS_ON_CPU if card.name == "cpu" else _POSITIONS_OF_VIEWS
    at_once = settings.engine.positions_per_pass or default
    while True:
        parts = {**prediction_bytes(work.model, at_once, width), **kept}
        fits = sum(parts.values()) <= _available_bytes(card, settings)
        if fits or at_once <= work.model.length:
            return Fit(card, at_once, parts)
        at_once //= 2


def choose_settings(
    settings: Settings,
    training: TrainingWork | None,
    card: Card,
    fit: Fit | None,
    chosen: Sequence[str] = (),
) -> str:
    """Return what ``make`` is to be given: processes, and the settings that must change."""
    engine, changes = settings.engine, list(chosen)
    if training and fit:
        if fit.positions_at_once < engine.positions_per_pass:
            changes.append(f"engine.positions_per_pass={fit.positions_at_once}")
        if fit.recompute and not engine.recompute:
            changes.append("engine.recompute=true")
        if fit.global_batch != training.settings.global_batch:
            section = "adapt" if isinstance(training.settings, AdaptSettings) else "train"
            changes.append(f"{section}.global_batch={fit.global_batch}")
    return f"NPROC={card.count // card.num_machines}" + (
        f' SET="{" ".join(changes)}"' if changes else ""
    )


def _available_bytes(card: Card, settings: Settings) -> float:
    from solver.memory import USABLE

    if settings.engine.memory_gb:
        return _GB * settings.engine.memory_gb
    return _GB * card.memory_gb * (1.0 if card.name == "cpu" else USABLE)


def _training_time(work: TrainingWork, fit: Fit) -> Time:
    train = replace(work.settings, global_batch=fit.global_batch)
    return training_time(
        fit.card,
        work.model,
        train,
        work.lengths,
        fit.positions_at_once,
        recompute=fit.recompute,
    )


def _training_row(work: TrainingWork, fit: Fit, time: Time) -> Sequence[object]:
    rate = fit.global_batch / time.seconds
    minutes = work.settings.num_steps * time.seconds / 60
    return _row(work.stage, "examples", rate, time, fit.card, time.seconds, minutes)


def _predict_row(card: Card, work: PredictionWork, fit: Fit) -> Sequence[object]:
    time = prediction_time(
        card, work.model, work.num_supervision_steps, work.lengths, fit.positions_at_once
    )
    rate = work.views_drawn / time.seconds
    return _row("predict", "views", rate, time, card, 1 / rate, work.num_views / rate / 60)


def _row(
    stage: str, unit: str, rate: float, time: Time, card: Card, seconds: float, minutes: float
) -> Sequence[object]:
    """Return a line of :data:`_COLUMNS`; purposes as shares of the device's time."""
    peak = 1e12 * card.peak_tflops * card.count
    of_peak = time.flop / time.seconds / peak
    parts = (*(part.seconds for part in time.parts), time.gaps, time.host)
    shares = (part / time.device for part in parts)
    return stage, unit, rate, time.limit, of_peak, 1000 * seconds, *shares, minutes


def _describe_passes(work: TrainingWork, fit: Fit) -> str:
    lanes = fit.global_batch // fit.card.count
    mean = float(work.lengths.mean())
    passes = max(1, math.ceil(lanes * mean / fit.positions_at_once))
    return (
        f"{work.stage}: examples of {mean:.0f} positions, {lanes} a card, in "
        f"{passes} pass{'es' * (passes > 1)} of up to {fit.positions_at_once:,} positions"
    )


def _describe_limit(
    settings: Settings, work: TrainingWork, time: Time, rows: Sequence[Sequence[object]]
) -> str:
    """Return how many steps the recipe's time is enough for; empty without a limit or within it."""
    predict, train = settings.predict, work.settings
    limits = [train.time_limit_seconds or math.inf]
    if work.stage == "adapt" and predict.time_limit_seconds:
        predicting = 60 * float(str(rows[-1][-1])) if len(rows) > 1 else 0.0
        whole = predict.time_limit_seconds
        limits.append(max(whole - predicting, predict.training_share * whole))
    if min(limits) >= train.num_steps * time.seconds:
        return ""
    return (
        f"{work.stage}: of {train.num_steps:,} steps, about {min(limits) / time.seconds:,.0f} "
        f"within the {min(limits) / 60:,.0f} minutes that its time limit leaves"
    )


def _say_memory(card: Card, settings: Settings, fits: Mapping[str, Fit]) -> None:
    """Say the memory of each card by purpose, in GB, as a column for each stage."""
    names = list(dict.fromkeys(name for fit in fits.values() for name in fit.bytes))
    rows: list[Sequence[object]] = [
        (name, *(fit.bytes[name] / _GB if name in fit.bytes else None for fit in fits.values()))
        for name in names
    ]
    rows.append(("in all", *(sum(fit.bytes.values()) / _GB for fit in fits.values())))
    rows.append(("there is", *(_available_bytes(card, settings) / _GB for _ in fits)))
    say_table("memory", {"GB a card": "", **dict.fromkeys(fits, ".2f")}, rows)
