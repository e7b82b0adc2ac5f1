"""Images at the door: rounding, ranges, layouts; each network's preprocessing against PIL; real loaders on small folders."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from prx_lab.errors import LabError
from prx_lab.metrics.features import METRICS, extract, feature_network, metric_features, to_uint8
from prx_lab.metrics.fid import fid
from prx_lab.metrics.networks import CLIP, Clip, Dino, FeatureNetwork, Inception, bicubic, square

WEIGHTS = torch.randn(3 * 4 * 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(images: torch.Tensor) -> torch.Tensor:
    """Features that see every level: a fixed random projection of 4 x 4 means, (B, 6)."""
    assert images.dtype == torch.uint8
    return torch.nn.functional.adaptive_avg_pool2d(images.double(), 4).flatten(1) @ WEIGHTS


class Moved(FeatureNetwork):
    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def pictures(n: int = 20, h: int = 12, w: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def as_floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1


def test_uint8_and_float_give_the_same_features():
    images = pictures()
    expected = extract(network, images)
    assert expected.dtype == np.float64 and expected.shape == (20, 6)
    assert (extract(network, as_floats(images)) == expected).all()
    assert (extract(network, as_floats(images).numpy().transpose(0, 2, 3, 1)) == expected).all()


def test_batches_and_iterables_do_not_matter():
    images = pictures()
    expected = extract(network, images)
    assert np.allclose(extract(network, images, batch=3), expected)
    assert np.allclose(extract(network, (images[i : i + 7] for i in range(0, 20, 7)), batch=4), expected)
    assert np.allclose(extract(network, [as_floats(images[:5]), images[5:]]), expected)


def test_floats_are_rounded_not_floored():
    levels = torch.arange(256.0)
    for nudge in (-0.49, 0.0, 0.49):  # in levels
        x = ((levels + nudge) / 127.5 - 1).clamp(-1, 1).view(1, 1, 16, 16).expand(1, 3, 16, 16)
        assert (to_uint8(x)[0, 0].flatten() == levels).all()
    assert to_uint8(torch.full((1, 3, 1, 1), 0.9999)).max() == 255  # a floor would say 254
    unit = (levels / 255 - 1e-4).clamp(min=0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert (to_uint8(unit, (0.0, 1.0))[0, 0].flatten() == levels).all()


def test_colours_do_not_wrap():
    """The published evaluation multiplied uint8 by 255 again, so that level x arrived as 256 - x: negated images."""
    images = pictures(200)
    wrapped = (images.astype(np.uint16) * 255 % 256).astype(np.uint8)
    assert (wrapped[images > 0] == 256 - images[images > 0].astype(int)).all()
    right = extract(network, images)
    assert not np.allclose(right, extract(network, wrapped))
    dark = (images // 2).astype(np.uint8)
    assert fid(extract(network, dark), extract(network, as_floats(dark))) < 1e-6
    assert fid(extract(network, dark), extract(network, (dark.astype(np.uint16) * 255 % 256).astype(np.uint8))) > 1000


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (pictures().astype(np.float32), "levels up to 255"),
        (torch.full((2, 3, 4, 4), 1.5), "outside"),
        (torch.full((2, 3, 4, 4), -1.01), "outside"),
        (torch.full((2, 3, 4, 4), float("nan")), "outside"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 4, 4, 3), "shape"),
        (np.zeros((2, 3, 4, 4), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.uint8), "shape"),
    ],
)
def test_what_is_not_an_image_batch_is_refused(images, word):
    with pytest.raises(LabError, match=word):
        extract(network, images)


def test_minus_one_to_one_given_as_zero_to_one_is_refused():
    with pytest.raises(LabError, match="outside"):
        to_uint8(as_floats(pictures()), (0.0, 1.0))


def test_bad_networks_and_empty_input_are_refused():
    with pytest.raises(LabError, match="no images"):
        extract(network, [])
    with pytest.raises(LabError, match="one row each"):
        extract(lambda x: x.float().mean(), pictures())
    with pytest.raises(LabError, match="not finite"):
        extract(lambda x: x.float().flatten(1) * float("inf"), pictures())
    with pytest.raises(LabError, match="at least one image"):
        extract(network, pictures(), batch=0)


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).movedim(-1, 0)[None].float()


def smooth(h: int, w: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((w, h), Image.BICUBIC))


@pytest.mark.parametrize("side", [64, 299, 500])
def test_resize_is_pils_float_bicubic(side):
    """clean-fid resizes each channel as PIL floats."""
    image = smooth(side, side)
    ours = bicubic(planes(image), 299, 299)[0].numpy()
    for channel in range(3):
        theirs = np.asarray(Image.fromarray(image[..., channel].astype(np.float32), mode="F").resize((299, 299), Image.BICUBIC))
        assert np.abs(ours[channel] - theirs).max() < 0.02  # of 255


@pytest.mark.parametrize(("h", "w"), [(96, 96), (400, 500), (700, 336)])
def test_clip_preprocessing_is_pils(h, w):
    image = smooth(h, w)
    tall, wide = (336 * side // min(h, w) for side in (h, w))
    top, left = (tall - 336) // 2, (wide - 336) // 2
    theirs = np.asarray(Image.fromarray(image).resize((wide, tall), Image.BICUBIC))[top : top + 336, left : left + 336]
    theirs = ((theirs / 255 - CLIP[0]) / CLIP[1]).transpose(2, 0, 1)
    ours = Clip("clip", torch.nn.Identity()).prepare(planes(image))[0].numpy()
    assert ours.shape == theirs.shape == (3, 336, 336)
    level = 1 / 255 / min(CLIP[1])
    assert np.abs(ours - theirs).max() < 2.01 * level and np.abs(ours - theirs).mean() < 0.02 * level


@pytest.mark.slow  # the import alone takes many seconds
@pytest.mark.parametrize(("h", "w"), [(96, 96), (400, 501), (701, 336)])
def test_clip_preprocessing_is_that_of_transformers(h, w):
    from transformers import CLIPImageProcessorPil

    crop = {"height": 336, "width": 336}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=crop, image_mean=list(CLIP[0]), image_std=list(CLIP[1]))
    image = smooth(h, w)
    theirs = np.asarray(processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0])
    ours = Clip("clip", torch.nn.Identity()).prepare(planes(image))[0].numpy()
    assert np.abs(ours - theirs).max() < 2.01 / 255 / min(CLIP[1])


def test_inception_and_dino_preprocessing_ranges():
    white = torch.full((1, 3, 40, 60), 255.0)
    assert Inception("i", torch.nn.Identity()).prepare(white).numpy() == pytest.approx(127 / 128, abs=1e-5)
    assert Inception("i", torch.nn.Identity()).prepare(0 * white).numpy() == pytest.approx(-1.0)
    dino = Dino("d", torch.nn.Identity()).prepare(white)
    assert dino.shape == (1, 3, 518, 518)
    assert dino[0, :, 0, 0].tolist() == pytest.approx([(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))], rel=1e-4)
    assert square(white, 336).shape == (1, 3, 336, 336)


def test_a_feature_network_takes_levels_only():
    with pytest.raises(LabError, match="takes uint8"):
        Inception("inception-v3", torch.nn.Identity())(torch.zeros(1, 3, 8, 8))


def test_dino_from_a_folder(tmp_path):
    import timm

    arguments = {"img_size": 518, "patch_size": 74, "embed_dim": 24, "depth": 1, "num_heads": 2, "reg_tokens": 4}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_features": 24, "model_args": arguments}
    config["pretrained_cfg"] = {"input_size": [3, 518, 518], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = metric_features("dino_mmd", "real", tmp_path)
    features = extract(network, pictures(3, 20, 20))
    assert network.name == "dinov2-l-reg" and features.shape == (3, 24)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    with pytest.raises(LabError, match="kind of 'clip-vit-l-14-336'"):
        metric_features("cmmd", "real", tmp_path)


def test_clip_from_a_folder(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=336, patch_size=112, projection_dim=8
    )
    CLIPVisionModelWithProjection(shape).save_pretrained(tmp_path)
    features = extract(feature_network("clip-vit-l-14-336", tmp_path), pictures(3, 20, 30))
    assert features.shape == (3, 8) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_inception_from_a_folder(tmp_path):
    from prx_lab.inception import FIDInception

    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in FIDInception().state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "inception-v3-fid"}')
    features = extract(metric_features("fid", "real", tmp_path), pictures(2, 32, 32))
    assert features.shape == (2, 2048)


def test_no_real_network_without_a_folder_or_hub():
    with pytest.raises(LabError, match="local folder"):
        feature_network("inception-v3")


def test_images_go_where_the_network_is():
    shared = torch.nn.Linear(2, 2)  # a teacher that the training data was made with on another device
    follows = Moved("moved", shared)
    shared.to("meta")
    assert follows(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).device.type == "meta"


def test_unknown_names_get_a_suggestion():
    with pytest.raises(LabError, match="Did you mean 'cmmd'"):
        metric_features("cmd")
    with pytest.raises(LabError, match="backend"):
        metric_features("fid", "reel")
    with pytest.raises(LabError, match="Did you mean 'lab-inception'"):
        feature_network("lab-inceptoin")


@pytest.mark.parametrize("metric", METRICS)
def test_embedded_networks(metric):
    from prx_lab import zoo

    try:
        zoo.folder(METRICS[metric][0])
    except LabError:
        pytest.skip(f"{METRICS[metric][0]} has not been trained yet")
    network, images = metric_features(metric), pictures(4, 64, 64)
    features = extract(network, images)
    assert features.ndim == 2 and len(features) == 4 and network.name == METRICS[metric][0]
    assert np.allclose(features, extract(network, as_floats(images), batch=3), atol=1e-4)
    if metric != "fid":
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
