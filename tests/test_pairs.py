"""Two methods at once: every pair that is known to be delicate either trains, and both parts act, or is refused with a sentence."""

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from tiny import CPU, TINY, store, tiny

from prx_lab.errors import LabError
from prx_lab.flow import draw, noise, scores
from prx_lab.guidance import PathDrop, SelfGuidance, SparseGuidance
from prx_lab.muon import Muon
from prx_lab.optim import EMA
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, EIGHT, GUIDED, JIT
from prx_lab.routing import TREAD
from prx_lab.sample import CFG, Condition, Network, generate
from prx_lab.sprint import SPRINT
from prx_lab.terms import IREPA, LPIPS, REPA, PerceptualDINO
from prx_lab.terms.contrastive import Contrastive, Corrected
from prx_lab.terms.haste import AttentionAlignment
from prx_lab.train import Training

TREADED, SPRINTED, ALIGNED = BASE.but(router=TREAD()), BASE.but(router=SPRINT()), BASE.plus(REPA())
OUTSIDE, INSIDE = 0.25, 0.5  # of a network of 4 blocks, of which both routers' spans are the second and third

WORKS = {  # both at once, the first alone, the second alone
    "REPA x JiT": (JIT.plus(REPA()), ALIGNED, JIT),
    "REPA inside TREAD": (TREADED.plus(REPA(depth=INSIDE)), BASE.plus(REPA(depth=INSIDE)), TREADED),
    "REPA outside TREAD": (TREADED.plus(REPA(depth=OUTSIDE)), BASE.plus(REPA(depth=OUTSIDE)), TREADED),
    "REPA inside SPRINT": (SPRINTED.plus(REPA(depth=INSIDE)), BASE.plus(REPA(depth=INSIDE)), SPRINTED),
    "REPA outside SPRINT": (SPRINTED.plus(REPA(depth=OUTSIDE)), BASE.plus(REPA(depth=OUTSIDE)), SPRINTED),
    "iREPA outside TREAD": (TREADED.plus(IREPA(depth=OUTSIDE)), BASE.plus(IREPA(depth=OUTSIDE)), TREADED),
    "iREPA outside SPRINT": (SPRINTED.plus(IREPA(depth=OUTSIDE)), BASE.plus(IREPA(depth=OUTSIDE)), SPRINTED),
    "CFM x REPA": (ALIGNED.plus(Contrastive()), ALIGNED, BASE.plus(Contrastive())),
    "CFM x TREAD": (TREADED.plus(Contrastive()), TREADED, BASE.plus(Contrastive())),
    "CFM x x-prediction": (BASE.but(predict="x").plus(Contrastive()), BASE.but(predict="x"), BASE.plus(Contrastive())),
    "JiT x LPIPS": (JIT.plus(LPIPS()), JIT, BASE),
    "JiT x P-DINO": (JIT.plus(PerceptualDINO()), JIT, BASE),
    "perceptual x v-prediction": (BASE.plus(LPIPS(space=BASE.space)), BASE, BASE.but(predict="x")),
    "Muon x REPA": (ALIGNED.but(optim=Muon()), ALIGNED, BASE.but(optim=Muon())),
    "Muon x SPRINT": (SPRINTED.but(optim=Muon()), SPRINTED, BASE.but(optim=Muon())),
    "Muon x x-prediction": (BASE.but(predict="x", optim=Muon()), BASE.but(predict="x"), BASE.but(optim=Muon())),
}

REFUSED = {
    "iREPA inside TREAD": (lambda: TREADED.plus(IREPA(depth=INSIDE)), "needs every token"),
    "iREPA inside SPRINT": (lambda: SPRINTED.plus(IREPA(depth=INSIDE)), "needs every token"),
    "HASTE inside TREAD": (lambda: TREADED.plus(AttentionAlignment(depth=INSIDE)), "needs every token"),
    "HASTE inside SPRINT": (lambda: SPRINTED.plus(AttentionAlignment(depth=INSIDE)), "needs every token"),
    "CFM x batch of 1": (lambda: BASE.plus(Contrastive()).but(scale=replace(TINY, batch=1)), "at least 2"),
    "CFM's correction without CFM": (lambda: BASE.but(guidance=Corrected()), "give the recipe that term"),
    "CFM's correction of another weight": (lambda: BASE.plus(Contrastive(weight=0.2)).but(guidance=Corrected()), "weight 0.05"),
    "SPRINT x TREAD": (lambda: BASE.but(router=(SPRINT(), TREAD())), "must be Router"),
    "path-drop guidance x TREAD": (lambda: TREADED.but(guidance=PathDrop()), "router=SPRINT()"),
    "sparse guidance x dense": (lambda: BASE.but(guidance=SparseGuidance()), "router"),
    "self-guidance x structured SPRINT": (lambda: SPRINTED.but(guidance=SelfGuidance()), "uniform"),
    "distillation x TREAD": (lambda: GUIDED.but(router=TREAD()), "rate to 1"),
    "distillation x SPRINT": (lambda: EIGHT.but(router=SPRINT()), "rate to 1"),
    "distillation x REPA": (lambda: EIGHT.plus(REPA()), "would do nothing"),
    "distillation x path-drop guidance": (lambda: GUIDED.but(router=SPRINT(rate=1.0), guidance=PathDrop()), "CFG(1.0)"),
    "JiT x latent LPIPS": (lambda: JIT.plus(LPIPS(space="lab-vae")), "decodes from 'lab-vae'"),
}


