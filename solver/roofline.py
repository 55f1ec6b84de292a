"""How long training steps and predictions take on a card: expected by a roofline, not measured.

A kernel takes as long as its arithmetic or its bytes, whichever is longer, and a part of the other;
the host, which launches the kernels, works beside the device. Described is the packed design:
sequences end to end, attention of each at its own length, the cycle compiled, so that what lies
between two products is one kernel that reads its inputs once.

What was calibrated on what: :data:`solver.cards.CALIBRATION`; ``tests/test_roofline.py`` holds the
figures that this must meet.

In comments: D width, I inner width of SwiGLU, L positions of an example, K width of a head.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solver.cards import Card
from solver.flop import flop_of_prediction, flop_of_training, training_passes
from solver.settings import ModelSettings, TrainSettings, swiglu_width

Limit = Literal["products", "bytes", "launches"]

_TOKENS = 12  # augment.tokens.NUM_TOKENS, without the import of numba

# Measured time exceeds a roofline by a share of the shorter of arithmetic and bytes: products over
# a short D spend much of their time filling and draining.
_NOT_OVERLAPPED_SHARE = 0.25

# Numbers of the state's dtype that fused kernels read and write for a position.
_NORMS = 2 * 3  # x D, forward: two norms, each reads x and what is added, and writes
_NORMS_BACKWARD = 2 * 5  # x D: gradient, both addends, the residual's gradient; writes
_ROTARY = 4  # x D: queries and keys, read and written; forward and backward
_CONVOLUTION, _CONVOLUTION_BACKWARD = 10, 20  # x D: nine neighbours and the result; twice these
_GATE, _GATE_BACKWARD = 3, 6  # x I: backward also writes again what the weight's gradient reads
_INPUTS, _INPUTS_BACKWARD = 3.5, 3  # x D and pass: z + (y + x) or y + z; sums of gradients
_ATTENTION, _ATTENTION_BACKWARD = 4, 8  # x D: q, k, v, output; and their gradients
_ANGLE_BYTES = 8  # x K: cosine and sine in float32, shared by the heads
# Bytes of a position once a supervision step, x D: states gathered and written, the question
# embedded in float32, its gradient, kernel by kernel. And of a cell: the loss over the tokens in
# float64, forward and backward.
_STEP_BYTES, _LOSS_BYTES = 80, _TOKENS * 8 * 20
# Bytes of a weight: the cast of a cycle; the gradient of a pass, added in float32; the optimiser's
# reads and writes of weight, gradient, two moments and average, not fused.
_CAST_BYTES, _GRADIENT_BYTES, _OPTIMIZER_BYTES = 6, 10, 72
_MUON_ITERATIONS = 5

# Kernels: of a layer forward and backward, around one pass over positions, of an optimiser's step.
_LAYER, _LAYER_BACKWARD, _AROUND, _ADAM, _MUON_OF_MATRIX = 12, 22, 100, 200, 30


class Part(NamedTuple):
    """Seconds of one purpose: in kernels bound by arithmetic, and in those bound by bytes."""

    arithmetic: float = 0.0
    bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.arithmetic + self.bytes


@dataclass(frozen=True, slots=True)
class Time:
    """The seconds of a piece of work on each of the cards, by purpose, and the host's beside."""

    products: Part
    attention: Part
    elementwise: Part
    around: Part
    """States, embedding, loss, weights and optimiser."""
    communication: float
    """Sums of gradients between cards."""
    gaps: float
    """Of the device, between kernels."""
    host: float
    overlaps: bool
    flop: float
    """Of all cards together, norms and losses left out."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the device does."""
        return self.products, self.attention, self.elementwise, self.around

    @property
    def device(self) -> float:
        """Seconds of the device."""
        return sum(part.seconds for part in self.parts) + self.communication + self.gaps

    @property
    def seconds(self) -> float:
        """From beginning to end."""
        return max(self.device, self.host) if self.overlaps else self.device + self.host

    @property
    def limit(self) -> Limit:
        """What takes most of the time, and so would have to become faster."""
        computing = sum(part.arithmetic for part in self.parts)
        moving = sum(part.bytes for part in self.parts) + self.communication
        launching = self.gaps + self.host * (not self.overlaps)
        if (self.overlaps and self.host > self.device) or launching > max(computing, moving):
            return "launches"
        return "products" if computing > moving else "bytes"


