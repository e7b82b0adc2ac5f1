"""REPA against the paper's formula: a float64 loop, the identities that hold for any teacher, and what it may teach."""

import pytest
import torch
from tiny import CPU, store, tiny

from prx_lab.data.batch import Batch, Text
from prx_lab.flow import corrupt, draw
from prx_lab.model import norm, patchify, rope_table, time_embedding
from prx_lab.recipes import BASE
from prx_lab.routing import TREAD
from prx_lab.terms import REPA, Out
from prx_lab.terms.repa import REPALoss
from prx_lab.train import Training

B, N, D, E = 3, 16, 8, 10


def case(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    h, y = torch.randn(B, N, D, generator=g), torch.randn(B, N, E, generator=g)
    x, eps = torch.randn(2, B, 1, 4, 4, generator=g).unbind(0)
    point = corrupt(x, eps, torch.rand(B, generator=g))
    text = Text(torch.zeros(B, 1, 1), torch.ones(B, 1, dtype=torch.bool), torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    return h, y, point, text


def loss(module, h, y, point, text, keep=None):
    from prx_lab.model import Feat

    out = Out(point.v, point.x, point.v, {2: Feat(h, keep)}, torch.zeros(B, dtype=torch.bool), torch.arange(B).roll(1))
    return module(point, out, Batch(point.x, text, {"t": y}))


def test_equals_a_loop_over_the_formula():
    h, y, point, text = case()
    torch.manual_seed(0)
    module = REPALoss("t", 2, D, 16, E)
    p = module.projector(h).double()
    total = 0.0
    for b in range(B):
        for n in range(N):
            dot = sum((p[b, n, e] * y[b, n, e].double()).item() for e in range(E))
            total += dot / (p[b, n].norm().item() * y[b, n].double().norm().item())
    assert loss(module, h, y, point, text).item() == pytest.approx(-total / (B * N), abs=1e-6)


def test_known_answers_and_scale_invariance():
    h, y, point, text = case()
    module = REPALoss("t", 2, D, 16, E)
    module.projector = torch.nn.Identity()
    assert loss(module, y, y, point, text).item() == pytest.approx(-1)
    assert loss(module, -y, y, point, text).item() == pytest.approx(1)
    orthogonal = torch.stack([-y[..., 1], y[..., 0], *[torch.zeros(B, N)] * (E - 2)], -1)
    assert loss(module, orthogonal, y, point, text).item() == pytest.approx(0, abs=1e-6)
    z = torch.randn(B, N, E)
    assert loss(module, 3 * z, 0.1 * y, point, text).item() == pytest.approx(loss(module, z, y, point, text).item(), abs=1e-6)


def test_permuting_both_sides_changes_nothing_and_one_side_something():
    h, y, point, text = case()
    module, order = REPALoss("t", 2, D, 16, E), torch.randperm(N)
    plain = loss(module, h, y, point, text).item()
    assert loss(module, h[:, order], y[:, order], point, text).item() == pytest.approx(plain, abs=1e-6)
    assert loss(module, h[:, order], y, point, text).item() != pytest.approx(plain, abs=1e-4)


def test_inside_a_route_only_kept_tokens_are_compared():
    h, y, point, text = case()
    module, keep = REPALoss("t", 2, D, 16, E), TREAD(0.5).keep(torch.rand(B, N))
    from prx_lab.routing import take

    direct = loss(module, take(h, keep), take(y, keep), point, text)
    assert torch.allclose(loss(module, take(h, keep), y, point, text, keep), direct)


@pytest.mark.parametrize("depth, block", [(0.25, 0), (0.5, 1), (0.75, 2), (1.0, 3), (0.01, 0)])
def test_gradient_reaches_the_tapped_block_and_no_further(depth, block):
    """The off-by-one probe: blocks after the tap, the final layer and the teacher get no gradient from the term."""
    recipe = tiny(BASE.plus(REPA(depth=depth)))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(2))  # away from the zero gates of the start
    learner, batch = training.learner, training.store.batch(torch.arange(8).numpy())
    _, losses = learner(batch, draw((0, 9, 0, 0), (8, 16, 4, 4), 16, recipe.time, 0.0))
    losses[1].backward()
    for i, b in enumerate(learner.model.blocks):
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters())
        assert reached == (i <= block)
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in learner.model.final_layer.parameters())


@pytest.mark.parametrize("L, depth, tapped", [(28, 8 / 28, 7), (16, 0.5, 7), (12, 1 / 3, 3), (6, 0.5, 2)])
def test_depth_is_counted_as_in_the_paper(L, depth, tapped):
    assert REPA(depth=depth).block(L) == tapped


def random_model(recipe):
    """A learner with random weights, so that no gate is closed, and a batch with its draw."""
    torch.manual_seed(0)
    training = Training(recipe, store(), 0, CPU)
    for p in training.learner.parameters():
        torch.nn.init.normal_(p, std=0.2)
    batch = training.store.batch(torch.arange(8).numpy())
    return training.learner, batch, draw((0, 9, 0, 0), (8, 16, 4, 4), 16, recipe.time, 0.0)


@pytest.mark.parametrize("depth", [0.25, 0.5, 1.0])
def test_the_loss_reads_the_output_of_the_block_it_names(depth):
    """Off-by-one probe: the blocks called one after the other, by hand, and the cosine in float64."""
    learner, batch, variates = random_model(tiny(BASE.plus(REPA(depth=depth))))
    _, losses = learner(batch, variates)
    model, point = learner.model, corrupt(batch.x, variates.eps, variates.t)
    text, vec = model.txt_in(batch.text.tokens), model.time_in(time_embedding(point.t))
    mask = torch.cat([batch.text.mask, torch.ones(8, 16, dtype=torch.bool)], 1)[:, None, None]
    h = model.img_in(patchify(point.x_t, 1))
    for number, block in enumerate(model.blocks, start=1):
        h = block(h, text, mask, vec, *rope_table(4, 4, 16, CPU), False)[0]
        p = learner.terms[1].projector(h).double()
        y = batch.teachers["lab-dino"].double()
        found = -((p / p.norm(dim=-1, keepdim=True)) * (y / y.norm(dim=-1, keepdim=True))).sum(-1).mean().item()
        assert (losses[1].item() == pytest.approx(found, abs=1e-5)) == (number == round(depth * 4))
    assert norm(h).std() > 0.5  # the walk did not die on the way


def test_at_the_start_only_gates_and_the_way_to_them_get_a_gradient():
    """With all gates at zero, attention and MLP weights and the time embedding get exactly none."""
    training = Training(tiny(BASE.plus(REPA(depth=0.5))), store(), 0, CPU)
    batch = training.store.batch(torch.arange(8).numpy())
    _, losses = training.learner(batch, draw((0, 0, 0, 0), (8, 16, 4, 4), 16, BASE.time, 0.0))
    losses[1].backward()
    model, D = training.learner.model, 32
    assert model.img_in.weight.grad.any() and all(p.grad.any() for p in training.learner.terms[1].parameters())
    for i, block in enumerate(model.blocks):
        rows = block.modulation.lin.weight.grad
        moved = [rows is not None and bool(part.any()) for part in (rows.split(D) if rows is not None else [None] * 6)]
        assert moved == [False, False, i < 2, False, False, i < 2]
        others = [p for name, p in block.named_parameters() if not name.startswith("modulation")]
        assert not any(p.grad is not None and p.grad.any() for p in [*others, *model.time_in.parameters(), *model.txt_in.parameters()])
