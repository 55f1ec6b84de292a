"""Changes of settings for ``make fuzz``: drawn from what people and programs write, and judged.

What a text means follows from the setting's declared type, which numbers are right from the tables
here. Between what is surely right and what is absurd, a value may be refused or read.
"""

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fuzz_inputs import Input
from fuzz_oracle import Doubts, Invalid, check

from pipeline.recipes import RECIPES, load_recipe
from pipeline.settings import Settings

LARGEST = 2**31  # of any number
YES = ("true", "1", "yes", "on", "y", "t")
NO = ("false", "0", "no", "off", "n", "f")

LEAST = {
    "model.dim": 2, "model.canvas_side": 1, "data.max_side": 1, "model.expansion": 0.01,
    "model.rotary_base": 1, "checkpoint.every_seconds": 0.1, "kaggle.smoke_seconds": 1,
    "train.lr": 1e-12, "adapt.lr": 1e-12, "train.decay_share": 1e-6, "adapt.decay_share": 1e-6,
    "adapt.per_task_share": 1e-6,
    **dict.fromkeys(
        (
            "model.num_heads", "model.num_layers", "model.num_cycles", "model.num_latent_steps",
            "model.max_supervision_steps", "model.gradient_cycles", "model.patch",
            "train.global_batch", "adapt.global_batch", "train.log_every", "adapt.log_every",
            "data.num_evaluated", "train.eval_views", "checkpoint.every", "checkpoint.keep",
            "predict.num_views", "kaggle.smoke_tasks", "adapt.per_task_batch",
        ),
        1,
    ),
}  # fmt: skip
"""The least value of a number; 0 where there is none here."""

MOST = {
    "data.max_side": 30, "model.canvas_side": 30, "train.halt_exploration": 1,
    "adapt.halt_exploration": 1, "adapt.per_task_share": 1,
    **{
        f"{section}.{name}": 1
        for section in ("train", "adapt")
        for name in ("decay_share", "ema_share", "rows_only_share")
    },
}  # fmt: skip
BELOW_ONE = ("model.dropout", "train.ema_rate", "adapt.ema_rate", "predict.training_share",
             "train.betas", "adapt.betas")  # fmt: skip

ABSURD = {
    **dict.fromkeys(
        (
            "model.dim", "model.num_heads", "model.num_layers", "model.expansion",
            "model.prefix_length", "model.num_cycles", "model.num_latent_steps",
            "model.max_supervision_steps",
        ),
        10**6,
    ),
    **dict.fromkeys(
        (
            "train.global_batch", "adapt.global_batch", "data.views_per_task", "predict.num_views",
            "predict.early_views", "train.eval_views", "adapt.per_task_batch",
        ),
        10**8,
    ),
}  # fmt: skip
"""From here on no machine has the memory."""

SURE = {"norm_eps": 0.1, "expansion": 16, "dim": 1024, "prefix_length": 64, "num_layers": 8,
        "num_cycles": 16, "num_latent_steps": 16, "max_supervision_steps": 64, "num_heads": 64,
        "global_batch": 1024, "num_supervision_steps": 64, "rotary_base": 1e6}  # fmt: skip
"""Up to here a number must be read; 1000 where there is none here, and 1 for rates."""

