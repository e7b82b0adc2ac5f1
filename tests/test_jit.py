"""JiT, x-prediction in pixels (arXiv 2511.13720): its loss and times in noise time, its embedding, and a run from noise to picture."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CPU, store, tiny

from prx_lab.data.store import order, to_uint8
from prx_lab.evaluate import NOISE_SEED, bench, pictures
from prx_lab.flow import T_MIN, draw, noise, shift_time
from prx_lab.model import patchify
from prx_lab.recipes import JIT, RECIPES, recipe
from prx_lab.record import Record
from prx_lab.run import run, store_of
from prx_lab.sample import from_run
from prx_lab.train import Training

Z = torch.erfinv(2 * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 1) * math.sqrt(2)  # normal quantiles
U = torch.full_like(Z, 2.0)  # never chosen


# ------------------------------------------------------------------------------------------------ the loss
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_first_loss_is_the_weighted_square_of_the_image_whatever_the_noise(scale):
    one = tiny(RECIPES["jit"].but(noise=scale))
    training = Training(one, store(one), 0, CPU)
    batch = training.store.batch(order(0, 0, 8, 32))
    c = draw((0, 0, 0, 0), tuple(batch.x.shape), 16, one.time, one.drop).t.clamp(min=0.05)
    expected = (batch.x / c.view(-1, 1, 1, 1)).square().mean().item()
    assert batch.x.shape == (8, 3, 32, 32)
    assert next(training.fit(1))["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_training_noise_has_the_recipes_standard_deviation(scale):
    one = tiny(RECIPES["jit-v"].but(noise=scale))
    training = Training(one, store(one), 0, CPU)
    batch = training.store.batch(order(0, 0, 8, 32))
    eps = draw((0, 0, 0, 0), tuple(batch.x.shape), 16, one.time, one.drop).eps
    assert next(training.fit(1))["loss"] == pytest.approx((scale * eps - batch.x).square().mean().item(), rel=1e-5)


# ----------------------------------------------------------------------------------------------- the times
def test_the_times_are_the_papers_in_noise_time():
    t = JIT.time(Z, U, U)
    assert torch.allclose(1 - t, torch.sigmoid(-0.8 - 0.8 * Z))  # z and -z are equally likely
    assert torch.allclose(t, shift_time(torch.sigmoid(0.8 * Z), 2.2255), atol=1e-5)
    assert (t < T_MIN).double().mean() == pytest.approx(1.4e-6, abs=5e-6)  # the clamp is inert in training


def test_prx_shifts_training_and_sampling_by_three():
    one = RECIPES["jit-prx"]
    q = one.time(Z, U, U).quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
    assert q.tolist() == pytest.approx([0.367, 0.75, 0.940], abs=2e-3)  # without the uniform tenth
    assert one.shift == 3.0 and one.time.uniform == 0.1 and JIT.shift == 1.0 and JIT.time.uniform == 0.0


# ------------------------------------------------------------------------------------------- the embedding
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_the_bottleneck_is_narrower_than_the_patch(scale):
    one = recipe("jit", scale)
    arch = one.arch(channels=3, stride=1, context=8)
    assert arch.patch == one.scale.size // one.scale.grid and arch.bottleneck < 3 * arch.patch**2


def test_the_patch_embedding_is_linear_of_the_bottlenecks_rank():
    one = tiny(JIT.but(bottleneck=5))
    training = Training(one, store(one), 0, CPU)
    model, x = training.learner.model, training.store.batch(np.arange(8)).x
    first, second = model.img_in
    assert first.weight.shape == (5, 192) and second.weight.shape == (32, 5)
    joined = second.weight @ first.weight
    assert torch.linalg.matrix_rank(joined) == 5
    flat = patchify(x, 8) @ joined.T + second.weight @ first.bias + second.bias
    assert torch.allclose(model.img_in(patchify(x, 8)), flat, atol=1e-4)


# ------------------------------------------------------------------------------------------ noise to picture
def short(name: str, **changes):
    one = recipe(name).but(**changes)
    return one.but(scale=replace(one.scale, steps=4, images=32, eval_n=4, eval_steps=3, evals=1, batch=8))


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_sampler_and_evaluation_start_from_the_recipes_noise(scale):
    """A fresh network says v = 0, so what comes out is what went in."""
    one = short("jit-v", noise=scale)
    training = Training(one, store_of(one, CPU), 0, CPU)
    start = scale * noise(5, [0, 1], (3, 32, 32))
    assert torch.allclose(training.sampler()(["a red cube", ""], seed=5, steps=3), start.clamp(-1, 1), atol=1e-6)
    found = pictures(training.sampler_model(), one, bench(one, CPU), range(1, 3), training.store.mean)
    assert np.array_equal(found, to_uint8((scale * noise(NOISE_SEED, [1, 2], (3, 32, 32))).clamp(-1, 1)))


@pytest.mark.parametrize("name", ["jit", "jit-prx"])
def test_a_run_in_pixels_from_start_to_samples(name, tmp_path):
    one = short(name, noise=0.5)
    folder = run(one, 0, tmp_path)
    record = Record.load(folder)
    assert record.recipe == json.loads(json.dumps(one.to_json())) and record.eval["metrics"]["fid"]["n"] == 4
    assert (folder / "samples.png").stat().st_size > 1000
    images = from_run(folder)(["a red cube", "a blue sphere"], steps=2)
    assert images.shape == (2, 3, 32, 32) and torch.isfinite(images).all() and images.abs().max() <= 1
