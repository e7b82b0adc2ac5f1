"""Components by hand: read one by one from a folder, put together, refused in a sentence; and the memory of the published parts."""

import importlib.util
import json
import re
import shutil

import pytest
import standin
import torch

from prx_lab import components, memory
from prx_lab.errors import LabError
from prx_lab.flow import noise
from prx_lab.variants import VARIANTS, variant

NO_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    made = standin.pipeline("kl")
    return made, standin.save(made, tmp_path_factory.mktemp("pipeline"))


def by_hand(folder, dtype):
    parts = components.transformer(folder, dtype), components.scheduler(folder), components.text_encoder(folder, dtype)
    pipe = components.assemble(*parts, components.tokenizer(folder, 128), components.vae(folder, dtype), size=32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, steps=2):
    eps = noise(0, [0], (4, 4, 4)).to(next(pipe.transformer.parameters()).dtype)
    same = {"num_inference_steps": steps, "guidance_scale": 5.0, "use_resolution_binning": False, "output_type": "pt"}
    return pipe("a red cube", latents=eps, height=32, width=32, **same).images.float()


# ---- one by one ----------------------------------------------------------------------------------------------


def test_parts_put_together_draw_what_the_whole_draws(stored):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXTransformer2DModel

    made, folder = stored
    pipe = by_hand(folder, "fp32")
    assert type(pipe) is PRXPipeline and type(pipe.transformer) is PRXTransformer2DModel and type(pipe.vae) is AutoencoderKL
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler and pipe.config.default_sample_size == 32
    assert torch.equal(draw(pipe), draw(made))
    assert torch.equal(draw(components.pipeline(folder, "fp32", "fp32", "fp32")), draw(made))


def test_bf16_is_stored_and_computed(stored):
    _, folder = stored
    pipe = components.place(by_hand(folder, "bf16"))
    for part in (pipe.transformer, pipe.text_encoder, pipe.vae):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    assert 0 < (draw(pipe) - draw(by_hand(folder, "fp32"))).abs().mean() < 0.05


def test_a_part_is_found_in_its_own_folder_too(stored, tmp_path):
    _, folder = stored
    assert components.transformer(folder / "transformer", "fp32").config.hidden_size == standin.WIDTH
    moved = shutil.copytree(folder / "vae", tmp_path / "elsewhere")
    assert components.vae(moved).config.latent_channels == standin.CHANNELS


def test_the_encoder_of_a_whole_t5gemma_is_the_same(stored, tmp_path):
    """The documentation loads the whole model and keeps its encoder; a pipeline holds the encoder alone."""
    from transformers import T5GemmaForConditionalGeneration

    from prx_lab.pretrain.text import encoder_config

    made, folder = stored
    whole = T5GemmaForConditionalGeneration(encoder_config())
    whole.model.encoder.load_state_dict(made.text_encoder.state_dict())
    whole.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 7, 9, 1]])
    found = [components.text_encoder(at, "fp32")(input_ids=ids).last_hidden_state for at in (tmp_path, folder)]
    assert torch.equal(*found)


def test_an_encoder_saved_by_its_own_class_has_its_own_sizes(stored, tmp_path):
    """As diffusers' converter writes it: the configuration is the encoder's alone, and nothing of the whole model's."""
    made, folder = stored
    made.text_encoder.save_pretrained(tmp_path, max_shard_size="100KB")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "t5_gemma_module"
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.tensor([[2, 7, 9, 1]])
    found = [components.text_encoder(at, "fp32")(input_ids=ids).last_hidden_state for at in (tmp_path, folder)]
    assert torch.equal(*found)


def test_the_tokenizer_is_cut_at_the_published_length(stored):
    _, folder = stored
    assert components.tokenizer(folder).model_max_length == 256
    short = components.tokenizer(folder, 8)
    assert len(short("a red cube left of a blue sphere on a wooden floor", padding="max_length", truncation=True)["input_ids"]) == 8


