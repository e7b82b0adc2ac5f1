"""Spaces of the published autoencoders: their real configurations on the meta device, small random ones of their classes in numbers."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, Flux2Pipeline
from hub import GATED, serve
from tiny import CPU, TINY

from prx_lab import autoencoders, zoo
from prx_lab.data.store import fingerprint
from prx_lab.errors import LabError
from prx_lab.recipes import BASE
from prx_lab.run import store_of
from prx_lab.sample import from_run
from prx_lab.spaces import ChannelSpace, DCSpace, Flux2Space, KLSpace, load_space
from prx_lab.train import Training

# As published, with the configurations that differ from the classes' defaults.
KINDS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
FLUX = KINDS | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "sample_size": 1024}
FLUX |= {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}
RES, VIT = "ResBlock", "EfficientViTBlock"
SANA = {f"{part}_block_types": (RES, RES, RES, VIT, VIT, VIT) for part in ("encoder", "decoder")}
SANA |= {f"{part}_qkv_multiscales": ((), (), (), (5,), (5,), (5,)) for part in ("encoder", "decoder")}
SANA |= {"scaling_factor": 0.41407, "downsample_block_type": "Conv", "upsample_block_type": "interpolate"}

# The same at small width.
SMALL = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 32}
WIDTHS = {f"{part}_block_out_channels": (8, 8, 16, 16, 32, 32) for part in ("encoder", "decoder")}
WIDTHS |= {f"{part}_layers_per_block": (1,) * 6 for part in ("encoder", "decoder")} | {"attention_head_dim": 8}


def flux():
    return AutoencoderKL(**FLUX | SMALL)


def repa_e():
    """With statistics for every channel, those of its own latents of `images()`, beside a shift and a scale that are not to be used."""
    raw = flux().eval()
    z = raw.encode(images()).latent_dist.mean.detach()
    return with_config(raw, latents_mean=z.mean((0, 2, 3)).tolist(), latents_std=z.std((0, 2, 3)).tolist())


def with_config(vae, **changes):
    other = type(vae)(**{k: v for k, v in vae.config.items() if not k.startswith("_")} | changes)
    other.load_state_dict(vae.state_dict())
    return other


def flux2():
    """With the statistics of its own packed latents."""
    vae = AutoencoderKLFlux2(**KINDS | SMALL, latent_channels=32).eval()
    packed = Flux2Pipeline._patchify_latents(vae.encode(images()).latent_dist.mean.detach())
    vae.bn.running_mean.copy_(packed.mean((0, 2, 3)))
    vae.bn.running_var.copy_(packed.var((0, 2, 3)))
    return vae


def sana():
    return AutoencoderDC(**SANA | WIDTHS)


BUILD = {"flux": flux, "repa-e": repa_e, "flux2": flux2, "dc-ae": sana}
CLASS = {"flux": KLSpace, "repa-e": ChannelSpace, "flux2": Flux2Space, "dc-ae": DCSpace}
SHAPE = {"flux": (16, 8), "repa-e": (16, 8), "flux2": (128, 16), "dc-ae": (32, 32)}  # channels and stride, as published


def images(n: int = 3, height: int = 64, width: int = 96):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every autoencoder saved in a folder of its own, and the network as it was saved."""
    found = {}
    for name, build in BUILD.items():
        torch.manual_seed(0)
        vae, folder = build().eval().requires_grad_(False), tmp_path_factory.mktemp(name)
        vae.save_pretrained(folder)
        found[name] = vae, folder
    return found


@pytest.fixture(params=BUILD)
def case(request, folders):
    """The name, the network as it was saved, and the space read from its folder."""
    vae, folder = folders[request.param]
    return request.param, vae, load_space(str(folder))


def by_hand(name, vae, x):
    """Latents by the formula of each network's own pipeline."""
    if name == "dc-ae":
        return vae.encode(x).latent * 0.41407  # SanaPipeline decodes latents / scaling_factor
    z = vae.encode(x).latent_dist.mean
    if name == "flux":
        return (z - 0.1159) * 0.3611  # FluxPipeline decodes latents / scaling_factor + shift_factor
    if name == "repa-e":
        return torch.stack([(z[:, c] - m) / s for c, (m, s) in enumerate(zip(vae.config.latents_mean, vae.config.latents_std))], 1)
    return vae.bn(Flux2Pipeline._patchify_latents(z))  # in evaluation mode: by the running statistics


