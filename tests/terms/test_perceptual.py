"""Perceptual losses against loops in float64, their known answers, their gate, and what they keep out of the learner."""

import itertools
import math

import pytest
import torch
from tiny import CPU, store, tiny
from torch import Tensor, nn

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import corrupt, draw
from prx_lab.precision import Precision, audit
from prx_lab.recipes import BASE, RECIPES
from prx_lab.spaces import load_space
from prx_lab.teachers import load_judge, load_vision
from prx_lab.terms import LPIPS, REPA, Out, PerceptualDINO, perceptual
from prx_lab.terms.perceptual import LPIPSLoss, gated, patch_distance, stage_distance, staged
from prx_lab.train import Training

JIT, X = RECIPES["jit"], BASE.but(predict="x")
TERMS = {"lpips": LPIPS(until=1.0), "pdino": PerceptualDINO(until=1.0), "lpips-vae": LPIPS(until=1.0, network="lab-vae")}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stages(seed: int) -> list[Tensor]:
    return [random(2, 3, 4, 4, seed=seed, dtype=torch.float64), random(2, 5, 2, 2, seed=seed + 1, dtype=torch.float64)]


def loss(module: nn.Module, x: Tensor, clean: Tensor, t: Tensor | None = None) -> Tensor:
    B = len(x)
    t = torch.full((B,), 0.5) if t is None else t
    point, yes = corrupt(clean, random(*clean.shape, seed=9), t), torch.ones(B, 1, dtype=torch.bool)
    text = Text(torch.zeros(B, 1, 1), yes, torch.zeros(1, 1, 1), yes[:1])
    return module(point, Out(point.v, x, point.v, {}, ~yes[:, 0], torch.arange(B)), Batch(clean, text, {}))


def built(term: LPIPS | PerceptualDINO) -> nn.Module:
    base = JIT if term.space == "pixels" else X
    return Training(tiny(base.plus(term)), store(base), 0, CPU).learner.terms[1]


def test_stage_distance_equals_a_loop_over_lpips_formula():
    a, b = stages(0), stages(7)
    for i in range(2):
        total = 0.0
        for f, g in zip(a, b):
            _, C, h, w = f.shape
            for y, x in itertools.product(range(h), range(w)):
                nf, ng = (math.sqrt(sum(v[i, c, y, x].item() ** 2 for c in range(C))) for v in (f, g))
                total += sum((f[i, c, y, x].item() / nf - g[i, c, y, x].item() / ng) ** 2 for c in range(C)) / (h * w)
        assert stage_distance(a, b)[i].item() == pytest.approx(total, rel=1e-5)


def test_patch_distance_equals_a_loop_over_the_cosine():
    a, b = random(2, 6, 5, dtype=torch.float64), random(2, 6, 5, seed=1, dtype=torch.float64)
    for i in range(2):
        total = sum(1 - (a[i, n] @ b[i, n] / (a[i, n].norm() * b[i, n].norm())).item() for n in range(6))
        assert patch_distance(a, b)[i].item() == pytest.approx(total / 6, rel=1e-5)


def test_known_answers_symmetry_and_scale():
    a, b = stages(0), stages(7)
    assert stage_distance(a, a).tolist() == [0, 0]
    assert stage_distance(a, [-f for f in a]).tolist() == pytest.approx([8, 8])  # |u - (-u)|^2 = 4 at each of two stages
    assert torch.allclose(stage_distance(a, b), stage_distance(b, a))
    assert torch.allclose(stage_distance([3 * f for f in a], [0.1 * f for f in b]), stage_distance(a, b), atol=1e-6)
    y = random(2, 6, 5)
    assert patch_distance(y, 3 * y).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert patch_distance(y, -y).tolist() == pytest.approx([2, 2])
    empty = [torch.zeros(1, 3, 2, 2, requires_grad=True)]  # rectified features may be zero everywhere
    stage_distance(empty, [torch.ones(1, 3, 2, 2)]).sum().backward()
    assert torch.isfinite(empty[0].grad).all()


@pytest.mark.parametrize(
    "t, until, expected",
    [
        ([0.1, 0.5, 0.9], 0.7, 1.5),  # the mean of the two that pass, not a third of their sum
        ([0.1, 0.5, 0.9], 1.0, 2.0),
        ([0.71, 0.8, 0.9], 0.7, 0.0),  # none passes
        ([0.7, 0.5, 0.9], 0.7, 2.0),  # the threshold itself does not pass
        ([0.1, 0.8, 0.9], 0.7, 1.0),
    ],
)
def test_gate(t, until, expected):
    assert gated(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(t), until).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", TERMS)
def test_on_images(name):
    """0 for equal images, symmetric, and a gradient at every pixel, those beyond [-1, 1] included."""
    module = built(TERMS[name])
    a, b = 0.5 * random(3, 3, 32, 32), 1.5 * random(3, 3, 32, 32, seed=1)
    assert loss(module, a, a).item() == pytest.approx(0, abs=1e-6)
    assert loss(module, a, b).item() == pytest.approx(loss(module, b, a).item(), rel=1e-4) and loss(module, a, b) > 0.01
    x = b.clone().requires_grad_()
    loss(module, x, a).backward()
    assert (x.grad != 0).float().mean() > 0.99 and (b.abs() > 1).any()


