"""The published variants as data, and samplers read from a folder against diffusers' own pipeline."""

import json
import shutil
from dataclasses import FrozenInstanceError

import pytest
import standin
import torch

from prx_lab import cli, variants
from prx_lab.cards import recipe_html
from prx_lab.errors import LabError
from prx_lab.flow import noise, scheduler_times, times
from prx_lab.model import PUBLISHED
from prx_lab.recipe import Recipe
from prx_lab.sample import CFG
from prx_lab.variants import VARIANTS, variant

PROMPTS = ["A red CUBE left of a blue sphere!", "a portrait of a lion"]


@pytest.fixture(scope="module", params=["kl", "dc"])
def stored(request, tmp_path_factory):
    """A pipeline in memory and the folder it was saved to."""
    made = standin.pipeline(request.param)
    return made, standin.save(made, tmp_path_factory.mktemp(request.param))


# ---- data ----------------------------------------------------------------------------------------------------


def test_every_released_checkpoint_is_there():
    """Eight of the documentation's table, and the beta."""
    parts = {"prx-256-t2i": ("", "-sft"), "prx-512-t2i": ("", "-sft", "-sft-distilled"), "prx-1024-t2i": ("-beta",)}
    parts["prx-512-t2i-dc-ae"] = parts["prx-512-t2i"]
    assert {v.repo for v in VARIANTS.values()} == {f"Photoroom/{name}{end}" for name, ends in parts.items() for end in ends}
    for v in VARIANTS.values():
        assert v.tuned == ("sft" in v.name or "beta" in v.name) and bool(v.parent) == ("distilled" in v.name)
        assert (v.space == "dc-ae") == ("dc-ae" in v.name)
        assert (v.steps, v.cfg) == ((8, 1.0) if v.parent else (28, 5.0)) and v.dtype == "bf16"


def test_doubts_are_kept_beside_the_documented_value():
    assert variant("prx-256-t2i-sft").size == 512 and "256" in variant("prx-256-t2i-sft").note
    loop = variant("prx-512-t2i-dc-ae-sft-distilled")
    assert loop.parent == loop.name and "itself" in loop.note
    undoubted = [v for v in VARIANTS.values() if not v.note]
    assert all(str(v.size) in v.name for v in undoubted) and all(v.parent in {"", *VARIANTS} - {v.name} for v in undoubted)
    with pytest.raises(FrozenInstanceError):
        loop.steps = 28


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_recipe(name):
    v = variant(name)
    r = v.recipe
    channels, stride = {"flux": (16, 8), "dc-ae": (32, 32)}[v.space]
    assert r.arch(channels, stride, 2304) == PUBLISHED["prx-1.2b-dc-ae" if v.space == "dc-ae" else "prx-1.2b"]
    assert (r.scale.size, r.space, r.text, r.cleaning, r.text_tokens) == (v.size, v.space, "t5gemma-2b", "full", 256)
    assert (r.guidance, r.eval_steps, r.shift, r.init) == (CFG(v.cfg), v.steps, 3.0, f"Photoroom/{name}")
    assert Recipe.from_json(json.loads(json.dumps(r.to_json()))) == r and name in recipe_html(r)
    assert variant(v.repo) is v


def test_an_unknown_variant_is_refused():
    with pytest.raises(LabError, match="Did you mean 'prx-512-t2i-sft'"):
        variant("Photoroom/prx-512-t2i-stf")


def test_the_table_shows_every_variant_and_doubt(capsys):
    shown = variants.table()
    text, html = repr(shown), shown._repr_html_()
    for v in VARIANTS.values():
        assert v.name in text and v.name in html and v.note in text and v.note in html
    assert "overflow-x:auto" in html, "it scrolls on a phone"
    assert "color:#000" not in html and "background" not in html, "it reads on a dark page"
    widths = {len(line) for line in text.splitlines()[:2]}
    assert len(widths) == 1 and cli.call(["variants"]) == 0
    assert capsys.readouterr().out.strip() == text