RULES: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "no tasks": lambda s: s["data.trained"] or s["data.predicted"] or s["data.evaluated"],
    "nothing left to train on": lambda s: not s["data.unseen"] or s["data.trained"],
    "no ascending steps": lambda s: (
        list(s["puzzles.steps"]) == sorted({*s["puzzles.steps"]}) != []
        and 1 <= s["puzzles.steps"][0] <= s["puzzles.steps"][-1] <= 1000
    ),
    "heads": lambda s: (
        s["model.dim"] >= 2 * s["model.num_heads"]
        and s["model.dim"] // s["model.num_heads"] % 2 == 0
    ),
    "rows and columns": lambda s: (
        s["model.rotary"] == "flat" or s["model.dim"] // s["model.num_heads"] % 4 == 0
    ),
    "one gradient": lambda s: s["model.kind"] != "hrm" or s["model.gradient_cycles"] == 1,
    "one pass": lambda s: s["model.kind"] != "transformer" or (
        s["model.num_cycles"] == s["model.num_latent_steps"] == 1
        and s["adapt.num_cycles"] <= 1
        and s["adapt.num_latent_steps"] <= 1
    ),
    "patches": lambda s: s["model.canvas_side"] % s["model.patch"] == 0,
    "an MLP has one length": lambda s: (
        s["model.variant"] == "attention"
        or (s["model.canvas"] == "full" and not s["model.convolution"])
    ),
    "gradients": lambda s: s["model.gradient_cycles"] <= s["model.num_cycles"],
    "prefix": lambda s: (
        s["model.prefix_length"] == 0
        if s["model.conditioning"] == "cells"
        else s["model.prefix_length"]
        >= (
            1
            if s["model.rows_per"] == "view"
            else 2 if s["model.told"] == "dihedral" else 11
        )
    ),
    "told": lambda s: s["model.rows_per"] == "task" or s["model.told"] == "view",
    "matrices": lambda s: all(
        s[f"{part}.matrix_lr"] == 0 or s[f"{part}.optimizer"] == "normuon"
        for part in ("train", "adapt")
    ),
    "nothing to evaluate": lambda s: s["train.eval_every"] == 0 or s["data.evaluated"],
    "no best": lambda s: not s["checkpoint.keep_best"] or s["train.eval_every"] > 0,
    "slug": lambda s: re.fullmatch("[a-z0-9-]{1,50}", s["kaggle.competition"]),
    "owner": lambda s: re.fullmatch("[A-Za-z0-9_-]{0,50}", s["kaggle.owner"]),
}  # fmt: skip


def declared_types() -> dict[str, Any]:
    """Return the declared type of every setting."""
    types = {}
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        if get_args(hint):
            types[name] = get_args(hint)[0]
        else:
            inner = get_type_hints(hint, include_extras=True).items()
            types |= {f"{name}.{part}": get_args(of_part)[0] for part, of_part in inner}
    return types


TYPES = declared_types()


def flatten(settings: Settings) -> dict[str, Any]:
    """Return all settings by their whole names."""
    values: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        if isinstance(value, dict):
            values |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            values[name] = value
    return values