def pictures_by_hand(name, vae, x):
    if name == "dc-ae":
        return vae.decode(x / 0.41407).sample
    if name == "flux":
        return vae.decode(x / 0.3611 + 0.1159).sample
    if name == "repa-e":
        z = [x[:, c] * s + m for c, (m, s) in enumerate(zip(vae.config.latents_mean, vae.config.latents_std))]
        return vae.decode(torch.stack(z, 1)).sample
    mean, std = vae.bn.running_mean, (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    return vae.decode(Flux2Pipeline._unpatchify_latents(x * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1))).sample


@pytest.mark.parametrize("name", BUILD)
def test_the_published_configuration_has_the_documented_shape(name):
    with torch.device("meta"):
        if name == "dc-ae":
            space = DCSpace(name, AutoencoderDC(**SANA), 0.41407)
        elif name == "flux2":
            space = Flux2Space(name, AutoencoderKLFlux2())
        elif name == "repa-e":
            space = ChannelSpace(name, AutoencoderKL(**FLUX, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16))
        else:
            space = KLSpace(name, AutoencoderKL(**FLUX), 0.1159, 0.3611)
        x = torch.empty(1, 3, 256, 256)
        channels, stride = SHAPE[name]
        assert (space.channels, space.stride) == (channels, stride)
        assert space.encode(x).shape == (1, channels, 256 // stride, 256 // stride)
        assert space.unclamped(space.encode(x)).shape == x.shape
    assert f"{channels} channels at stride {stride}" in zoo.REAL[name].role


def test_a_folder_gives_the_space_of_its_class(case):
    name, _, space = case
    assert type(space) is CLASS[name] and (space.channels, space.stride) == SHAPE[name]
    assert not space.vae.training and not any(p.requires_grad for p in space.parameters())


def test_latents_are_those_of_its_own_pipeline(case):
    name, vae, space = case
    torch.testing.assert_close(space.encode(images()), by_hand(name, vae, images()), atol=1e-5, rtol=1e-5)


def test_pictures_are_those_of_its_own_pipeline(case):
    name, vae, space = case
    channels, stride = SHAPE[name]
    x = torch.randn(2, channels, 64 // stride, 96 // stride, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(space.unclamped(x), pictures_by_hand(name, vae, x), atol=1e-5, rtol=1e-5)
    assert space.decode(x).abs().max() <= 1


@pytest.mark.parametrize("name", ["repa-e", "flux2"])
def test_latents_are_standardised_channel_by_channel(name, folders):
    """The stored statistics are those of these images, so each channel comes out with mean 0 and variance 1."""
    x = load_space(str(folders[name][1])).encode(images())
    assert x.mean((0, 2, 3)).abs().max() < 1e-3
    assert (x.var((0, 2, 3)) - 1).abs().max() < 0.05  # FLUX.2 adds 1e-4 to variances, which are small in a random network


def test_normalising_is_undone(case):
    _, vae, space = case
    code = space.code(images())
    torch.testing.assert_close(space.raw(space.normalised(code)), code, atol=1e-5, rtol=1e-5)


def test_flux2_packs_in_the_official_order(folders):
    """Channel 4 c + 2 i + j of a packed cell is channel c at row i and column j of its 2 x 2 cells."""
    vae, folder = folders["flux2"]
    space, z = load_space(str(folder)), vae.encode(images()).latent_dist.mean
    packed = space.encode(images()) * space.spread + space.mean
    for c, i, j in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (3, 1, 1), (31, 1, 0)):
        torch.testing.assert_close(packed[:, 4 * c + 2 * i + j], z[:, c, i::2, j::2], atol=1e-5, rtol=1e-5)


def test_flux2_uses_its_own_epsilon(tmp_path, folders):
    vae = with_config(folders["flux2"][0], batch_norm_eps=0.3).eval()
    vae.save_pretrained(tmp_path)
    expected = vae.bn(Flux2Pipeline._patchify_latents(vae.encode(images()).latent_dist.mean))
    torch.testing.assert_close(load_space(str(tmp_path)).encode(images()), expected, atol=1e-5, rtol=1e-5)


def test_no_convolution_is_added_and_none_is_skipped(tmp_path):
    """With 1 x 1 convolutions between network and latents, and without: the class's own answer both times."""
    for used in (True, False):
        torch.manual_seed(0)
        vae = AutoencoderKL(**FLUX | SMALL | {"use_quant_conv": used, "use_post_quant_conv": used}).eval()
        vae.save_pretrained(tmp_path / str(used))
        space = load_space(str(tmp_path / str(used)))
        assert (space.vae.quant_conv is not None) == used
        torch.testing.assert_close(space.encode(images()), by_hand("flux", vae, images()))


@pytest.mark.parametrize("convolutions", [False, True])
def test_statistics_of_channels_fold_into_the_autoencoder(tmp_path, folders, convolutions):
    """Folded, its plain latents are the standardised ones, and a pipeline that knows one scale and one shift decodes them."""
    vae = with_config_and_convolutions(folders["repa-e"][0]) if convolutions else folders["repa-e"][0]
    vae.save_pretrained(tmp_path / "before")
    space = load_space(str(tmp_path / "before"))
    assert type(space) is ChannelSpace and not isinstance(space, KLSpace), "one scale and one shift do not describe it"
    space.folded().vae.save_pretrained(tmp_path / "after")
    plain = load_space(str(tmp_path / "after"))
    x = space.encode(images())
    assert type(plain) is KLSpace and (plain.shift, plain.scale) == (0.0, 1.0)
    torch.testing.assert_close(plain.encode(images()), x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain.vae.decode(x).sample, space.unclamped(x), atol=1e-5, rtol=1e-4)
    noise = vae.encode(images()).latent_dist.std / space.spread
    torch.testing.assert_close(plain.vae.encode(images()).latent_dist.std, noise, atol=1e-5, rtol=1e-4)


def with_config_and_convolutions(vae):
    """The same network with random 1 x 1 convolutions at both ends of its latents."""
    own = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    other = AutoencoderKL(**own | {"use_quant_conv": True, "use_post_quant_conv": True}).eval()
    other.load_state_dict(vae.state_dict(), strict=False)
    return other


# ---- memory ---------------------------------------------------------------------------------------------------------


def sides(network, run):
    """The largest batch and the largest side that enter a network while `run()` runs."""
    seen = []
    hook = network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    run()
    hook.remove()
    return max(s[0] for s in seen), max(max(s[-2:]) for s in seen)


def test_a_batch_of_large_images_goes_through_in_parts(case, monkeypatch):
    """What a network works on at once is bounded in pixels, so that 1024 pixels take no more memory than 256."""
    _, _, space = case
    five = images(5)
    x = space.encode(five)
    y = space.unclamped(x)
    for pixels, most in ((2 * 64 * 96, 2), (1, 1)):
        monkeypatch.setattr(autoencoders, "PIXELS", pixels)
        assert sides(space.vae.encoder, lambda: space.encode(five))[0] == sides(space.vae.decoder, lambda: space.decode(x))[0] == most
        torch.testing.assert_close(space.encode(five), x, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(space.unclamped(x), y, atol=1e-5, rtol=1e-4)


def test_weights_in_bfloat16_keep_float32_outside(case):
    _, _, space = case
    x, y = space.encode(images()), space.decode(space.encode(images()))
    space.weights_in(torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in space.parameters())
    assert all(buffer.dtype == torch.float32 for buffer in space.buffers(recurse=False)), "normalisation is not rounded"
    half = space.encode(images())
    assert half.dtype == space.decode(half).dtype == torch.float32
    assert 0 < (half - x).std() < 0.1 * x.std() and (space.decode(half) - y).std() < 0.1
    with pytest.raises(LabError, match="use bfloat16 or float32"):
        space.weights_in(torch.float16)


def test_a_change_of_dtype_is_silent(case, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        case[2].weights_in(torch.float32).weights_in(torch.bfloat16)
    finally:
        logging.disable_propagation()
    assert case[2].dtype == torch.bfloat16 and not caplog.records


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_sides_and_channels_that_do_not_fit_are_refused(case):
    _, _, space = case
    with pytest.raises(LabError, match=f"multiples of {space.stride}; these are 64 x {space.stride + 4}"):
        space.encode(images(1, 64, space.stride + 4))
    with pytest.raises(LabError, match=f"has {space.channels} channels and these latents 5"):
        space.decode(torch.zeros(1, 5, 2, 2))


def test_weights_in_a_pickle_are_refused(tmp_path, folders):
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text((folders["flux"][1] / "config.json").read_text())
    with pytest.raises(LabError, match="a pickle, which is not opened"):
        load_space(str(tmp_path))


@pytest.mark.parametrize(
    "name, lost", [("flux", "encoder.conv_in.weight"), ("flux2", "bn.running_mean"), ("dc-ae", "decoder.conv_in.bias")]
)
def test_weights_that_are_not_all_there_are_refused(tmp_path, folders, name, lost):
    from safetensors.torch import load_file, save_file

    folder = folders[name][1]
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    del state[lost]
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(LabError, match=lost):
        load_space(str(tmp_path))


def test_weights_of_another_shape_or_damaged_are_refused(tmp_path, folders):
    folder = folders["flux"][1]
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 4}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    with pytest.raises(LabError, match="no diffusers autoencoder that can be read"):
        load_space(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(LabError, match="no diffusers autoencoder that can be read"):
        load_space(str(tmp_path))


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_name_fetches_the_autoencoder_alone(tmp_path, monkeypatch, folders):
    """From a hub: of a pipeline only `vae/`, once; afterwards the cache answers."""
    vae, _ = folders["flux"]
    vae.save_pretrained(tmp_path / "hub" / "vae")
    (tmp_path / "hub" / "transformer").mkdir()
    (tmp_path / "hub" / "transformer" / "model.safetensors").write_bytes(b"large")
    with serve({zoo.REAL["flux"].repo: tmp_path / "hub"}, tmp_path / "cache", monkeypatch) as asked:
        space = load_space("flux")
        assert space.name == "flux" and torch.equal(space.encode(images()), by_hand("flux", vae, images()))
        assert not any("transformer" in path.partition("/resolve/")[2] for path in asked)
        downloads = sum(path.endswith(".safetensors") for path in asked)
        load_space("flux")
        assert downloads == sum(path.endswith(".safetensors") for path in asked) == 1


def test_gated_and_absent_repositories_are_one_sentence_each(tmp_path, monkeypatch):
    with serve({}, tmp_path, monkeypatch, {zoo.REAL["flux"].repo: GATED}):
        with pytest.raises(LabError, match="FLUX.1-dev is gated: accept its conditions at .*FLUX.1-dev and log in"):
            load_space("flux")
        with pytest.raises(LabError, match="the hub has no public repository mit-han-lab/dc-ae"):
            load_space("dc-ae")


def test_other_weights_in_the_same_folder_are_another_space(tmp_path, folders):
    """What latents are cached under: it follows the files, not the name alone."""
    name, seen = str(tmp_path), []
    for key in ("flux", "repa-e"):
        folders[key][0].save_pretrained(tmp_path)
        seen.append(fingerprint(name))
    assert seen[0] != seen[1] == fingerprint(name) and fingerprint("flux") == "flux"


# ---- end to end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILD)
def test_two_steps_and_a_picture_in_every_space(name, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path / "cache"))
    channels, stride = SHAPE[name]
    scale = replace(TINY, size=4 * stride, images=4, batch=2, steps=2)
    recipe = BASE.but(scale=scale, space=str(folders[name][1]))
    training = Training(recipe, store_of(recipe, CPU), 0, CPU)
    assert training.store.shape == (channels, 4, 4)
    assert all(row["loss"] > 0 for row in training.fit(2, tmp_path / "run"))
    assert from_run(tmp_path / "run")(["a red cube"], steps=1).shape == (1, 3, scale.size, scale.size)