# ---- samplers ------------------------------------------------------------------------------------------------


def test_a_folder_is_sampled_as_diffusers_samples_it(stored):
    """From the same noise, prompt by prompt: the pipeline itself fails on two prompts with guidance."""
    pipe, folder = stored
    sampler = variants.sampler(folder, dtype="fp32")
    for guidance in (5.0, 1.0):
        ours = sampler(PROMPTS, seed=3, steps=4, guidance=CFG(guidance)) / 2 + 0.5
        eps = noise(3, [0, 1], sampler.latent(None))
        same = {"num_inference_steps": 4, "guidance_scale": guidance, "use_resolution_binning": False, "output_type": "pt"}
        theirs = torch.cat([pipe(p, latents=eps[i : i + 1], height=32, width=32, **same).images for i, p in enumerate(PROMPTS)])
        assert theirs.std() > 0.05, "a picture, not a constant"
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    other = sampler(PROMPTS, seed=3, steps=4, guidance=CFG(1.0), grid=times) / 2 + 0.5
    assert (other - theirs).abs().max() > 1e-3, "the grid matters"


def test_the_folder_tells_its_settings(stored):
    _, folder = stored
    recipe = variants.sampler(folder).recipe
    assert (recipe.shift, recipe.scale.size, recipe.scale.depth, recipe.cleaning) == (3.0, 32, 2, "full")
    assert (recipe.eval_steps, recipe.guidance) == (28, CFG(5.0)), "as suggested where the folder bears no variant's name"
    assert variants.sampler(folder).grid is scheduler_times


def test_a_folder_named_after_a_variant_has_its_suggestions(tmp_path):
    folder = standin.save(standin.pipeline("kl"), tmp_path / "prx-512-t2i-sft-distilled")
    recipe = variants.sampler(folder).recipe
    assert (recipe.eval_steps, recipe.guidance) == (8, CFG(1.0))


def test_bf16_is_near_and_stored_so(stored):
    _, folder = stored
    half, full = variants.sampler(folder), variants.sampler(folder, dtype="fp32")
    for part in ("model", "encoder", "space"):
        assert {p.dtype for p in getattr(half, part).parameters()} == {torch.bfloat16}, part
        assert {p.dtype for p in getattr(full, part).parameters()} == {torch.float32}, "what is cached is not changed"
    a, b = half(PROMPTS, steps=2), full(PROMPTS, steps=2)
    assert 0 < (a - b).abs().mean() < 0.05
    with pytest.raises(LabError, match="use one of fp32, bf16"):
        variants.sampler(folder, dtype="fp16")


def test_in_bf16_the_words_are_read_as_the_pipeline_reads_them(stored):
    """Against transformers' own loader: the network is made in bf16, not rounded afterwards, and a float32 one stays what it is."""
    from prx_lab import components

    _, folder = stored
    ids = torch.tensor([[2, 7, 9, 1, 3]])
    for dtype in ("bf16", "fp32"):
        ours, theirs = variants.sampler(folder, dtype=dtype).encoder.network, components.text_encoder(folder, dtype)
        assert torch.equal(*(network(input_ids=ids).last_hidden_state for network in (ours, theirs)))


def test_a_text_encoder_s_configuration_may_be_flat_or_nested(stored, tmp_path):
    from prx_lab import components

    made, folder = stored
    flat = standin.save(made, tmp_path / "flat", nested=False)
    kinds = [json.loads((at / "text_encoder" / "config.json").read_text())["model_type"] for at in (folder, flat)]
    assert kinds == ["t5gemma", "t5_gemma_module"]
    tokens = [variants.sampler(at, dtype="fp32").text(PROMPTS).tokens for at in (folder, flat)]
    assert torch.equal(*tokens) and tokens[0].std() > 0
    weights = [components.text_encoder(at, "fp32").state_dict() for at in (folder, flat)]
    assert weights[0].keys() == weights[1].keys() and all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_cleaning_can_be_switched_off(stored):
    _, folder = stored
    plain, full = variants.sampler(folder, cleaning="none", dtype="fp32"), variants.sampler(folder, dtype="fp32")
    prompt = ["a #red* [cube]"]
    assert not torch.equal(plain(prompt, steps=1), full(prompt, steps=1))
    assert torch.equal(plain(["a red cube"], steps=1), full(["a red cube"], steps=1))


