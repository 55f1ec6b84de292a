"""Settings of the solver; importing them does not import torch.

The text beside a type says what the setting means and its unit; ``--help`` prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, Self

from augment.errors import InputError
from augment.grid import MAX_SIDE, NUM_COLORS, shorten
from augment.puzzle_index import RowsPer

MAX_DEPTH = 1000
"""The most layers, prefix tokens, cycles or steps; the reference has up to 16 of each."""

_LARGEST = 2**31
_MAX_PARAMETERS = 10**9  # over a hundred times the reference's; training them takes 20 GB
_SHARE_OF_SHORT_AVERAGE = 0.1
_MAX_LANES = 100_000  # over a hundred times the reference's

RECURSION = ("num_cycles", "num_latent_steps", "max_supervision_steps")
"""Settings of a model that may be others in test-time training."""

# What a kind of model does not have, and the one value that says so.
_WITHOUT_MEANING: Mapping[str, Mapping[str, int]] = {
    "trm": {},
    "hrm": {"gradient_cycles": 1},
    "transformer": {"num_cycles": 1, "num_latent_steps": 1},
}


@dataclass(frozen=True, slots=True)
class Section:
    """Settings that share the first part of their names."""

    SECTION = ""
    """That part; not a setting itself."""

    def require_numbers(
        self, at_least: Mapping[str, float], at_most: Mapping[str, float] | None = None
    ) -> None:
        """Raise :class:`InputError` unless all numbers are finite, sane and within their limits."""
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float):
                    sane = abs(number) < _LARGEST  # false for NaN
                    self._require(sane, field.name, f"a number below {_LARGEST}", number)
        for name, limit in at_least.items():
            value = getattr(self, name)
            self._require(value >= limit, name, f"at least {limit}", value)
        for name, limit in (at_most or {}).items():
            value = getattr(self, name)
            self._require(value <= limit, name, f"at most {limit}", value)

    def _require(self, holds: bool, name: str, expected: str, value: object) -> None:
        require(holds, f"{self.SECTION}.{name} must be {expected}, got {shorten(value)}")


@dataclass(frozen=True, slots=True)
class ModelSettings(Section):
    """The architecture; it travels inside every checkpoint. Defaults: the reference on ARC."""

    SECTION = "model"

    kind: Annotated[
        Literal["trm", "hrm", "transformer"],
        "trm: one network refines y and z; hrm: a network of its own for each of two states; "
        "transformer: one pass of a deep network (the reference's baseline)",
    ] = "trm"
    variant: Annotated[
        Literal["attention", "mlp"], "what mixes positions: attention, or an MLP over the sequence"
    ] = "attention"
    canvas: Annotated[
        Literal["full", "box"],
        "cells computed: all of the canvas (reference), or the box around input and output",
    ] = "full"
    canvas_side: Annotated[int, "side of the square canvas, cells"] = 30
    patch: Annotated[int, "side of the square of cells that makes one position"] = 1
    dim: Annotated[int, "width D of the state"] = 512
    num_heads: Annotated[int, "attention heads, each dim // num_heads wide"] = 8
    num_layers: Annotated[int, "layers of the network, or of each of the two"] = 2
    expansion: Annotated[
        float, "SwiGLU expansion; inner width = 2/3 x expansion x dim, rounded up to 256"
    ] = 4.0
    prefix_length: Annotated[
        int, "prefix tokens before the canvas; the first is the puzzle row"
    ] = 16
    rows_per: Annotated[
        RowsPer,
        "a puzzle row per view (reference), or per task, the view being an input of its own",
    ] = "view"
    num_cycles: Annotated[
        int, "T: latent recursions per supervision step; the last gradient_cycles have a gradient"
    ] = 3
    num_latent_steps: Annotated[
        int, "n: updates of z in a latent recursion, before its update of y"
    ] = 4
    max_supervision_steps: Annotated[int, "N_sup: supervision steps after which a lane halts"] = 16
    norm_eps: Annotated[float, "epsilon of the RMS norm"] = 1e-5
    rotary: Annotated[
        Literal["flat", "grid"],
        "what positions count: cells of the flat canvas (reference), or rows and columns",
    ] = "flat"
    rotary_base: Annotated[float, "base of the rotary positions; 100 suits rows and columns"] = (
        10000.0
    )
    conditioning: Annotated[
        Literal["prefix", "cells"],
        "where row and view come in: as a prefix before the canvas (reference), or added to every "
        "cell, without a prefix",
    ] = "prefix"
    told: Annotated[
        Literal["view", "dihedral"],
        "what the model is told of a view, with rows per task: all of it, or its dihedral only",
    ] = "view"
    convolution: Annotated[
        bool, "a depth-wise 3x3 convolution over the box before SwiGLU, at first the identity"
    ] = False
    output: Annotated[Literal["stablemax", "softmax"], "what makes probabilities of logits"] = (
        "stablemax"
    )
    gradient_cycles: Annotated[
        int, "latent recursions, the last ones, that the gradient flows through"
    ] = 1
    dropout: Annotated[float, "share of sub-layers' outputs dropped in training"] = 0.0

    def __post_init__(self) -> None:
        self.require_numbers(at_least={
            "dim": 2, "num_heads": 1, "num_layers": 1, "num_cycles": 1, "num_latent_steps": 1,
            "max_supervision_steps": 1, "expansion": 0.01, "norm_eps": 0.0, "rotary_base": 1.0,
            "gradient_cycles": 1, "dropout": 0.0, "prefix_length": 0, "patch": 1,
            "canvas_side": 1,
        }, at_most={
            **dict.fromkeys(("num_layers", "prefix_length", *RECURSION), MAX_DEPTH),
            "canvas_side": MAX_SIDE,
        })  # fmt: skip
        require(
            self.num_parameters <= _MAX_PARAMETERS,
            f"model.dim, model.num_layers and model.expansion make {self.num_parameters:.2g} "
            f"parameters; at most {_MAX_PARAMETERS:.0e} are allowed",
        )
        require(
            self.head_width > 0 and self.head_width % 2 == 0,
            f"model.dim // model.num_heads must be even and not 0, got {self.head_width}",
        )
        for name, value in _WITHOUT_MEANING[self.kind].items():
            self._require(
                getattr(self, name) == value,
                name, f"{value} with model.kind={self.kind}", getattr(self, name),
            )  # fmt: skip
        require(
            self.canvas_side % self.patch == 0,
            f"model.patch must divide model.canvas_side {self.canvas_side}",
        )
        require(
            self.rotary == "flat" or self.head_width % 4 == 0,
            "model.rotary=grid needs model.dim // model.num_heads to be a multiple of 4",
        )
        require(
            self.canvas == "full" or self.variant == "attention",
            "model.canvas=box needs model.variant=attention: an MLP has one fixed length",
        )
        self._require(self.dropout < 1, "dropout", "below 1", self.dropout)
        require(
            self.gradient_cycles <= self.num_cycles,
            f"model.gradient_cycles must be at most model.num_cycles {self.num_cycles}",
        )
        require(
            self.prefix_length >= self.num_prefix_tokens_used,
            f"model.prefix_length must be at least {self.num_prefix_tokens_used}, for the puzzle "
            "row and the view",
        )
        require(
            self.conditioning == "prefix" or self.prefix_length == 0,
            "model.conditioning=cells needs model.prefix_length=0",
        )
        require(
            self.rows_per == "task" or self.told == "view",
            "model.told=dihedral needs model.rows_per=task: a row per view tells all",
        )
        require(
            not self.convolution or self.variant == "attention",
            "model.convolution needs model.variant=attention",
        )

    @property
    def num_parameters(self) -> int:
        """Parameters of the layers."""
        of_layer = 3 * self.dim * swiglu_width(self.dim, self.expansion)
        if self.variant == "attention":
            of_layer += 4 * self.dim * self.attention_width + 9 * self.dim * self.convolution
        else:
            of_layer += 3 * self.length * swiglu_width(self.length, self.expansion)
        return self.num_networks * self.num_layers * of_layer

    @property
    def num_networks(self) -> int:
        """Networks with weights of their own."""
        return 2 if self.kind == "hrm" else 1

    @property
    def passes_per_cycle(self) -> int:
        """Passes through a network in a latent recursion."""
        return 1 if self.kind == "transformer" else self.num_latent_steps + 1

    @property
    def gradient_passes(self) -> int:
        """Passes of a supervision step that the gradient flows through; of HRM one a network."""
        return 2 if self.kind == "hrm" else self.gradient_cycles * self.passes_per_cycle

    @property
    def learns_to_continue(self) -> bool:
        """Whether a step of training looks one step ahead, for what going on is worth."""
        return self.kind == "hrm" and self.max_supervision_steps > 1

    @property
    def head_width(self) -> int:
        """Width of a head of attention."""
        return self.dim // self.num_heads

    @property
    def attention_width(self) -> int:
        """Width of all heads together; less than ``dim`` where their number does not divide it."""
        return self.num_heads * self.head_width

    @property
    def length(self) -> int:
        """Positions of the prefix and the whole canvas."""
        return self.prefix_length + self.patches_per_side**2

    @property
    def patches_per_side(self) -> int:
        """Positions along a side of the canvas."""
        return self.canvas_side // self.patch

    @property
    def cells_per_position(self) -> int:
        """Cells of the square that makes one position."""
        return self.patch**2

    @property
    def num_prefix_tokens_used(self) -> int:
        """Prefix tokens in use: the row, and with rows per task the view's features."""
        return 0 if self.conditioning == "cells" else 1 + self.num_view_features

    @property
    def num_view_features(self) -> int:
        """The numbers that tell a view: its dihedral, and what became of each of the colors 1..9.

        None with a row per view, whose row tells all.
        """
        if self.rows_per == "view":
            return 0
        return 1 if self.told == "dihedral" else NUM_COLORS