def training_time(
    card: Card,
    model: ModelSettings,
    train: TrainSettings,
    lengths: NDArray[np.int64],
    positions_at_once: int,
    *,
    recompute: bool = False,
) -> Time:
    """Return the time of one supervision step of a whole batch, whose examples are like these.

    ``lengths`` (N,): positions of examples as they are drawn. ``positions_at_once``: of each card.
    All cards wait for the one whose share is longest.
    """
    lanes = train.global_batch / card.count
    squares, mean = float(np.square(lengths.astype(float)).mean()), float(lengths.mean())
    slowest = _slowest_share(lengths, round(lanes), card.count)
    load = _Load(lanes * mean * slowest, lanes * squares * slowest, positions_at_once)
    backward = model.gradient_passes
    forward = training_passes(model) + (backward if recompute else 0)
    device = _Device(card, model)
    numbers = device.num_weights
    cycles = training_passes(model) // model.passes_per_cycle + model.gradient_cycles
    gradients = backward / model.num_networks  # each pass is of one network
    weights = numbers * (
        (_CAST_BYTES * cycles + _GRADIENT_BYTES * gradients) * load.num_pieces + _OPTIMIZER_BYTES
    )
    steps = load.positions * (_STEP_BYTES * model.dim + _LOSS_BYTES * model.cells_per_position)
    around = (weights + steps) / (1e9 * card.gb_per_second)
    communication = 0.0
    if card.count > 1:  # a ring: each card sends nearly all numbers twice
        sent = 2 * (card.count - 1) / card.count * 4 * numbers
        communication = sent / (1e9 * card.sent_gb_per_second)
    kernels = load.num_pieces * (
        model.num_layers * (forward * _LAYER + backward * _LAYER_BACKWARD) + _AROUND
    )
    muon = 0.0
    if train.optimizer != "adam_atan2":
        muon = device.muon_flop / (1e12 * card.orthogonal_share * card.product_tflops)
        kernels += len(device.shapes) * model.num_networks * model.num_layers * _MUON_OF_MATRIX
    return Time(
        device.products(load, forward + 2 * backward),
        device.attention(load, forward, backward),
        device.elementwise(load, forward, backward),
        Part(muon, around),
        communication,
        *_launching(card, kernels + _ADAM, lanes),
        card.overlaps,
        train.global_batch * flop_of_training(model, lengths) / len(lengths),
    )


def prediction_time(
    card: Card,
    model: ModelSettings,
    num_supervision_steps: int,
    lengths: NDArray[np.int64],
    positions_at_once: int,
) -> Time:
    """Return the time of predicting views of these lengths (N,), shared by all the cards."""
    squares = float(np.square(lengths.astype(float)).sum())
    load = _Load(float(lengths.sum()) / card.count, squares / card.count, positions_at_once)
    cycles = num_supervision_steps * model.num_cycles
    forward = cycles * model.passes_per_cycle
    device = _Device(card, model)
    weights = device.num_weights * _CAST_BYTES * cycles * load.num_pieces
    losses = _LOSS_BYTES * model.cells_per_position * num_supervision_steps
    steps = load.positions * (_STEP_BYTES * model.dim + losses)
    kernels = load.num_pieces * (model.num_layers * forward * _LAYER + _AROUND)
    return Time(
        device.products(load, forward),
        device.attention(load, forward, 0),
        device.elementwise(load, forward, 0),
        Part(bytes=(weights + steps) / (1e9 * card.gb_per_second)),
        0.0,
        *_launching(card, kernels, len(lengths) / card.count),
        card.overlaps,
        flop_of_prediction(model, lengths, num_supervision_steps),
    )


def prediction_bytes(model: ModelSettings, positions_at_once: int, width: int) -> dict[str, float]:
    """Return the bytes that prediction takes on each card, by purpose, rows left out.

    ``width``: of a number of the state, bytes.
    """
    inner = swiglu_width(model.dim, model.expansion)
    # Question, answer, latent and their successors; then the widest moment of a layer: the
    # projections of SwiGLU, their product and its input. The logits are kept twice.
    numbers = 6 * model.dim + 3 * inner + 2 * model.dim + 2 * _TOKENS * model.cells_per_position
    return {
        "weights": 4.0 * _num_weights(model),
        "activations": float(positions_at_once) * width * numbers,
    }


class _Load(NamedTuple):
    """What one card computes in a step: positions, sums of their examples' L * L, in pieces."""

    positions: float
    squares: float
    positions_at_once: int

    @property
    def num_pieces(self) -> int:
        return max(1, int(np.ceil(self.positions / max(1, self.positions_at_once) - 0.01)))


