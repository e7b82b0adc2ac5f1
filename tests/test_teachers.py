"""Frozen networks: the shapes and promises of the seam, with embedded weights and with small random objects of the real classes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prx_lab import published, zoo
from prx_lab.detector import Detector, DetectorConfig, labels, peaks, place
from prx_lab.errors import LabError
from prx_lab.metrics.spatial import cds, lds, rmsc, srss
from prx_lab.teachers import Judge, TimmTeacher, freeze, load_judge, load_vision, resize
from prx_lab.text import load_text

shipped = {name: pytest.mark.skipif(name not in zoo.sizes(), reason=f"{name} is not trained yet") for name in zoo.EMBEDDED}


def pictures(n: int, side: int = 64) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---- embedded -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(n, marks=shipped[n]) for n in ("lab-dino", "lab-dino-dense", "lab-dino-eval", "lab-clip")])
def test_vision_seam(name: str) -> None:
    teacher = load_vision(name)
    assert teacher.patch == 8 and not any(p.requires_grad for p in teacher.parameters())
    for grid in (4, 8, 16):
        assert teacher.tokens(pictures(2), grid).shape == (2, grid * grid, teacher.width)
    assert teacher.pooled(pictures(3)).shape[0] == 3
    one, two = teacher.tokens(pictures(4)[:1], 8), teacher.tokens(pictures(4), 8)[:1]
    assert torch.allclose(one, two, atol=1e-4), "an image's features do not depend on its batch"


@shipped["lab-t5"]
def test_text_seam() -> None:
    encoder = load_text("lab-t5")
    captions = ["a large glossy red cube.", "", "a small matte blue cone is to the left of a large green torus."]
    text, mask = encoder.encode(captions)
    assert text.shape == (3, encoder.length, encoder.width) and text.dtype == torch.float32 and mask.dtype == torch.bool
    assert mask.any(1).all(), "even the empty caption has a token to attend to"
    assert (mask[:, :-1] >= mask[:, 1:]).all(), "padding is on the right"
    assert (text[~mask] == 0).all()
    alone, _ = encoder.encode(captions[:1])
    assert torch.allclose(alone[0], text[0], atol=1e-4), "a caption's features do not depend on its batch"
    assert encoder.encode(["a cube " * 200])[1].all(), "too long a caption is cut at the last place"


@shipped["lab-t5"]
def test_text_binds() -> None:
    encoder = load_text("lab-t5")
    ids = encoder.tokenizer("a small red cube is to the left of a large blue cube.")["input_ids"]
    nouns = [i for i, t in enumerate(ids) if encoder.tokenizer.decode([t]).strip() == "cube"]
    captions = ["a small red cube is to the left of a large blue cube.", "a large blue cube is to the left of a small red cube."]
    a, b = encoder.encode(captions)[0]
    same = torch.cosine_similarity(a[nouns[0]], b[nouns[1]], dim=0) > torch.cosine_similarity(a[nouns[0]], b[nouns[0]], dim=0)
    assert len(nouns) == 2 and same, "the red cube's noun is nearer to the red cube's in the other sentence than to the word in its place"


@shipped["lab-inception"]
def test_judge_reads_a_scene() -> None:
    from prx_lab.data.scenes import render, sample_scene

    scenes = [sample_scene(i, 31, "simple", "render", "val") for i in range(24)]
    judge = load_judge()
    images = render(scenes, 64)
    found = judge.detect(images)
    right = sum(
        any((d.shape, d.colour, d.size) == (o.shape, o.colour, o.size) for d in seen)
        for scene, seen in zip(scenes, found, strict=True)
        for o in scene.objects
    )
    assert right >= 0.8 * sum(len(s.objects) for s in scenes)
    assert all(0 <= d.x <= 1 and 0 <= d.y <= 1 and 0 <= d.score <= 1 for seen in found for d in seen)
    assert judge.features(images).shape == (24, judge.width)
    assert torch.allclose(judge.features(images[:1]), judge.features(images)[:1], atol=1e-4)


def test_unknown_names() -> None:
    wrongs = ((load_vision, "lab-dinno", "lab-dino"), (load_text, "lab-t55", "lab-t5"), (load_judge, "lab-incepton", "lab-inception"))
    for load, wrong, near in wrongs:
        with pytest.raises(LabError, match=f"Did you mean '{near}'"):
            load(wrong)


# ---- the detector's arithmetic --------------------------------------------------------------------------------------


def test_peaks_are_local_and_limited() -> None:
    maps = torch.full((1, 26, 16, 16), -9.0)
    maps[0, 0, 4, 5], maps[0, 0, 4, 6], maps[0, 0, 12, 2] = 3.0, 2.0, 1.0
    maps[0, 1, 4, 5], maps[0, 2, 4, 5] = 0.25, -0.5
    found = peaks(maps, 0.5, 6)[0]
    assert [(r, c) for _, r, c in found] == [(4, 5), (12, 2)], "a neighbour of a higher peak is no peak"
    assert len(peaks(maps, 0.5, 1)[0]) == 1 and not peaks(maps, 0.99, 6)[0]
    assert place(maps, 0, 4, 5) == (5.75 / 16, 4.0 / 16)
    maps[0, 3 + 2, 4, 5] = 5.0
    assert labels(maps, 0, 4, 5)["shape"] == "cylinder"


def test_loss_falls_to_its_target() -> None:
    from prx_lab.pretrain.judge import detection_loss

    objects = torch.full((1, 4, 7), -1.0)
    objects[0, 0] = torch.tensor([2, 3, 1, 0, 5.75 / 16, 4.0 / 16, 1.0])
    maps = torch.zeros(1, 26, 16, 16, requires_grad=True)
    optimiser = torch.optim.Adam([maps], 0.3)
    for _ in range(150):
        optimiser.zero_grad()
        detection_loss(maps, objects).backward()
        optimiser.step()
    (peak,) = peaks(maps.detach(), 0.3, 6)[0]
    assert place(maps.detach(), 0, *peak[1:]) == pytest.approx((5.75 / 16, 4.0 / 16), abs=0.01)
    assert labels(maps.detach(), 0, *peak[1:]) == {"shape": "cylinder", "colour": "green", "size": "large", "material": "matte"}


def test_resize_is_antialiased() -> None:
    stripes = torch.ones(1, 3, 64, 64)
    stripes[..., ::2] = -1
    assert resize(stripes, 16).abs().max() < 0.1, "what the small grid cannot show averages out"
    assert resize(stripes, 64) is stripes


# ---- spatial structure ----------------------------------------------------------------------------------------------


def test_spatial_measures() -> None:
    flat = torch.ones(2, 64, 5)
    assert lds(flat).abs().max() < 1e-6 and cds(flat).abs().max() < 1e-6 and rmsc(flat).max() < 1e-3
    row = torch.arange(64) // 8
    halves = torch.nn.functional.one_hot((row >= 4).long(), 2).float()[None]  # upper and lower half orthogonal
    assert lds(halves)[0] > 0.3 and cds(halves)[0] > 0.02
    assert rmsc(halves)[0] == pytest.approx(0.5**0.5)
    assert srss(halves, (row >= 4).long()[None] - 1)[0] == pytest.approx(1.0), "objects below, background above: cosine 1 against 0"
    assert srss(flat[:1], torch.full((1, 64), -1)).isnan().all(), "no object, no answer"
    shuffled = halves[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    assert lds(shuffled)[0] < 0.2 and rmsc(shuffled)[0] == pytest.approx(0.5**0.5), "RMSC alone does not see the layout"
    with pytest.raises(LabError, match="square grid"):
        lds(torch.ones(1, 12, 3))


# ---- real classes, random weights -----------------------------------------------------------------------------------


def test_timm_folder(tmp_path: Path) -> None:
    import timm

    arguments = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 28}
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, **arguments)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    seen = {"mean": mean, "std": std, "input_size": [3, 28, 28]}
    config = {"architecture": "vit_small_patch14_dinov2", "model_args": arguments, "pretrained_cfg": seen}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = load_vision(str(tmp_path))
    images = pictures(2, 70)
    tokens = teacher.tokens(images, 5)
    assert teacher.patch == 14 and tokens.shape == (2, 25, 24)
    assert teacher.pooled(images).shape == (2, 24)
    by_hand = (images / 2 + 0.5 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    native = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True, **arguments).eval()
    native.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.allclose(tokens, native.forward_features(by_hand)[:, 1:], atol=1e-5)


def test_dinov3_class_drops_registers() -> None:
    import timm

    network = timm.create_model("vit_small_patch16_dinov3", num_classes=0, embed_dim=48, depth=1, num_heads=2, dynamic_img_size=True)
    teacher = freeze(TimmTeacher("dinov3-s", network, (0.5,) * 3, (0.5,) * 3, 32))
    assert teacher.prefix == 5 and teacher.tokens(pictures(1), 4).shape == (1, 16, 48)


def test_clip_folder(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CLIPModel(CLIPConfig(text_config=small, vision_config=small | {"image_size": 28, "patch_size": 14}, projection_dim=16)).eval()
    model.save_pretrained(tmp_path)
    teacher = load_vision(str(tmp_path))
    assert teacher.pooled(pictures(2)).shape == (2, 16) and teacher.tokens(pictures(2), 4).shape == (2, 16, 32)
    pixels = teacher.normalise(resize(pictures(2), 28))
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    assert torch.allclose(teacher.pooled(pictures(2)), expected, atol=1e-5)


def test_t5gemma_folder(tmp_path: Path) -> None:
    from transformers import T5GemmaForConditionalGeneration

    from prx_lab.pretrain.corpus import train_tokenizer
    from prx_lab.pretrain.text import encoder_config

    model = T5GemmaForConditionalGeneration(encoder_config()).eval()
    model.save_pretrained(tmp_path)
    tokenizer = train_tokenizer(["a red cube", "a blue sphere"])
    tokenizer.padding_side = "left"  # as Gemma's own tokenizer has it
    tokenizer.save_pretrained(tmp_path)
    encoder = load_text(str(tmp_path))
    text, mask = encoder.encode(["a red cube", "a"])
    assert (mask[:, :-1] >= mask[:, 1:]).all() and not mask[1].all(), "padded on the right nevertheless"
    batch = tokenizer(["a red cube"], return_tensors="pt")
    with torch.no_grad():
        expected = model.model.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.allclose(text[0, mask[0]], expected[0], atol=1e-4), "the encoder inside the whole model"


def test_inception_graph(tmp_path: Path) -> None:
    from prx_lab.inception import FIDInception

    network = FIDInception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568, "the trunk of the 2015 graph"
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "inception-v3-fid"}')
    features = load_vision(str(tmp_path)).pooled(pictures(1))
    assert features.shape == (1, 2048) and (features >= 0).all()


def test_folders_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no config.json"):
        load_vision(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(LabError, match="unpickled"):
        load_vision(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(LabError, match="cannot be read"):
        load_vision(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(LabError, match="neither a timm"):
        load_vision(str(tmp_path))
    with pytest.raises(LabError, match="not a T5Gemma"):
        load_text(str(tmp_path))


def test_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError, match="not, or not wholly, in the hub's local cache") as error:
        published.fetch("dinov2-b")
    assert str(error.value).count(". ") == 0


def test_weights_of_another_model(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    with pytest.raises(LabError, match="lack 'weight'"):
        published._fill(network, {"bias": torch.zeros(2)}, tmp_path)
    with pytest.raises(LabError, match="do not fit"):
        published._fill(network, {"weight": torch.zeros(9, 3), "bias": torch.zeros(2)}, tmp_path)


def test_detector_is_deterministic_and_batch_free() -> None:
    judge = freeze(Judge("test", Detector(DetectorConfig())))
    images = pictures(3)
    assert torch.allclose(judge.features(images[:1]), judge.features(images)[:1], atol=1e-5)
    assert judge.features(pictures(1, 100)).shape == (1, judge.width)