def test_each_sample_is_compared_with_its_own():
    module, images = built(TERMS["lpips"]), 0.5 * random(4, 3, 32, 32)
    t = torch.tensor([0.2, 0.9, 0.3, 0.95])
    module.until = 0.7
    other = images.clone()
    other[1], other[3] = -images[1], -images[3]  # wrong only where the gate is shut
    assert loss(module, other, images, t).item() == pytest.approx(0, abs=1e-6)
    assert loss(module, -images, images, t).item() > 0.01


def test_latents_are_compared_as_decoded_images():
    module, space = built(LPIPS(space=X.space, until=1.0)), load_space(X.space)
    pixels = built(TERMS["lpips"])
    a, b = random(2, 16, 4, 4), random(2, 16, 4, 4, seed=1)
    expected = loss(pixels, space.unclamped(b), space.unclamped(a)).item()
    assert loss(module, b, a).item() == pytest.approx(expected, rel=1e-4)
    x = b.clone().requires_grad_()
    loss(module, x, a).backward()
    assert (x.grad != 0).all() and loss(module, a, a).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("term", [LPIPS(until=1.0), PerceptualDINO(until=1.0)])
def test_the_gradient_reaches_the_network_and_nothing_frozen(term):
    recipe = tiny(JIT.plus(term))
    training = Training(recipe, store(recipe), 0, CPU)
    list(training.fit(1))  # away from the zero output of the start
    learner, batch = training.learner, training.store.batch(torch.arange(8).numpy())
    _, losses = learner(batch, draw((0, 9, 0, 0), tuple(batch.x.shape), 16, recipe.time, 0.0))
    losses[1].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.model.final_layer.parameters())
    frozen = [p for network in learner.terms[1].frozen for p in network.parameters()]
    assert frozen and all(p.grad is None and not p.requires_grad for p in frozen)


@pytest.mark.parametrize("precision", [Precision("fp32", "fp32"), Precision("bf16", "bf16")])
def test_frozen_networks_are_no_part_of_the_learner(precision):
    plain, recipe = JIT.but(scale=tiny(JIT).scale, precision=precision), JIT.plus(LPIPS()).but(scale=tiny(JIT).scale, precision=precision)
    with_term, without = (Training(r, store(r), 0, CPU) for r in (recipe, plain))
    assert with_term.learner.state_dict().keys() == without.learner.state_dict().keys()
    assert len(list(with_term.learner.parameters())) == len(list(without.learner.parameters()))
    list(with_term.fit(1))
    found = audit(with_term.learner, with_term.optimizer, precision, CPU)
    assert list(found["weights"]) == [precision.store]
    assert {p.dtype for network in with_term.learner.terms[1].frozen for p in network.parameters()} == {torch.float32}


def test_frozen_networks_follow_the_learner_to_its_device():
    module = built(TERMS["lpips"])
    network = nn.Linear(2, 2)
    module.frozen = (network,)
    module.to("meta")
    assert network.weight.device.type == "meta"


@pytest.mark.parametrize("name", ["x-lpips", "x-pdino"])
def test_networks_loaded_for_a_term_leave_the_next_terms_weights_alone(name):
    recipe = tiny(RECIPES[name].plus(REPA()))
    for cached in (perceptual.load_space, load_judge, load_vision):
        cached.cache_clear()
    first, again = (Training(recipe, store(recipe), 0, CPU).learner.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_the_judge_stays_where_it_evaluates():
    module = LPIPSLoss(1.0, load_space("pixels"), staged("lab-inception"), 1.0).to("meta")
    assert {p.device.type for p in module.frozen[1].parameters()} == {"meta"}
    assert {p.device.type for p in load_judge().network.parameters()} == {"cpu"}


def test_tokens_and_decoding_are_what_they_were():
    """The differentiable paths: equal to the clamped ones on images in [-1, 1], and clamped only there."""
    images, teacher = random(2, 3, 64, 64).clamp(-1, 1), load_vision("lab-dino-dense")
    assert torch.equal(teacher.patches(images), teacher.tokens(images, 8))
    assert torch.equal(teacher.tokens(3 * images, 8), teacher.patches((3 * images).clamp(-1, 1)))
    assert not teacher.tokens(images.requires_grad_(), 8).requires_grad and teacher.patches(images).requires_grad
    space, z = load_space("lab-vae"), 2 * random(2, 16, 4, 4)
    assert torch.equal(space.decode(z), space.unclamped(z).clamp(-1, 1)) and space.unclamped(z).abs().max() > 1
    network = load_judge().network
    fine, coarse = network.trunk(images)
    assert torch.equal(network.stages(images)[1], fine) and torch.equal(network.stages(images)[2], coarse)


@pytest.mark.parametrize(
    "recipe, term, word",
    [
        (X, LPIPS(), "space='lab-vae'"),
        (JIT, LPIPS(space="lab-vae"), "space='pixels'"),
        (JIT, LPIPS(network="vgg"), "VGG-16"),
        (JIT, LPIPS(until=0.0), "(0, 1]"),
        (JIT, PerceptualDINO(until=1.1), "(0, 1]"),
        (JIT, LPIPS(weight=-0.1), "at least 0"),
        (JIT, LPIPS(scale=0.0), "(0, 1]"),
        (JIT, LPIPS(scale=0.25), "16"),
        (JIT, PerceptualDINO(grid=0), "at least 1"),
    ],
)
def test_contradictions_are_refused(recipe, term, word):
    with pytest.raises(LabError) as error:
        recipe.plus(term)
    assert word in str(error.value) and "\n" not in str(error.value)