class _Device(NamedTuple):
    """The kernels of a model on a card."""

    card: Card
    model: ModelSettings

    @property
    def width(self) -> int:
        return 4 if self.card.dtype == "float32" else 2

    @property
    def shapes(self) -> list[tuple[float, int, int]]:
        return _product_shapes(self.model)

    @property
    def num_weights(self) -> int:
        return _num_weights(self.model)

    @property
    def muon_flop(self) -> float:
        """Of the iterations that make each matrix orthogonal: three products in each."""
        sides = [sorted((num_in, num_out)) for _, num_in, num_out in self.shapes]
        each = [4 * few**2 * many + 2 * few**3 for few, many in sides]
        num_layers = self.model.num_networks * self.model.num_layers
        return float(num_layers * _MUON_ITERATIONS * sum(each))

    def bound(self, flop: float, tflops: float, num_bytes: float) -> Part:
        arithmetic = flop / (1e12 * tflops)
        moving = num_bytes / (1e9 * self.card.gb_per_second)
        longer = max(arithmetic, moving) + _NOT_OVERLAPPED_SHARE * min(arithmetic, moving)
        return Part(longer) if arithmetic >= moving else Part(bytes=longer)

    def products(self, load: _Load, times: int) -> Part:
        """A layer's products, computed ``times`` in each: a backward pass is two of a forward."""
        parts = []
        for share, num_in, num_out in self.shapes:
            rows, weight = share * load.positions, num_in * num_out
            num_bytes = self.width * (rows * (num_in + num_out) + weight * load.num_pieces)
            parts.append(self.bound(2 * rows * weight, self.card.product_tflops, num_bytes))
        times *= self.model.num_layers
        return Part(times * sum(p.arithmetic for p in parts), times * sum(p.bytes for p in parts))

    def attention(self, load: _Load, forward: int, backward: int) -> Part:
        if self.model.variant != "attention":
            return Part()
        layers, width = self.model.num_layers, self.model.attention_width
        flop = layers * (forward + 2.0 * backward) * 4 * width * load.squares
        numbers = layers * (forward * _ATTENTION + backward * _ATTENTION_BACKWARD) * width
        num_bytes = self.width * numbers * load.positions
        return self.bound(flop, self.card.attention_tflops, num_bytes)

    def elementwise(self, load: _Load, forward: int, backward: int) -> Part:
        """What is fused between two products, and between two passes."""
        model, dim = self.model, self.model.dim
        inner = swiglu_width(dim, model.expansion)
        if model.variant == "mlp":  # of D rows for an example, not of L
            inner += swiglu_width(model.length, model.expansion) * dim // model.length
        angles = _ANGLE_BYTES * model.head_width
        norms = _NORMS + _ROTARY + _CONVOLUTION * model.convolution
        norms_back = _NORMS_BACKWARD + _ROTARY + _CONVOLUTION_BACKWARD * model.convolution
        layer = self.width * (norms * dim + _GATE * inner) + angles
        layer_back = self.width * (norms_back * dim + _GATE_BACKWARD * inner)
        a_pass = model.num_layers * layer + self.width * _INPUTS * dim
        a_pass_back = model.num_layers * (layer_back + angles) + self.width * _INPUTS_BACKWARD * dim
        num_bytes = load.positions * (forward * a_pass + backward * a_pass_back)
        return Part(bytes=self.card.unfused * num_bytes / (1e9 * self.card.gb_per_second))


def _product_shapes(model: ModelSettings) -> list[tuple[float, int, int]]:
    """Return of each product of a layer: rows for each position, columns in and out."""
    dim, inner = model.dim, swiglu_width(model.dim, model.expansion)
    mlp = [(1.0, dim, 2 * inner), (1.0, inner, dim)]
    if model.variant == "attention":
        width = model.attention_width
        return [(1.0, dim, 3 * width), (1.0, width, dim), *mlp]
    length, between = model.length, swiglu_width(model.length, model.expansion)
    share = dim / length  # a row for each number of the state
    return [(share, length, 2 * between), (share, between, length), *mlp]


def _num_weights(model: ModelSettings) -> int:
    of_layer = sum(num_in * out for _, num_in, out in _product_shapes(model))
    return model.num_networks * model.num_layers * of_layer


def _launching(card: Card, num_kernels: int, num_examples: float) -> tuple[float, float]:
    """Return the seconds of the device between kernels, and those of the host."""
    host = card.launch_us * num_kernels + card.example_us * num_examples
    return 1e-6 * card.gap_us * num_kernels, 1e-6 * host


def _slowest_share(lengths: NDArray[np.int64], lanes: int, count: int) -> float:
    """Return the longest of ``count`` shares of ``lanes`` examples over their mean, 1 or more."""
    if count == 1:
        return 1.0
    draws = np.random.default_rng(0).choice(lengths, (32, min(count, 64), max(1, lanes)))
    return float(draws.sum(2).max(1).mean() / draws.sum(2).mean())
