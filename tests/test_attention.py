"""Attention on a GPU, with kernels of the CPU in the place of its own."""

import inspect
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import SMALL_MODEL, make_dataset

import solver.attention
from augment.examples import ExampleStream
from solver.attention import Sequences, attend
from solver.kinds import new_model
from solver.loss import compute_losses
from solver.packing import pack

BOX_MODEL = replace(SMALL_MODEL, canvas="box", rows_per="task", rotary="grid")
EFFICIENT = torch.ops.aten._efficient_attention_forward
CALLED = {
    "flash": ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"),
    "efficient": (
        "query", "key", "value", "bias", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q",
        "max_seqlen_k", "dropout_p", "custom_mask_type", "compute_log_sumexp",
    ),
}  # fmt: skip


def softmax_attention(q, k, v, bounds):
    """Attention in plain formulas; NaN where no sequence is, as kernels leave anything there."""
    parts = []
    for start, stop in pairwise(bounds.tolist()):
        q_, k_, v_ = (x[start:stop].transpose(0, 1) for x in (q, k, v))
        scores = q_ @ k_.transpose(1, 2) / q.shape[-1] ** 0.5
        parts.append((scores.softmax(-1) @ v_).transpose(0, 1))
    return torch.cat([*parts, q.new_full((len(q) - stop, *q.shape[1:]), torch.nan)])


@pytest.fixture
def calls(monkeypatch):
    """Put stand-ins in the place of both kernels; return the arguments they are called with."""
    seen = []
    signature = inspect.signature(solver.attention.varlen_attn)
    names = [argument.name for argument in EFFICIENT.default._schema.arguments]

    def flash(*args, **kwargs):
        seen.append(given := signature.bind(*args, **kwargs).arguments)
        return softmax_attention(*args[:3], given["cu_seq_q"])

    def efficient(*args, **kwargs):
        seen.append(given := dict(zip(names, args, strict=False)) | kwargs)
        (q,), (k,), (v,) = args[:3]
        mixed = softmax_attention(q, k, v, given["cu_seqlens_q"])
        return mixed[None], torch.empty(0), 0, 0, given["max_seqlen_q"], given["max_seqlen_k"]

    monkeypatch.setattr(solver.attention, "varlen_attn", flash)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient)
    return seen


def attention_of(kernel, bounds, longest, width=8):
    """Return what attention gives, and the gradients of q, k and v."""
    generator = torch.Generator().manual_seed(1)
    shape = (bounds[-1], 2, width)
    qkv = [torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)]
    mixed = attend(*qkv, Sequences(torch.tensor(bounds, dtype=torch.int32), longest, kernel))
    mixed.square().sum().backward()
    return [mixed.detach(), *(x.grad for x in qkv)]


@pytest.mark.parametrize("kernel", CALLED)
@pytest.mark.parametrize("bounds", [[0, 5, 38, 40], [0, 7, 7], [0, 1, 2, 70]])
def test_the_kernels_of_a_gpu_are_called_as_documented(calls, kernel, bounds):
    """They get what they ask for in their order, and results and gradients are those of a CPU."""
    ours = attention_of(kernel, bounds, 68)
    torch.testing.assert_close(ours, attention_of("cpu", bounds, 68))
    (given,) = calls
    assert tuple(given) == CALLED[kernel]
    q, k, v, *rest = given.values()
    shape = (bounds[-1], 2, 8) if kernel == "flash" else (1, bounds[-1], 2, 8)
    assert q.shape == k.shape == v.shape == shape
    if kernel == "efficient":
        assert rest.pop(0) is None
        assert rest[4:] == [0.0, 0, True]
    assert [rest[0].tolist(), rest[1].tolist(), *rest[2:4]] == [bounds, bounds, 68, 68]
    assert rest[0].dtype == rest[1].dtype == torch.int32


@pytest.mark.parametrize("kernel", CALLED)
def test_heads_are_filled_up_to_what_the_kernels_of_a_gpu_read(calls, kernel):
    """With zeros, and to the same effect: the scale stays that of the true width."""
    ours = attention_of(kernel, [0, 5, 38, 40], 33, width=42)
    torch.testing.assert_close(ours, attention_of("cpu", [0, 5, 38, 40], 33, width=42))
    (given,) = calls
    assert all(given[name].shape[-1] == 48 for name in ("query", "key", "value"))
    assert not given["key"][..., 42:].any()


def supervision_step(model, dataset):
    """Return results and gradients of a pass with padding, the padding's own states too."""
    examples = ExampleStream(dataset, 0).examples(0, 7)
    packed = pack(model.settings, torch.device("cpu"), examples, np.arange(7))
    assert packed.num_positions < len(packed.owners_N) == packed.bounds_E[-1]
    rows_GD = torch.ones(7, model.settings.dim).requires_grad_()
    x_ND = model.embed(packed, rows_GD)
    model.zero_grad()
    state, logits_MV, halt_G, _ = model(model.start(len(x_ND), x_ND.dtype), x_ND, packed)
    losses = compute_losses(logits_MV, halt_G, packed.labels_M, packed.owners_N)
    losses.total.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [*state, logits_MV.detach(), losses.total.detach(), rows_GD.grad, *gradients]


@pytest.mark.parametrize("kernel", CALLED)
def test_a_step_is_the_same_with_the_kernels_of_a_gpu(small_tasks, calls, kernel, monkeypatch):
    """All of it is finite, though a kernel writes nothing beyond the last of its bounds."""
    model, dataset = new_model(BOX_MODEL, 3), make_dataset(small_tasks, "task")
    expected = supervision_step(model, dataset)
    monkeypatch.setattr("solver.model.choose_kernel", lambda device, dtype: kernel)
    ours = supervision_step(model, dataset)
    assert len(calls) == SMALL_MODEL.num_cycles * 2 * SMALL_MODEL.num_layers
    assert all(tensor.isfinite().all() for tensor in ours)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
