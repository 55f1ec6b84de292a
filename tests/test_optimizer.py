"""NorMuon takes the matrices of the network, many at a time, and AdamATan2 all other weights."""

from dataclasses import replace

import pytest
import torch
from adam_atan2_pytorch import AdamAtan2, MuonAdamAtan2
from conftest import KINDS, SMALL_MODEL, seeded

from solver.kinds import new_model
from solver.optimizer import make_optimizer
from solver.schedule import set_learning_rates
from solver.settings import TrainSettings


def test_matrices_of_one_shape_step_together_as_they_would_alone():
    """Three steps of the package's own optimiser lead to the same weights."""
    settings = TrainSettings(optimizer="normuon", lr=1e-2, weight_decay=0.1)
    ours, theirs = new_model(SMALL_MODEL), new_model(SMALL_MODEL)
    together = make_optimizer(ours, settings)
    alone = MuonAdamAtan2(
        together.param_groups[1]["params"], together.param_groups[0]["params"], lr=1.0
    )
    alone.param_groups = []
    names = {id(p): n for n, p in ours.named_parameters()}
    parameters = dict(theirs.named_parameters())
    for group in together.param_groups:
        twins = [parameters[names[id(p)]] for p in group["params"]]
        alone.param_groups.append({**group, "params": twins})
    for _ in range(3):
        draws = seeded()
        for p, twin in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=draws)
            twin.grad = p.grad.clone()
        together.step()
        alone.step()
    for n, p in ours.named_parameters():
        torch.testing.assert_close(p, parameters[n], rtol=1e-4, atol=1e-6)


def test_bfloat16_rounds_the_steps_of_matrices_but_does_not_turn_them():
    """The iterations converge all the same."""
    settings = TrainSettings(optimizer="normuon", lr=1e-2, weight_decay=0.0)
    steps = []
    for dtype in (torch.float32, torch.bfloat16):
        model = new_model(SMALL_MODEL)
        optimizer = make_optimizer(model, settings, dtype)
        matrices = optimizer.param_groups[1]["params"]
        before, draws = [p.detach().clone() for p in matrices], seeded()
        for p in matrices:
            p.grad = torch.randn(p.shape, generator=draws)
        optimizer.step()
        pairs = zip(matrices, before, strict=True)
        steps.append(torch.cat([(p.detach() - old).flatten() for p, old in pairs]))
    exact, rounded = steps
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_normuon_takes_the_matrices_of_the_networks(kind):
    """All other weights step as under AdamATan2."""
    settings = TrainSettings(optimizer="normuon", lr=1e-3, matrix_lr=1e-2, weight_decay=0.0)
    model = new_model(replace(KINDS[kind], rows_per="task"))
    plain = new_model(model.settings)
    names = {id(p): n for n, p in model.named_parameters()}
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        ours.grad = torch.randn(ours.shape, generator=seeded())
        theirs.grad = ours.grad.clone()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = make_optimizer(model, settings)
    members = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(before)
    set_learning_rates(optimizer, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [5e-4, 5e-3]
    optimizer.step()
    AdamAtan2(list(plain.parameters()), lr=5e-4, betas=settings.betas, a=1.0).step()
    others = dict(plain.named_parameters())
    for n, p in model.named_parameters():
        step = before[n] - p.detach()
        if n.startswith(("net.", "H.", "L.")) and n.endswith("weight"):
            # Of the size of Adam's steps.
            assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 5e-3, rel=0.2)
        else:
            torch.testing.assert_close(p, others[n])