def judge_settings(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> dict[str, str]:
    """Return every setting, as it is written in Python, of a recipe with changes."""
    recipe, *changes = arguments
    check(recipe in RECIPES, "no recipe")
    values = flatten(RECIPES[recipe]())
    for number, change in enumerate(changes):
        name, equals, text = change.partition("=")
        check(equals and name in TYPES, "no setting")
        later = [other.partition("=")[0] for other in changes[number + 1 :]]
        try:
            values[name] = _read(TYPES[name], text, doubts)
        except Invalid:
            if name not in later:
                raise
            doubts.append("a wrong value that a later one replaces")
    for name in {change.partition("=")[0] for change in changes}:
        for number in values[name] if isinstance(values[name], tuple) else (values[name],):
            if type(number) in (int, float):
                check_range(name, number, doubts)
    for reason, holds in RULES.items():
        check(holds(values), reason)
    if values["adapt.num_cycles"] and values["adapt.num_cycles"] < values["model.gradient_cycles"]:
        doubts.append("gradients of more cycles than test-time training has")
    return {name: repr(value) for name, value in values.items()}


def _read(kind: Any, text: str, doubts: Doubts) -> Any:
    if kind is str:
        if not text.isprintable() or len(text) > 1000:
            doubts.append("a text that cannot be printed, or is endless")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            doubts.append("another word for true or false")
        word = text.lower().strip()
        check(word in YES + NO, "neither true nor false")
        return word in YES
    if get_origin(kind) is Literal:
        check(text in get_args(kind), "none of the choices")
        return text
    if get_origin(kind) is tuple:
        parts = tuple(part for part in text.split(",") if part)
        if get_args(kind)[-1] is ...:
            return tuple(_read(get_args(kind)[0], part, doubts) for part in parts)
        check(len(parts) == len(get_args(kind)), "another number of values")
        return tuple(
            _read(part, word, doubts) for part, word in zip(get_args(kind), parts, strict=True)
        )
    plain = r"-?(0|[1-9][0-9]*)" if kind is int else r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"
    if not re.fullmatch(plain, text):
        doubts.append("an unusual way to write a number")
    try:
        number = float(text)
        check(math.isfinite(number), "no finite number")
        check(kind is float or number == int(number), "no whole number")
        return kind(text) if re.fullmatch(plain, text) else kind(number)
    except (ValueError, OverflowError):
        raise Invalid("no number") from None


def check_range(name: str, number: float, doubts: Doubts) -> None:
    """Raise :class:`Invalid` for a number that a setting must not have."""
    check(number >= LEAST.get(name, 0), "too small")
    check(number <= MOST.get(name, LARGEST - 1), "too large")
    check(number < 1 or name not in BELOW_ONE, "not below 1")
    check(number < ABSURD.get(name, LARGEST), "absurd")
    is_rate = type(number) is float and "seconds" not in name and "deadline" not in name
    sure = MOST.get(name) or SURE.get(name.rpartition(".")[2], 1 if is_rate else 1000)
    if number > sure or (name == "model.norm_eps" and number < 1e-9):
        doubts.append("an unusual number")


def read_settings(folder: Path, arguments: tuple[str, ...]) -> dict[str, str]:
    """Return what the program makes of them, as :func:`judge_settings` does."""
    recipe, *changes = arguments
    return {name: repr(value) for name, value in flatten(load_recipe(recipe, changes)).items()}


NUMBERS = ("0", "1", "2", "3", "4", "8", "16", "30", "31", "-1", "0.5", "1.0", "1e-3", "1e400",
           "nan", "inf", "-inf", "-0", "1_000", " 7", "+7", "007", "0x10", "٣", "१", "²", "1e3",
           "1,5", "1000000", "2147483647", "2147483648", "99999999999999999999", "1e9",
           "0.999999", "1.0000001", "1e-13", "", "9" * 5000, "1" + "0" * 310)  # fmt: skip
WORDS = ("", "true", "false", "True", "yes", "null", "none", "a b", "a,b", ",", "arc1/training",
         "../..", "x\ny", "x\ty", "\x1b[31mred", "\u202e", "\x00", "\ud800", "é", "auto", "full",
         "box", "grid", "task", "cells", "arc-prize", "ARC", "arc-prize\n", "='", "{}", "%s",
         "x" * 5000)  # fmt: skip


def make_settings(rng: random.Random) -> Input:
    """Return a recipe and changes, most of which name a setting."""
    names = list(TYPES)
    changes = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(names)
        kind = TYPES[name]
        if get_origin(kind) is Literal and rng.random() < 0.7:
            text = rng.choice(get_args(kind))
        elif kind in (int, float) and rng.random() < 0.9:
            text = rng.choice(NUMBERS)
        elif kind in (int, float):
            text = str(rng.choice((rng.randrange(100), rng.randrange(2**40), rng.random())))
        elif name.endswith("betas"):
            text = ",".join(
                rng.choice(("0.9", "0.5", *NUMBERS)) for _ in range(rng.choice((1, 2, 2, 2, 3)))
            )
        else:
            text = rng.choice(WORDS)
        change = f"{name}={text}"
        if rng.random() < 0.15:
            change = rng.choice((
                name, f"{name.partition('.')[0]}={text}", f"{name}.x={text}", f" {change}",
                f"{name.upper()}={text}", f".{change}", f"{name}==", f"={text}", "", "=",
                f"{rng.choice(WORDS)}={text}", f"{name.replace('.', '..')}={text}",
                f"{name}\n={text}", f"__class__={text}", change.replace("o", "\u043e"),
            ))  # fmt: skip
        changes.append(change)
        if rng.random() < 0.1:
            changes.append(f"{name}={rng.choice(NUMBERS)}")
    recipe = rng.choice(list(RECIPES)) if rng.random() < 0.98 else rng.choice(WORDS)
    return Input("settings", (recipe, *changes), {}, ())
