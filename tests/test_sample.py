"""Sampling: guidance identities, the interval's truth table, and x- and v-prediction as one velocity."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny import CPU, store, tiny

from prx_lab.data.batch import Text
from prx_lab.data.store import gather
from prx_lab.flow import corrupt, noise, scores
from prx_lab.recipes import BASE
from prx_lab.sample import CFG, Condition, Network, generate
from prx_lab.train import Training


@pytest.fixture(scope="module")
def trained():
    training = Training(tiny(BASE), store(), 0, CPU)
    list(training.fit(6))
    text = gather(training.store.text, np.arange(3))
    given = Condition(text, scores(0, [0, 1, 2], 16), training.store.mean)
    return Network(training.learner.model.eval(), "v", nullcontext), given, noise(0, [0, 1, 2], (16, 4, 4))


@pytest.mark.parametrize(
    "guidance, t, active",
    [
        (CFG(3.0, 0.2, 0.7), 0.2, True), (CFG(3.0, 0.2, 0.7), 0.7, True), (CFG(3.0, 0.2, 0.7), 0.19, False),
        (CFG(3.0, 0.2, 0.7), 0.71, False), (CFG(3.0), 0.0, True), (CFG(3.0), 1.0, True), (CFG(1.0), 0.5, False),
    ],
)  # fmt: skip
def test_the_interval_includes_both_ends(guidance, t, active):
    assert guidance.active(t) == active


@torch.no_grad()
def test_guidance_is_the_affine_combination(trained):
    v, given, x = trained
    text = given.text
    c = v(x, 0.6, text.tokens, text.mask)
    u = v(x, 0.6, text.null.expand(3, -1, -1), text.null_mask.expand(3, -1))
    assert (c - u).abs().max() > 1e-5
    for scale in (0.0, 1.0, 4.0):
        assert torch.allclose(CFG(scale).velocity(v, given)(x, 0.6), u + scale * (c - u), atol=1e-5)


@torch.no_grad()
def test_guidance_off_at_every_step_is_the_conditional_sample(trained):
    v, given, x = trained
    plain = generate(v, given, x, CFG(1.0), 4)
    assert torch.equal(plain, generate(v, given, x, CFG(5.0, 2.0, 3.0), 4))
    assert not torch.equal(plain, generate(v, given, x, CFG(5.0), 4))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(trained):
    v, given, x = trained
    text = given.text
    one = Condition(Text(text.tokens[1:2], text.mask[1:2], text.null, text.null_mask), given.score[1:2], given.mean)
    assert torch.allclose(generate(v, given, x, CFG(), 4)[1:2], generate(v, one, x[1:2], CFG(), 4), atol=1e-5)


def test_a_perfect_x_predictor_recovers_the_data_from_any_time():
    """With the clamp inactive until the last step, Euler along v_from_x ends at x itself."""
    x = torch.randn(2, 16, 4, 4)

    def perfect(x_t, t, text, mask, keep):
        return x, {}

    class Stub(torch.nn.Module):
        forward = staticmethod(perfect)

    v = Network(Stub(), "x", nullcontext)
    point = corrupt(x, torch.randn_like(x), torch.full((2,), 0.4))
    assert torch.allclose(v(point.x_t, 0.4, None, None), point.v, atol=1e-5)


@pytest.mark.parametrize("guidance", [CFG(), CFG(3.0, 0.2, 0.7), CFG(1.0)])
def test_a_sample_reads_its_text_once_and_is_what_it_would_be_otherwise(trained, guidance):
    v, given, x = trained
    reads = []
    hooks = [b.attention.txt_kv_proj.register_forward_hook(lambda *_: reads.append(1)) for b in v.model.blocks]
    found = generate(v, given, x, guidance, 5)
    for hook in hooks:
        hook.remove()
    texts = 2 if guidance.high < 1 else 1  # outside the interval the caption is asked about alone
    assert len(reads) == texts * len(v.model.blocks)
    plain = generate(lambda *a: v(*a), given, x, guidance, 5)  # not a network to `generate`: it reads the text at every step
    assert torch.allclose(found, plain, atol=1e-5)


def test_what_was_read_of_a_text_is_forgotten_when_the_sample_is_done(trained):
    v, given, x = trained
    before, weight = generate(v, given, x, CFG(), 3), v.model.blocks[0].attention.txt_kv_proj.weight
    with torch.no_grad():
        weight.mul_(-1)
        after = generate(v, given, x, CFG(), 3)
        weight.mul_(-1)
    assert not torch.equal(before, after) and torch.equal(before, generate(v, given, x, CFG(), 3))
