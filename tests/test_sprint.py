"""SPRINT: fusion of two streams, the mask token, path drop, and its second stage."""

import math
from dataclasses import replace

import torch
from loops import ARCH, ROUTERS, N, inputs, network, scores
from tiny import CPU, store, tiny

from prx_lab import checkpoint
from prx_lab.model import PRX
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD, put, take
from prx_lab.sprint import SPRINT, Fuse
from prx_lab.train import Training


def fusing(deep: float, dense: float) -> PRX:
    """A network whose fusion is W = [deep I, dense I], b = 0."""
    model, eye = network(ROUTERS[1]), torch.eye(ARCH.width)
    with torch.no_grad():
        model.route.fuse.weight.copy_(torch.cat([deep * eye, dense * eye], 1))
        model.route.fuse.bias.zero_()
    return model


@torch.no_grad()
def test_fusion_that_reads_one_stream_is_the_plain_network_or_the_one_without_its_middle():
    plain = network(TREAD(1.0))
    plain.load_state_dict({k: v for k, v in fusing(1, 0).state_dict().items() if "route" not in k})
    assert torch.allclose(fusing(1, 0)(*inputs())[0], plain(*inputs())[0], atol=1e-6)
    outer = PRX(replace(ARCH, depth=2)).eval()
    renamed = {k.replace("blocks.3.", "blocks.1."): v for k, v in plain.state_dict().items() if "blocks.1" not in k and "blocks.2" not in k}
    outer.load_state_dict(renamed)
    for keep in (None, ROUTERS[1].keep(scores()), torch.empty(3, 0, dtype=torch.long)):
        assert torch.allclose(fusing(0, 1)(*inputs(), keep)[0], outer(*inputs())[0], atol=1e-6)


def break_the_middle(model: PRX, value: float) -> None:
    for i in (1, 2):
        for p in model.blocks[i].parameters():
            torch.nn.init.constant_(p, value)


@torch.no_grad()
def test_without_its_path_the_output_ignores_the_middle():
    """Both ways to drop it agree, and not even a NaN leaks: it is a choice, not a product with zero."""
    model, every = network(ROUTERS[1]), torch.ones(3, dtype=torch.bool)
    none = torch.empty(3, 0, dtype=torch.long)
    before = model(*inputs(), none)[0]
    assert torch.allclose(model(*inputs(), ROUTERS[1].keep(scores()), every)[0], before, atol=1e-6)
    break_the_middle(model, math.nan)
    assert torch.equal(model(*inputs(), none)[0], before)
    assert torch.isfinite(model(*inputs(), None, every)[0]).all()


def test_path_drop_at_probability_one_teaches_the_middle_nothing():
    router = SPRINT(path_drop=1.0)
    model = network(router)
    skip = router.skip(torch.rand(3))
    assert skip.all() and SPRINT(path_drop=0.0).skip(torch.rand(3)) is None
    model(*inputs(), router.keep(scores()), skip)[0].square().sum().backward()
    for i, b in enumerate(model.blocks):
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters())
        assert moved == (i in (0, 3))
    assert model.route.mask.grad.abs().sum() > 0


def test_paths_are_dropped_by_sample_with_the_given_probability():
    path = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    assert abs(SPRINT().skip(path).double().mean().item() - 0.1) < 0.01


def test_initial_values_are_the_authors():
    torch.manual_seed(0)
    route = Fuse((1, 2), 64)
    bound = math.sqrt(6 / (3 * 64))  # Xavier uniform: fan-in 2 D, fan-out D
    assert 0.98 * bound < route.fuse.weight.abs().max() <= bound and route.fuse.bias.abs().sum() == 0
    assert 0.014 < route.mask.std() < 0.026 and route.mask.requires_grad


def test_put_after_take_is_the_identity_for_structured_ids():
    x, keep = torch.randn(3, N, 5), SPRINT(0.5).keep(scores())
    assert torch.equal(put(x, keep, take(x, keep)), x)


def test_the_second_stage_takes_over_fusion_mask_and_moments():
    recipe = tiny(RECIPES["sprint"].but(phases=())).then(0.5, tiny(BASE.but(router=SPRINT(rate=1.0))))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(3))
    before = {k: v.clone() for k, v in training.tensors().items()}
    training.enter(1, training.tensors())
    assert training.recipe.router.rate == 1.0 and training.recipe.router.keep(torch.rand(2, N)) is None
    after = training.tensors()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    moments = checkpoint.optimizer_tensors(training.optimizer, training.learner)
    assert sum("model.route." in name for name in moments) >= 2 * 3  # two moments of weight, bias and mask
    routed = {k for k in after if "route." in k}
    list(training.fit(6))
    assert any(not torch.equal(before[k], training.tensors()[k]) for k in routed)
