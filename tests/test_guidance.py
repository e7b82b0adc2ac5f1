"""Guidance by fewer tokens and by a dropped path: affine identities, intervals, independence of the middle, cost, refusals."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny import CPU, shape, store, tiny

from prx_lab.data.batch import Text
from prx_lab.data.store import gather
from prx_lab.errors import LabError
from prx_lab.flow import noise, scores
from prx_lab.guidance import PathDrop, SelfGuidance, SparseGuidance
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD, smallest
from prx_lab.sample import Condition, Network, generate
from prx_lab.sprint import SPRINT
from prx_lab.train import Training

N = 16
ALL = [SelfGuidance, SparseGuidance, PathDrop]


@torch.enable_grad()
def trained(name: str):
    recipe = tiny(RECIPES[name])
    training = Training(recipe, store(recipe), 0, CPU)
    list(training.fit(6))
    with torch.no_grad():  # far from the zero gates of the start, so that every block matters
        for p in training.learner.model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    text = gather(training.store.text, np.arange(3))
    given = Condition(text, scores(0, [0, 1, 2], N), training.store.mean)
    model = training.learner.model.eval()
    return model, Network(model, recipe.predict, nullcontext), given, noise(0, [0, 1, 2], shape(recipe)[1:])


@pytest.fixture(scope="module")
def tread():
    return trained("tread")


@pytest.fixture(scope="module")
def sprint():
    return trained("sprint-path-drop")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("t, active", [(0.0, False), (0.2, True), (0.45, True), (0.7, True), (0.71, False), (1.0, False)])
def test_the_interval_includes_both_ends(kind, t, active, sprint):
    _, v, given, x = sprint
    assert kind(3.0, 0.2, 0.7).active(t) == active and kind(3.0).active(t) and not kind(1.0, 0.2, 0.7).active(t)
    strong = kind().both(v, given)[0](x, t)
    assert torch.equal(kind(3.0, 0.2, 0.7).velocity(v, given)(x, t), strong) == (not active)


def routed(v, given, x, rate):
    keep = smallest(given.score, round(N * rate))
    return v(x, 0.6, given.text.tokens, given.text.mask, keep)


@torch.no_grad()
def test_self_guidance_is_routed_plus_scaled_difference(tread):
    _, v, given, x = tread
    full, part = v(x, 0.6, given.text.tokens, given.text.mask), routed(v, given, x, 0.5)
    assert (full - part).abs().max() > 1e-3
    for scale in (0.0, 1.0, 2.0, 3.5):
        out = SelfGuidance(scale).velocity(v, given)(x, 0.6)
        assert torch.equal(out, full) if scale == 1 else torch.allclose(out, part + scale * (full - part), atol=1e-5)


@torch.no_grad()
def test_sparse_guidance_is_weak_plus_scaled_difference(tread):
    _, v, given, x = tread
    strong, weak = routed(v, given, x, 0.75), routed(v, given, x, 0.25)
    for scale in (0.0, 1.0, 1.5):
        out = SparseGuidance(scale, strong=0.75, weak=0.25).velocity(v, given)(x, 0.6)
        assert torch.equal(out, strong) if scale == 1 else torch.allclose(out, weak + scale * (strong - weak), atol=1e-5)
    assert set(smallest(given.score, 4)[0].tolist()) < set(smallest(given.score, 12)[0].tolist())  # the weak tokens are among the strong


@torch.no_grad()
def test_equal_shares_give_the_strong_velocity_for_every_scale(tread):
    _, v, given, x = tread
    strong = routed(v, given, x, 0.5)
    for scale in (-1.0, 0.5, 7.0):
        assert torch.equal(SparseGuidance(scale, strong=0.5, weak=0.5).velocity(v, given)(x, 0.6), strong)


@torch.no_grad()
def test_self_guidance_is_sparse_guidance_with_all_tokens_on_the_strong_side(tread):
    _, v, given, x = tread
    ours, theirs = SelfGuidance(2.5, 0.1, 0.9, rate=0.25), SparseGuidance(2.5, 0.1, 0.9, strong=1.0, weak=0.25)
    assert torch.equal(generate(v, given, x, ours, 3), generate(v, given, x, theirs, 3))


@torch.no_grad()
def test_path_drop_guidance_is_cfg_with_a_cheaper_unconditional_side(sprint):
    _, v, given, x = sprint
    text = given.text
    c = v(x, 0.6, text.tokens, text.mask)
    u = v(x, 0.6, text.null.expand(3, -1, -1), text.null_mask.expand(3, -1), torch.empty(3, 0, dtype=torch.long))
    for scale in (0.0, 1.0, 3.0):
        out = PathDrop(scale).velocity(v, given)(x, 0.6)
        assert torch.equal(out, c) if scale == 1 else torch.allclose(out, u + scale * (c - u), atol=1e-5)


@torch.no_grad()
def test_the_unconditional_side_ignores_caption_and_middle_and_runs_half_the_blocks():
    model, v, given, x = trained("sprint-path-drop")
    strong, weak = PathDrop().both(v, given)
    c, u, calls = strong(x, 0.6), weak(x, 0.6), []
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    weak(x, 0.6)
    assert calls == [0, 3]
    text = given.text
    other = Condition(Text(text.tokens.flip(0), text.mask.flip(0), text.null, text.null_mask), given.score, given.mean)
    assert torch.equal(PathDrop().both(v, other)[1](x, 0.6), u) and not torch.equal(PathDrop().both(v, other)[0](x, 0.6), c)
    for i in (1, 2):
        for p in model.blocks[i].parameters():
            torch.nn.init.normal_(p)
    assert torch.equal(weak(x, 0.6), u) and not torch.allclose(strong(x, 0.6), c, atol=1e-2)


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(kind, sprint):
    _, v, given, x = sprint
    text = given.text
    one = Condition(Text(text.tokens[1:2], text.mask[1:2], text.null, text.null_mask), given.score[1:2], given.mean)
    assert torch.allclose(generate(v, given, x, kind(), 3)[1:2], generate(v, one, x[1:2], kind(), 3), atol=1e-4)


@torch.no_grad()
def test_tokens_stay_the_same_for_all_steps_of_an_image(tread):
    _, v, given, x = tread
    seen = []

    def watched(x, t, text, mask, keep=None):
        seen.append(keep)
        return v(x, t, text, mask, keep)

    generate(watched, given, x, SparseGuidance(), 3)
    assert len(seen) == 6 and all(torch.equal(keep, seen[i % 2]) for i, keep in enumerate(seen))
    assert seen[0].shape[1] + seen[1].shape[1] == 12 + 5  # 16 - int(4.8) and 16 - int(11.2)


@torch.no_grad()
def test_guidance_by_tokens_works_for_a_network_that_predicts_x():
    _, v, given, x = trained("jit-tread")
    assert torch.isfinite(generate(v, given, x, SelfGuidance(), 3)).all()


@pytest.mark.parametrize(
    "router, guidance, word",
    [
        (BASE.router, SelfGuidance(), "router"), (BASE.router, SparseGuidance(), "router"), (BASE.router, PathDrop(), "SPRINT"),
        (TREAD(), PathDrop(), "SPRINT"), (SPRINT(path_drop=0.0), PathDrop(), "path_drop"), (SPRINT(), SelfGuidance(), "uniform"),
        (SPRINT(), SparseGuidance(), "uniform"), (TREAD(), SelfGuidance(rate=1.0), "(0, 1)"),
        (TREAD(), SparseGuidance(strong=0.3, weak=0.7), "weak < strong"), (TREAD(), SparseGuidance(weak=0.0), "weak < strong"),
    ],
)  # fmt: skip
def test_guidance_that_the_network_never_learnt_is_refused(router, guidance, word):
    with pytest.raises(LabError) as error:
        BASE.but(router=router, guidance=guidance)
    assert word in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_guidance_is_allowed_where_it_was_learnt(rate):
    assert BASE.but(router=SPRINT(rate), guidance=PathDrop()).guidance == PathDrop()
    assert BASE.but(router=SPRINT(rate, pattern="uniform"), guidance=SelfGuidance()).guidance == SelfGuidance()