@dataclass(frozen=True, slots=True)
class TrainSettings(Section):
    """One training run: pretraining, or test-time training on tasks never seen."""

    SECTION = "train"

    num_steps: Annotated[
        int, "training steps, each one supervision step of every lane; 0 = no training"
    ] = 518_000
    global_batch: Annotated[int, "lanes over all processes"] = 768
    optimizer: Annotated[
        Literal["adam_atan2", "normuon"],
        "of the network's matrices; all other weights take AdamATan2 (reference)",
    ] = "adam_atan2"
    lr: Annotated[float, "learning rate of the trunk, the model without its puzzle rows"] = 1e-4
    matrix_lr: Annotated[float, "learning rate of what NorMuon trains; 0 = lr"] = 0.0
    betas: Annotated[tuple[float, float], "AdamATan2 betas"] = (0.9, 0.95)
    weight_decay: Annotated[float, "weight decay of the trunk"] = 0.1
    atan2_scale: Annotated[float, "AdamATan2's a: scale of its steps"] = 1.0
    rows_lr: Annotated[float, "learning rate of the puzzle rows (sign SGD)"] = 1e-2
    rows_weight_decay: Annotated[float, "weight decay of the puzzle rows in a batch"] = 0.1
    warmup_steps: Annotated[int, "steps over which both learning rates rise linearly"] = 2000
    schedule: Annotated[
        Literal["constant", "wsd"],
        "learning rates after warm-up: constant (reference), or stable and then linear to zero",
    ] = "constant"
    decay_share: Annotated[float, "share of the run in which wsd falls to zero"] = 0.3
    ema_rate: Annotated[float, "rate of the trunk's moving average"] = 0.999
    ema_share: Annotated[
        float,
        "span of the average as a share of the steps so far, up to that of ema_rate; 0 = ema_rate",
    ] = 0.0
    halt_exploration: Annotated[float, "chance per step of a random minimum of steps"] = 0.1
    rows_only_share: Annotated[
        float, "first share of the run in which only puzzle rows train; 1 = all of it"
    ] = 0.0
    seed: Annotated[int, "seed of weights, sampling and exploration"] = 0
    time_limit_seconds: Annotated[float, "stop (resumable) after this long; 0 = no limit"] = 0.0
    log_every: Annotated[int, "steps per line of metrics.jsonl"] = 100

    def __post_init__(self) -> None:
        self.require_numbers(at_least={
            "num_steps": 0, "global_batch": 1, "lr": 1e-12, "matrix_lr": 0, "weight_decay": 0,
            "atan2_scale": 0, "rows_lr": 0, "rows_weight_decay": 0, "warmup_steps": 0,
            "decay_share": 1e-6, "ema_rate": 0, "ema_share": 0, "rows_only_share": 0,
            "halt_exploration": 0, "seed": 0, "time_limit_seconds": 0,
            "log_every": 1,
        }, at_most={
            "global_batch": _MAX_LANES, "decay_share": 1, "ema_share": 1, "rows_only_share": 1,
            "halt_exploration": 1, "log_every": 1_000_000,
        })  # fmt: skip
        self._require(all(0 <= b < 1 for b in self.betas), "betas", "in [0, 1)", self.betas)
        self._require(self.ema_rate < 1, "ema_rate", "below 1", self.ema_rate)
        require(
            self.matrix_lr == 0 or self.optimizer != "adam_atan2",
            f"{self.SECTION}.matrix_lr needs {self.SECTION}.optimizer=normuon",
        )

    def with_half_the_learning_rates(self) -> Self:
        """Return the same settings with half of every learning rate."""
        halves = {name: getattr(self, name) / 2 for name in ("lr", "rows_lr", "matrix_lr")}
        return replace(self, **halves)