@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda f: (f / "model_index.json").unlink(), "is missing: give a folder that holds a whole pipeline"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "holds a FluxPipeline"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").write_text("{"), "cannot be read"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path, stored, break_it, said):
    _, folder = stored
    broken = shutil.copytree(folder, tmp_path / "broken")
    break_it(broken)
    with pytest.raises(LabError, match=said):
        variants.sampler(broken)


def test_a_name_is_downloaded_and_sampled(stored, tmp_path, monkeypatch):
    import hub

    _, folder = stored
    with hub.serve({"Photoroom/prx-512-t2i-sft": folder}, tmp_path, monkeypatch):
        for name in ("prx-512-t2i-sft", "Photoroom/prx-512-t2i-sft"):
            downloaded = variants.sampler(name, dtype="fp32")
            assert torch.equal(downloaded(PROMPTS, steps=2), variants.sampler(folder, dtype="fp32")(PROMPTS, steps=2))
        with pytest.raises(LabError, match="the hub has no public repository Photoroom/prx-512-t2i"):
            variants.sampler("prx-512-t2i")


def test_without_a_hub_a_name_is_one_sentence(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LabError, match="Photoroom/prx-512-t2i is not, or not wholly, in the hub's local cache"):
        variants.sampler("prx-512-t2i")


# ---- command line --------------------------------------------------------------------------------------------


def test_the_command_draws_from_a_folder(stored, tmp_path, capsys):
    from PIL import Image

    _, folder = stored
    words = ["sample", str(folder), "a red cube", "--steps", "2", "--out", str(tmp_path / "out.png")]
    assert cli.call([*words, "--size", "32x48"]) == 0 and "1 image." in capsys.readouterr().out
    assert Image.open(tmp_path / "out.png").size == (48, 32)


def test_the_command_writes_over_nothing_that_it_was_not_named(stored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert cli.call(["sample", str(stored[1]), "a red cube", "--steps", "1"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["samples.png:", "samples-2.png:", "samples-3.png:"]
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    "words, said",
    [
        (["sample", "prx-512-t2i-stf", "a cube"], "Did you mean 'prx-512-t2i-sft'?"),
        (["sample", "prx-512-t2i", "a cube", "--scale", "cpu"], "has its own settings"),
        (["sample", "no/such/folder", "a cube"], "There is no folder no/such/folder"),
        (["sample", "./prx-512-t2i", "a cube"], "There is no folder ./prx-512-t2i"),
    ],
)
def test_bad_names_are_one_sentence(words, said, capsys):
    assert cli.call(words) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_cleaning_is_an_option(stored, tmp_path, capsys):
    from PIL import Image

    def drawn(prompt: str, *words: str) -> bytes:
        out = tmp_path / "out.png"
        assert cli.call(["sample", str(stored[1]), prompt, "--steps", "1", "--out", str(out), *words]) == 0
        return Image.open(out).tobytes()

    assert drawn("a red cube") == drawn("a #red* [cube]") == drawn("a #red* [cube]", "--cleaning", "full")
    assert drawn("a #red* [cube]", "--cleaning", "none") != drawn("a red cube") == drawn("a red cube", "--cleaning", "none")
    capsys.readouterr()
    assert cli.call(["sample", str(stored[1]), "a cube", "--cleaning", "some"]) == 2
    assert "full" in capsys.readouterr().err


def test_a_size_is_height_by_width(stored, capsys):
    for text in ("32", "32x", "x32", "32xa", "-32x32"):
        assert cli.call(["sample", str(stored[1]), "a cube", "--size", text]) == 2
        assert "such as 384x672" in capsys.readouterr().err