def test_names_are_downloaded_part_by_part(stored, tmp_path, monkeypatch):
    import hub

    _, folder = stored
    with hub.serve({"Photoroom/prx-512-t2i": folder}, tmp_path, monkeypatch) as asked:
        assert components.scheduler("prx-512-t2i").config.shift == 3.0
        assert not any("safetensors" in path for path in asked), "only the scheduler's configuration"
        assert components.vae("Photoroom/prx-512-t2i").config.latent_channels == standin.CHANNELS
        assert sum(".safetensors" in path and "/vae/" not in path for path in asked) == 0


# ---- refusals ------------------------------------------------------------------------------------------------


@NO_CUDA
def test_eight_bits_need_a_gpu(stored):
    _, folder = stored
    for load in (components.transformer, components.text_encoder):
        with pytest.raises(LabError, match="in 8 bits needs a CUDA GPU, and there is none here"):
            load(folder, "8-bit")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_eight_bits_need_bitsandbytes(stored, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(LabError, match="needs bitsandbytes 0.48 or later, and it is not installed: `pip install 'bitsandbytes>=0.48'`"):
        components.transformer(stored[1], "8-bit")


@pytest.mark.parametrize("found, enough", [("0.47.0", False), ("0.48.0", True), ("0.100.1", True), ("0.48.0.dev0", False)])
def test_versions_are_compared_as_versions(found, enough, tmp_path, monkeypatch):
    """Of a distribution that is really there, though it holds nothing but its name and version."""
    (tmp_path / "prx_test_thing.dist-info").mkdir()
    (tmp_path / "prx_test_thing.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: prx-test-thing\nVersion: {found}\n")
    monkeypatch.syspath_prepend(tmp_path)
    if enough:
        return components.require("prx-test-thing", "0.48", "The transformer in 8 bits")
    with pytest.raises(LabError, match=f"in 8 bits needs prx-test-thing 0.48 or later, and {found} is installed: `pip install"):
        components.require("prx-test-thing", "0.48", "The transformer in 8 bits")


def test_diffusers_asks_for_no_later_versions():
    """What is required is what the installed diffusers compares with, or more."""
    import inspect

    from diffusers.pipelines import pipeline_utils
    from packaging.version import Version

    source = inspect.getsource(pipeline_utils.DiffusionPipeline)
    for library, lowest in components.BITS8_NEEDS.items():
        compared = re.findall(rf'is_{library}_version\("<", "([^"]+)"\)', source)
        assert compared and max(map(Version, compared)) <= Version(lowest)


@NO_GPU
def test_offload_needs_an_accelerator(stored):
    for offload in ("model", "sequential"):
        with pytest.raises(LabError, match="moves weights to a GPU"):
            components.place(stored[0], offload)
        with pytest.raises(LabError, match="moves weights to a GPU"):
            components.pipeline("nothing/is-loaded", offload=offload)


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda f: components.vae(f, "8-bit"), "mostly convolutions"),
        (lambda f: components.transformer(f, "fp8"), "use one of fp32, bf16, 8-bit"),
        (lambda f: components.pipeline(f, offload="disk"), "use one of none, model, sequential"),
        (lambda f: components.vae(f / "transformer"), "holds a PRXTransformer2DModel"),
        (lambda f: components.transformer(f / "tokenizer"), "The transformer in"),
    ],
)
def test_what_cannot_be_loaded_is_refused(stored, act, said):
    with pytest.raises(LabError, match=said) as error:
        act(stored[1])
    assert "\n" not in str(error.value)


def test_a_part_that_is_cut_short_is_refused(stored, tmp_path):
    cut = shutil.copytree(stored[1], tmp_path / "cut")
    for part, load in (("text_encoder", components.text_encoder), ("vae", components.vae)):
        (file,) = (cut / part).glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-50])
        with pytest.raises(LabError, match=f"The {part.replace('_', ' ')} in .* cannot be loaded"):
            load(cut)


def test_a_gated_repository_is_told_apart_from_no_network(tmp_path, monkeypatch):
    import hub

    gated = "google/t5gemma-2b-2b-ul2"
    with hub.serve({}, tmp_path, monkeypatch, {gated: hub.GATED}), pytest.raises(LabError, match=f"{gated} is gated: accept"):
        components.tokenizer("t5gemma-2b")