@dataclass(frozen=True, slots=True)
class AdaptSettings(TrainSettings):
    """Test-time training: a training run that starts from weights, and how it starts."""

    SECTION = "adapt"

    start: Annotated[
        Literal["weights", "scratch"],
        "start from the weights, or from scratch with a new model of model.*",
    ] = "weights"
    time_limit_seconds: Annotated[float, "time that all of it may take; 0 = no limit"] = 0.0
    num_cycles: Annotated[int, "model.num_cycles from here on; 0 = as the weights have it"] = 0
    num_latent_steps: Annotated[int, "model.num_latent_steps from here on; 0 = likewise"] = 0
    max_supervision_steps: Annotated[
        int, "model.max_supervision_steps from here on; 0 = likewise"
    ] = 0
    per_task_steps: Annotated[
        int, "steps that each task then trains apart, from what all tasks have learned; 0 = none"
    ] = 0
    per_task_batch: Annotated[int, "lanes of these steps"] = 16
    per_task_lr: Annotated[float, "learning rate of the trunk in these steps; 0 = adapt.lr"] = 0.0
    per_task_share: Annotated[
        float, "share of the time for training, where there is a limit, that these steps get"
    ] = 0.5

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)  # super() does not work in a class with slots
        self.require_numbers(
            {**dict.fromkeys((*RECURSION, "per_task_steps", "per_task_lr"), 0),
             "per_task_batch": 1, "per_task_share": 1e-6},
            {**dict.fromkeys(RECURSION, MAX_DEPTH), "per_task_batch": _MAX_LANES,
             "per_task_share": 1},
        )  # fmt: skip

    def deciding(self) -> dict[str, object]:
        """Return the settings that decide what training with these learns; ``per_task_*`` aside."""
        names = {field.name for field in fields(self)}
        free = {name for name in names if name.startswith("per_task_")}
        names -= free | {"time_limit_seconds", "log_every"}
        return {name: getattr(self, name) for name in sorted(names)}

    @property
    def per_task(self) -> "AdaptSettings":
        """The settings of training one task apart.

        Their time limit is for all tasks in sum. The warm-up takes a tenth of the steps at most,
        the average spans a tenth of them if nothing else is said, and ``per_task_lr`` is the rate
        of NorMuon too.
        """
        share = self.per_task_share if self.per_task_steps else 0.0
        return replace(
            self,
            num_steps=self.per_task_steps,
            global_batch=self.per_task_batch,
            lr=self.per_task_lr or self.lr,
            matrix_lr=0.0 if self.per_task_lr else self.matrix_lr,
            warmup_steps=min(self.warmup_steps, self.per_task_steps // 10),
            ema_share=self.ema_share or _SHARE_OF_SHORT_AVERAGE,
            time_limit_seconds=self.time_limit_seconds * share,
        )

    def adapted_model(self, model: ModelSettings) -> ModelSettings:
        """Return ``model`` with the recursion that these settings name, where they name one."""
        named = {name: getattr(self, name) for name in RECURSION if getattr(self, name)}
        return replace(model, **named)


@dataclass(frozen=True, slots=True)
class EngineSettings(Section):
    """Where and in which precision the network runs."""

    SECTION = "engine"

    device: Annotated[Literal["auto", "cpu", "cuda"], "where to compute"] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        "arithmetic; auto = bfloat16 where the hardware has it, float16 on other GPUs with tensor "
        "cores, else float32",
    ] = "auto"
    compile: Annotated[
        Literal["auto", "true", "false"], "compile the model with torch.compile; auto = on a GPU"
    ] = "auto"
    positions_per_pass: Annotated[
        int,
        "positions computed together, which bounds the memory; 0 = 4096 on a CPU, 65,536 on a GPU, "
        "where training takes what the memory holds",
    ] = 0
    recompute: Annotated[
        bool, "compute passes again for their gradient: less memory, a third more time"
    ] = False
    memory_gb: Annotated[
        float, "memory that training must fit into, GB; 0 = what the device has"
    ] = 0.0

    def __post_init__(self) -> None:
        self.require_numbers(at_least={"positions_per_pass": 0, "memory_gb": 0})


def swiglu_width(width: int, expansion: float) -> int:
    """Return a SwiGLU's inner width: 2/3 of the expansion, rounded up to a multiple of 256."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


def require(holds: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless the setting ``holds``."""
    if not holds:
        raise InputError(message)
