"""Resolution binning against diffusers' own tables and functions, and a whole pipeline at a size that is no bin."""

import random

import pytest
import standin
import torch

from prx_lab.buckets import SIZES, draw, fit, nearest_size
from prx_lab.errors import LabError
from prx_lab.flow import noise


def test_the_bins_are_diffusers():
    from diffusers.pipelines.prx.pipeline_prx import ASPECT_RATIO_BINS

    assert {base: {float(k): tuple(v) for k, v in bins.items()} for base, bins in ASPECT_RATIO_BINS.items()} == SIZES


@pytest.mark.parametrize("base", SIZES)
def test_any_request_goes_where_diffusers_puts_it(base):
    from diffusers.image_processor import PixArtImageProcessor
    from diffusers.pipelines.prx.pipeline_prx import ASPECT_RATIO_BINS

    sides = random.Random(base)
    for _ in range(500):
        height, width = sides.randint(16, 3000), sides.randint(16, 3000)
        theirs = PixArtImageProcessor.classify_height_width_bin(height, width, ASPECT_RATIO_BINS[base])
        assert nearest_size(height, width, base) == theirs
        H, W = theirs
        assert H % 32 == W % 32 == 0 and 0.85 <= H * W / base**2 <= 1
        assert nearest_size(H, W, base) == (H, W), "a bin is its own nearest"


def test_fitting_covers_the_request_and_crops_its_centre():
    from diffusers.image_processor import PixArtImageProcessor

    x = torch.rand(1, 3, 32, 56, generator=torch.Generator().manual_seed(0))
    for height, width in ((32, 56), (20, 40), (64, 64), (91, 200)):
        assert torch.equal(fit(x, height, width), PixArtImageProcessor.resize_and_crop_tensor(x, width, height))
    stripe = torch.zeros(1, 3, 8, 24)
    stripe[..., 8:16] = 1  # the middle third
    assert torch.equal(fit(stripe, 8, 8), torch.ones(1, 3, 8, 8))


def test_no_request_is_cut_short():
    """diffusers' own function returns a single row or column where its covering size is rounded below the request."""
    sides = random.Random(0)
    for _ in range(300):
        height, width = sides.randint(16, 120), sides.randint(16, 120)
        assert fit(torch.zeros(1, 1, 26, 39), height, width).shape[-2:] == (height, width)


def test_a_request_between_bins_equals_the_pipeline(tmp_path):
    from prx_lab import variants

    pipe = standin.pipeline("dc", size=256)
    sampler = variants.sampler(standin.save(pipe, tmp_path), dtype="fp32")
    height, width = 70, 140
    size = nearest_size(height, width, 256)
    assert size == (160, 352)
    ours = draw(sampler, ["a lion"], height, width, seed=5, steps=2)
    eps = noise(5, [0], sampler.latent(size))
    theirs = pipe("a lion", height=height, width=width, latents=eps, num_inference_steps=2, guidance_scale=5.0, output_type="pt").images
    assert ours.shape == (1, 3, height, width)
    torch.testing.assert_close(ours / 2 + 0.5, theirs, atol=1e-3, rtol=0)


def test_a_model_without_bins_draws_the_size_itself(tmp_path):
    from prx_lab import variants

    sampler = variants.sampler(standin.save(standin.pipeline("dc"), tmp_path), dtype="fp32")
    wide = draw(sampler, ["a lion"], 16, 48, steps=2)
    assert torch.equal(wide, sampler(["a lion"], steps=2, size=(16, 48)))
    with pytest.raises(LabError, match="use multiples of 4"):
        draw(sampler, ["a lion"], 16, 50, steps=2)
    with pytest.raises(LabError, match="only for 256, 512, 1024"):
        nearest_size(32, 32, 64)
    with pytest.raises(LabError, match="positive sides"):
        nearest_size(0, 32, 256)