def test_parts_of_different_models_are_refused(stored):
    made, _ = stored
    rest = made.scheduler, made.text_encoder, made.tokenizer
    with pytest.raises(LabError, match="denoises 8 channels, the autoencoder has 4"):
        components.assemble(standin.transformer(channels=8), *rest, made.vae)
    with pytest.raises(LabError, match="reads text features of width 48"):
        components.assemble(standin.transformer(context=48), *rest, made.vae)


def test_an_unknown_name_without_a_hub_is_refused(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LabError, match="mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers is not, or not wholly, in the hub's local cache"):
        components.vae("dc-ae")


# ---- memory --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["flux", "dc-ae"])
def traced(request):
    return request.param, memory.parts(request.param, 256, 1, "bf16")


def test_counts_are_those_of_the_published_parts(traced):
    space, parts = traced
    counts = {part.name: part.weights.all for part in parts}
    D, inner, layers, vocabulary, queries, keys = 2304, 9216, 26, 256_000, 8 * 256, 4 * 256
    layer = D * (queries + 2 * keys) + queries * D + 3 * D * inner + 4 * D  # attention, GEGLU, four norms
    assert counts["text encoder"] == vocabulary * D + layers * layer + D
    assert counts["transformer"] == {"flux": 1_170_691_648, "dc-ae": 1_170_576_928}[space]
    assert counts["autoencoder"] / 1e6 == pytest.approx({"flux": 83.8, "dc-ae": 312.3}[space], abs=0.1)


def test_bytes_follow_from_the_counts(traced):
    space, (text, network, vae) = traced
    assert text.weights.bytes("fp32") == 4 * text.weights.all == 2 * text.weights.bytes("bf16")
    assert text.weights.bytes("8-bit") == text.weights.bytes("bf16") - text.weights.linear + 4 * text.weights.rows
    assert network.weights.linear > 0.99 * network.weights.all and vae.weights.linear < 0.3 * vae.weights.all
    assert text.largest("8-bit") == text.largest("bf16") == 2 * 256_000 * 2304, "the embedding, which is not quantised"
    peaks = {(d, o): memory.resident(space, 256, 1, d, o) for d in ("bf16", "8-bit") for o in ("none", "model", "sequential")}
    for dtype in ("bf16", "8-bit"):
        assert peaks[dtype, "sequential"] < peaks[dtype, "model"] < peaks[dtype, "none"]
    assert peaks["8-bit", "none"] < peaks["bf16", "none"] and peaks["8-bit", "model"] < peaks["bf16", "model"]
    whole = sum(p.weights.bytes("bf16") for p in (text, network, vae))
    assert 0 < peaks["bf16", "none"] - whole < 0.1 * whole
    assert peaks["bf16", "model"] - text.weights.bytes("bf16") == text.activations, "the text encoder is the largest part"


def test_activations_grow_with_the_image(traced):
    space, (text, network, vae) = traced
    larger = memory.parts(space, 512, 1, "bf16")
    assert larger[0].activations == text.activations
    assert 2 < larger[1].activations / network.activations < 6
    assert larger[2].activations / vae.activations == pytest.approx(4, rel=0.1)


def test_the_layers_of_a_real_network_are_all_weighed():
    network = standin.transformer()
    layers = memory.weigh(network)
    assert memory.total(layers).all == sum(p.numel() for p in network.parameters())
    square = torch.nn.Linear(6, 4)
    assert memory.weigh(square) == (memory.Weights(28, 24, 4),)
    assert memory.Weights(28, 24, 4).bytes("8-bit") == 24 + 4 * 4 + 4 * 2  # bytes, scales, bias


def test_the_table_says_that_it_is_computed(traced):
    space, _ = traced
    shown = memory.table(next(v for v in VARIANTS.values() if v.space == space), 256)
    assert "Computed, not measured" in repr(shown) and "1,170," in shown._repr_html_()
    assert len({row[0] for row in shown.rows}) == len(shown.rows) == 9
    with_default = memory.table(variant("prx-256-t2i"))
    assert "256 x 256" in with_default.notes[0]


@NO_CUDA
def test_nothing_is_measured_without_a_gpu(stored):
    with pytest.raises(LabError, match="only be measured on one"):
        memory.measured(stored[0], 32)
