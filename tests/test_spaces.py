"""Spaces: small random objects of the real classes, read back from a folder, and the embedded autoencoders."""

import json

import pytest
import torch

from prx_lab import zoo
from prx_lab.data.scenes import render, sample_scene
from prx_lab.errors import LabError
from prx_lab.pretrain.vae import SETUPS, network
from prx_lab.spaces import EMBEDDED, DCSpace, Flux2Space, KLSpace, Pixels, load_space


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def kl():
    torch.manual_seed(0)
    return network(channels=4, widths=(8, 8, 8, 8))


def flux2():
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKLFlux2(**kinds, block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def dc():
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    blocks = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock", "encoder_qkv_multiscales": ((), (), ())}
    sizes = {"encoder_block_out_channels": (8, 16, 32), "decoder_block_out_channels": (8, 16, 32), "decoder_qkv_multiscales": ((), (), ())}
    layers = {"encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1)}
    return AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.41, **blocks, **sizes, **layers)


def test_pixels_are_the_identity(images):
    space = load_space("pixels")
    assert isinstance(space, Pixels) and (space.channels, space.stride) == (3, 1)
    assert torch.equal(space.decode(space.encode(images)), images)


def test_shift_and_scale_are_undone(images, kl):
    """A different normalisation moves the latents by the affine map and leaves the pictures where they were."""
    plain, moved = KLSpace("a", kl, 0.0, 1.0), KLSpace("b", kl, 0.7, 3.0)
    torch.testing.assert_close(moved.encode(images), (plain.encode(images) - 0.7) * 3.0)
    torch.testing.assert_close(moved.decode(moved.encode(images)), plain.decode(plain.encode(images)), atol=1e-5, rtol=1e-4)


def test_encoding_is_deterministic_and_frozen(images, kl):
    space = KLSpace("a", kl, 0.0, 1.0)
    x = images.clone().requires_grad_()
    assert torch.equal(space.encode(images), space.encode(images))
    space.encode(x).sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in space.parameters())


@pytest.mark.parametrize("build, cls, stride", [(flux2, Flux2Space, 4), (dc, DCSpace, 4)])
def test_other_classes_read_from_a_folder(tmp_path, images, build, cls, stride):
    build().save_pretrained(tmp_path)
    space = load_space(str(tmp_path))
    x = space.encode(images)
    assert isinstance(space, cls) and space.stride == stride
    assert x.shape == (2, space.channels, 32 // stride, 64 // stride)
    y = space.decode(x)
    assert y.shape == images.shape and y.abs().max() <= 1


def test_flux2_packs_and_normalises_as_its_pipeline_does(images):
    from diffusers import Flux2Pipeline

    vae = flux2().eval()
    with torch.no_grad():
        packed = Flux2Pipeline._patchify_latents(vae.encode(images).latent_dist.mean)
        expected = (packed - vae.bn.running_mean.view(1, -1, 1, 1)) / (vae.bn.running_var.view(1, -1, 1, 1) + 1e-4).sqrt()
    torch.testing.assert_close(Flux2Space("flux2", vae).encode(images), expected)


def test_a_pipeline_folder_and_an_absent_shift(tmp_path, images, kl):
    kl.register_to_config(scaling_factor=0.5, shift_factor=None)
    kl.save_pretrained(tmp_path / "vae")
    space = load_space(str(tmp_path))
    torch.testing.assert_close(space.encode(images), kl.encode(images).latent_dist.mean * 0.5)
    assert space.name == str(tmp_path) and (space.channels, space.stride, space.shift) == (4, 8, 0.0)


def test_errors_say_what_to_do(tmp_path, images, kl, monkeypatch):
    with pytest.raises(LabError, match="Did you mean 'lab-vae'"):
        load_space("lab-vea")
    with pytest.raises(LabError, match="no diffusers autoencoder"):
        load_space(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(LabError, match="holds a UNet2DModel"):
        load_space(str(tmp_path))
    with pytest.raises(LabError, match="multiples of 8"):
        KLSpace("a", kl, 0.0, 1.0).encode(images[..., :60])


@pytest.mark.parametrize("name", ["flux", "flux2", "dc-ae", "repa-e"])
def test_real_ones_without_a_network(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LabError, match="connect once, or give the folder of a local copy"):
        load_space(name)


@pytest.mark.parametrize("name", [n for n in EMBEDDED if (zoo.WEIGHTS / n).is_dir()])
class TestEmbedded:
    def test_reconstructs_and_is_normalised(self, name):
        space = load_space(name)
        scenes = render([sample_scene(i, seed=11, level="simple", split="val") for i in range(16)], 64)
        x = space.encode(scenes)
        error = (space.decode(x) - scenes).pow(2).flatten(1).mean(1)
        psnr = 10 * torch.log10(4 / error).mean()
        assert x.shape == (16, space.channels, 8, 8)
        assert abs(x.mean()) < 0.5 and 0.6 < x.std() < 1.5
        assert psnr > 28

    def test_any_size(self, name):
        space = load_space(name)
        for side in (32, 96):
            assert space.decode(space.encode(torch.zeros(1, 3, side, side))).shape == (1, 3, side, side)

    def test_card_states_what_was_measured(self, name):
        metrics = json.loads((zoo.folder(name) / "metrics.json").read_text())
        text = (zoo.folder(name) / "card.md").read_text()
        assert all(f"{v['psnr']:.2f}" in text for v in metrics["held_out"].values())
        assert (zoo.folder(name) / "model.safetensors").stat().st_size < 2.2e6

    def test_exports_to_diffusers_unchanged(self, name, tmp_path):
        space = load_space(name)
        space.vae.save_pretrained(tmp_path)
        again = load_space(str(tmp_path))
        x = torch.rand(1, 3, 64, 64) * 2 - 1
        assert torch.equal(space.encode(x), again.encode(x)) and (space.shift, space.scale) == (again.shift, again.scale)


def test_setups_are_known_networks():
    assert set(SETUPS) <= set(EMBEDDED)