@lru_cache(maxsize=64)
@torch.enable_grad()  # some tests have switched it off
def trained(recipe: Recipe, steps: int = 3) -> Training:
    training = Training(tiny(recipe), store(recipe), 0, CPU)
    training.rows = list(training.fit(steps))
    return training


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return trained(recipe).learner.model.state_dict()


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() != b.keys() or any(a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("pair", WORKS)
def test_a_pair_trains_and_both_parts_act(pair):
    both, first, second = WORKS[pair]
    assert all(torch.isfinite(w).all() for w in weights(both).values())
    assert set(trained(both).rows[0]["terms"]) == {type(term).__name__ for term in both.terms}
    assert differ(weights(both), weights(first)) and differ(weights(both), weights(second))


@pytest.mark.parametrize("pair", REFUSED)
def test_a_pair_that_cannot_work_is_refused_with_a_sentence(pair):
    make, word = REFUSED[pair]
    with pytest.raises(LabError) as error:
        make()
    text = str(error.value)
    assert word in text and text.endswith(".") and "\n" not in text


def test_muon_leaves_the_projector_the_fusion_and_the_mask_to_adam():
    """Muon's matrices are those of the trunk: what REPA and SPRINT add is AdamW's, every parameter once."""
    learner = trained(SPRINTED.plus(REPA()).but(optim=Muon())).learner
    muon, adam = Muon().partition(learner)
    assert sorted([*muon, *adam]) == sorted(name for name, _ in learner.named_parameters())
    assert all(name.startswith("model.blocks.") for name in muon)
    added = {name for name, _ in learner.named_parameters() if "projector" in name or ".route." in name}
    assert len(added) >= 9 and added <= set(adam)


@pytest.mark.parametrize("routed", [TREADED, SPRINTED])
def test_the_average_of_a_routed_network_samples_dense(routed):
    training = trained(routed.but(ema=EMA(0.9)))
    averaged, x, t = training.sampler_model().eval(), torch.randn(2, 16, 4, 4), torch.full((2,), 0.5)
    text = training.store.batch(torch.arange(2).numpy()).text
    everyone = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        dense, kept = (averaged(x, t, text.tokens, text.mask, keep)[0] for keep in (None, everyone))
    assert torch.allclose(dense, kept, atol=1e-6) and dense.abs().sum() > 0
    assert differ(averaged.state_dict(), training.learner.model.state_dict())


@pytest.mark.parametrize("routed", [TREADED, SPRINTED])
def test_a_router_keeps_equally_many_tokens_in_every_step(routed):
    """A constant K is what lets one compiled graph serve all steps."""
    recipe = tiny(routed)
    kept = [recipe.router.keep(draw((0, i, 0, 0), (8, 16, 4, 4), 16, recipe.time, 0.1).score).shape for i in range(5)]
    assert len(set(kept)) == 1 and kept[0][1] == recipe.router.kept(16) < 16


@pytest.mark.parametrize("routed, guidance", [(TREADED, SelfGuidance), (TREADED, SparseGuidance), (SPRINTED, PathDrop)])
@torch.no_grad()
def test_guidance_from_fewer_tokens_keeps_to_its_interval(routed, guidance):
    """Outside of the interval, which includes both ends, it is its own strong prediction."""
    training = trained(routed)
    v, mean = Network(training.learner.model, "v", nullcontext), training.store.mean
    text = training.store.batch(torch.arange(2).numpy()).text
    given, eps = Condition(text, scores(0, [0, 1], 16), mean), noise(0, [0, 1], (16, 4, 4))

    def sample(**interval: float) -> torch.Tensor:
        return generate(v, given, eps, guidance(**interval), 4)

    never, always, off = sample(low=2.0, high=3.0), sample(), sample(scale=1.0)
    assert torch.equal(never, off) and not torch.equal(never, always)
    assert torch.equal(sample(low=0.25, high=1.0), always)  # the sampler's four times are 1, 0.75, 0.5 and 0.25
    assert not torch.equal(sample(low=0.26, high=1.0), always)


@torch.no_grad()
def test_the_corrected_velocity_undoes_the_bias_of_a_guided_sample():
    training = trained(BASE.plus(Contrastive()))
    v, text = Network(training.learner.model, "v", nullcontext), training.store.batch(torch.arange(2).numpy()).text
    given, x = Condition(text, scores(0, [0, 1], 16), training.store.mean), noise(0, [0, 1], (16, 4, 4))
    for inner in (CFG(1.0), CFG(3.0, 0.2, 0.7)):
        plain, corrected = (g.velocity(v, given)(x, 0.5) for g in (inner, Corrected(inner)))
        assert torch.allclose(corrected, 0.95 * plain - 0.05 * training.store.mean, atol=1e-6)
