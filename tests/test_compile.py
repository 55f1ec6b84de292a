"""The compiled latent recursion: few graphs serve all that a run does, and none is needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KINDS, SHORT_TRAINING, SMALL_MODEL, make_dataset, make_table
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend

from augment.examples import ExampleStream
from solver.cpu_attention import attend_on_cpu
from solver.kinds import new_model
from solver.loader import batches
from solver.predict import predict
from solver.queries import Plan, list_queries
from solver.train import start_training, train_step
from solver.trm import TRM
from solver.weights import Weights

HRM_LIKE = replace(KINDS["hrm"], canvas="box")
TRANSFORMER_LIKE = replace(KINDS["transformer"], canvas="box")
ARC1_LIKE = replace(SMALL_MODEL, canvas="box", num_cycles=3, num_latent_steps=2)
FAST_LIKE = replace(
    SMALL_MODEL, canvas="box", num_cycles=1, num_latent_steps=2, rows_per="task", rotary="grid"
)
MLP_LIKE = replace(SMALL_MODEL, variant="mlp", num_cycles=2, num_latent_steps=1)
MOST_GRAPHS = 5
LONGEST_SIZE = 30  # characters that the compiler needs for a size of a tensor, such as 4*s0
# torch's compiler looks at the gradients of its arguments, and warns of that itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def flash(monkeypatch):
    """Take the way of a GPU with FlashAttention, with a kernel of the CPU."""

    def varlen_attn(q, k, v, bounds, _, longest, __):
        return attend_on_cpu(q, k, v, bounds)

    monkeypatch.setattr("solver.model.choose_kernel", lambda device, dtype: "flash")
    monkeypatch.setattr("solver.attention.varlen_attn", varlen_attn)


def compile_with(backend, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **more: compile_(*a, backend=backend, **more))


def train_steps(dataset, engine, model, steps=(4096, 4096, 4096, 1), frozen=1):
    """Steps with these positions at once; then some that train the rows alone."""
    settings = replace(SHORT_TRAINING, num_steps=len(steps) + frozen, global_batch=6)
    training = start_training(new_model(model), make_table(dataset), settings, engine)
    losses = []
    examples = batches(ExampleStream(dataset, 0), settings, model, engine.group, 0)
    for batch, tokens in zip(examples, [*steps, *[4096] * frozen], strict=True):
        engine.positions_per_pass = tokens
        share = 1.0 if training.step >= len(steps) else 0.0
        train_step(training, batch, replace(settings, rows_only_share=share), engine)
        losses.append(training.sums.tolist())
    return training, losses


def predict_views(training, dataset, engine, num_views):
    weights = Weights(training.model, training.table, dataset.index, np.empty(0, np.uint64), "", "")
    tasks = dataset.tasks[:num_views]
    queries = list_queries(weights, tasks, num_views)
    return predict(weights, Plan.of(training.model.settings, 2, tasks, queries), engine)


@pytest.mark.parametrize(
    "model",
    [ARC1_LIKE, FAST_LIKE, MLP_LIKE, HRM_LIKE, TRANSFORMER_LIKE],
    ids=["arc1", "arc1-fast", "mlp", "hrm", "transformer"],
)
def test_few_graphs_serve_training_and_prediction(small_tasks, engine, flash, monkeypatch, model):
    counter = CompileCounterWithBackend("eager")
    compile_with(counter, monkeypatch)
    dataset = make_dataset(small_tasks, model.rows_per)
    printed = []
    compiled = replace(engine, compile=True, say=printed.append)
    training, _ = train_steps(dataset, compiled, model)
    for num_views in (4, 1, 3):
        predict_views(training, dataset, compiled, num_views)
    assert compiled.compile, printed
    most = 2 * MOST_GRAPHS if model is MLP_LIKE else MOST_GRAPHS  # one example is a case of its own
    assert 0 < counter.frame_count <= most


@pytest.mark.parametrize("model", [ARC1_LIKE, MLP_LIKE])
def test_sizes_stay_short_however_deep_the_recursion(small_dataset, engine, monkeypatch, model):
    """Sizes that grow from layer to layer keep the compiler busy for longer than a run takes."""
    sizes = set()

    def collect(graph, _):
        values = (node.meta.get("val") for node in graph.graph.nodes)
        for value in values:
            if isinstance(value, torch.Tensor):
                sizes.update(str(size) for size in value.shape)
        return make_boxed_func(graph.forward)

    compile_with(aot_autograd(fw_compiler=collect), monkeypatch)
    train_steps(small_dataset, replace(engine, compile=True), model, steps=(4096,), frozen=0)
    assert any("s" in size for size in sizes)  # of a number of positions that is not fixed
    assert max(map(len, sizes)) <= LONGEST_SIZE, max(sizes, key=len)


@pytest.mark.parametrize("model", [ARC1_LIKE, HRM_LIKE, TRANSFORMER_LIKE], ids=KINDS)
def test_a_compiled_model_learns_the_same(small_dataset, engine, monkeypatch, model):
    compile_with("aot_eager", monkeypatch)
    compiled = replace(engine, compile=True)
    ours, _ = train_steps(small_dataset, compiled, model, steps=(4096,), frozen=0)
    assert compiled.compile
    plain, _ = train_steps(small_dataset, replace(engine), model, steps=(4096,), frozen=0)
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), parameter)


def test_where_compiling_fails_the_model_runs_as_it_is(small_dataset, engine, monkeypatch):
    def refuse(graph, inputs):
        raise RuntimeError("no compiler is here\nand a long story")

    compile_with(refuse, monkeypatch)
    printed = []
    compiled = replace(engine, compile=True, say=printed.append)
    _, ours = train_steps(small_dataset, compiled, ARC1_LIKE)
    _, expected = train_steps(small_dataset, replace(engine), ARC1_LIKE)
    assert ours == expected
    (line,) = printed
    assert line.startswith("cpu: warning: the compiled model failed, going on without compiling")
    assert "no compiler is here" in line
    assert not compiled.compile


def test_a_bug_of_our_own_is_not_blamed_on_the_compiler(small_dataset, engine, monkeypatch):
    def latent_recursion(*_):
        raise ValueError("a bug of our own")

    monkeypatch.setattr(TRM, "latent_recursion", latent_recursion)
    compile_with("eager", monkeypatch)
    printed = []
    compiled = replace(engine, compile=True, say=printed.append)
    with pytest.raises(ValueError, match="a bug of our own") as raised:
        train_steps(small_dataset, compiled, ARC1_LIKE)
    assert printed == []
    assert raised.value.__notes__ == ["before that, the compiled model failed: a bug of our own"]
