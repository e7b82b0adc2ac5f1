"""Cleaning of captions and the number of their tokens: the published pipeline's own, and the same in data, evaluation and sampling."""

import sys
import warnings

import pytest
import torch
from diffusers import PRXPipeline
from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CPU, TINY

from prx_lab import cleaning
from prx_lab.cleaning import HOW, clean
from prx_lab.data.store import text_of
from prx_lab.errors import LabError
from prx_lab.evaluate import bench
from prx_lab.pretrain.corpus import train_tokenizer
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE
from prx_lab.run import store_of
from prx_lab.sample import Sampler
from prx_lab.text import T5GemmaText, load_text, reader
from prx_lab.train import Training

SMALL = BASE.but(scale=TINY)
LONG = "a small matte blue cone is to the left of a large glossy green torus and behind a small red cube."


class Captions:
    """A source of captions alone."""

    name = "captions"

    def __init__(self, *captions: str):
        self.all = captions

    def captions(self, index, kind="long"):
        return [self.all[i] for i in index]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path))
    return tmp_path


def encoded(recipe, *captions):
    return text_of(Captions(*captions), len(captions), "long", reader(recipe), CPU)


# ---- what cleaning does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, light, full",
    [
        ("A Red Cube", "A Red Cube", "a red cube"),
        ("  two\tspheres \n", "two\tspheres", "two spheres"),
        ("cafÃ© noir", "café noir", "cafã noir"),  # the case is lowered before the encoding could be mended
        ("salt &amp;amp; pepper", "salt & pepper", "salt ;amp; pepper"),
        ("a cube, see https://example.com/a?b=1", "a cube, see https://example.com/a?b=1", "a cube, see ?b=1"),
        ("红色 cube", "红色 cube", "cube"),
        ("红色的立方体", "红色的立方体", ""),
        ("photo_01.jpg", "photo_01.jpg", ""),
        ("room 1234567 of 42", "room 1234567 of 42", "room of 42"),
        ("a_b_c_d_e", "a_b_c_d_e", "a b c d e"),
    ],
)
def test_what_each_way_keeps(raw, light, full):
    assert clean(raw, "none") == raw
    assert clean(raw, "light") == light
    assert clean(raw, "full") == full


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_it_is_what_the_pipeline_does(text):
    pipeline = TextPreprocessor()
    assert clean(text, "light") == pipeline.basic_clean(text)
    assert clean(text, "full") == pipeline.clean_text(text)


def test_every_caption_of_the_embedded_world_is_understood_alike():
    """Its captions are plain English: light cleaning leaves them as they are, full cleaning lowers the case at most."""
    from prx_lab.data.scenes import Scenes

    for kind in ("long", "short"):
        for caption in Scenes("full", "render", 64).captions(range(64), kind):
            assert clean(caption, "light") == caption and clean(caption, "full") == caption.lower()


def test_an_unknown_way_is_refused():
    with pytest.raises(LabError, match="no cleaning 'ful'. Did you mean 'full'"):
        clean("a cube", "ful")


@pytest.mark.parametrize("how", ["light", "full"])
def test_without_the_package_one_sentence_says_what_to_install(how, monkeypatch):
    cleaning.fixer.cache_clear()
    cleaning.full.cache_clear()
    monkeypatch.setitem(sys.modules, "ftfy", None)  # as where it is not installed
    with pytest.raises(LabError, match="pip install ftfy"):
        clean("a cube", how)
    assert clean("a cube", "none") == "a cube"
    cleaning.fixer.cache_clear()


# ---- as a field of a recipe -----------------------------------------------------------------------------------------


def test_a_recipe_that_does_not_ask_is_the_recipe_it_was():
    assert BASE.cleaning == "none" and BASE.text_tokens == 0
    data = {k: v for k, v in BASE.to_json().items() if k not in ("cleaning", "text_tokens")}
    assert Recipe.from_json(data) == BASE and Recipe.from_json(data).id == BASE.id
    assert len({BASE.id, BASE.but(cleaning="light").id, BASE.but(cleaning="full").id, BASE.but(text_tokens=32).id}) == 4
    assert reader(BASE) is load_text(BASE.text)


def test_values_that_cannot_work_are_refused():
    with pytest.raises(LabError, match="cleaning is 'heavy'; use one of none, light, full"):
        BASE.but(cleaning="heavy")
    with pytest.raises(LabError, match="text_tokens is -1; use a positive number"):
        BASE.but(text_tokens=-1)
    with pytest.raises(LabError, match="text_tokens is 129, but 'lab-t5' reads at most 128 tokens"):
        reader(BASE.but(text_tokens=129))
    with pytest.raises(LabError, match="A phase changes cleaning"):
        BASE.then(0.5, BASE.but(cleaning="full"))
    assert set(HOW) == {"none", "light", "full"}


# ---- in the data ----------------------------------------------------------------------------------------------------


def test_data_are_encoded_as_cleaned():
    dirty, plain = ("A RED Cube", "a  blue\tcone &amp; no more"), ("a red cube", "a blue cone ; no more")
    assert [clean(d, "full") for d in dirty] == list(plain)
    a, b = encoded(SMALL.but(cleaning="full"), *dirty), encoded(SMALL, *plain)
    assert (a["tokens"] == b["tokens"]).all() and (a["mask"] == b["mask"]).all()
    c = encoded(SMALL, *dirty)
    assert c["tokens"].shape != a["tokens"].shape or (c["tokens"] != a["tokens"]).any()


def test_the_cache_follows_what_is_read(own_cache):
    def kept():
        return len(list(own_cache.glob("text-*/tokens.npy")))

    encoded(SMALL, "a red cube")
    encoded(SMALL.but(cleaning="light"), "a red cube")
    encoded(SMALL.but(cleaning="full"), "A Red Cube")
    assert kept() == 1, "the encoder reads the same"
    encoded(SMALL, "A Red Cube")
    assert kept() == 2
    encoded(SMALL.but(text_tokens=64), "A Red Cube")
    assert kept() == 3, "another number of places is another encoding"


def test_captions_are_cut_at_the_number_and_told_of_once():
    recipe = SMALL.but(text_tokens=8)
    with pytest.warns(UserWarning, match="2 of 4 captions have more than 8 tokens .* text_tokens sets the number") as seen:
        text = encoded(recipe, LONG, "a red cube", LONG + " and so on")
    assert len(seen) == 1
    assert text["tokens"].shape[:2] == text["mask"].shape == (4, 8) and text["mask"][0].all() and not text["mask"][1].all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = encoded(recipe, LONG, "a red cube", LONG + " and so on")  # from the cache
        encoded(SMALL, LONG, "a red cube")  # nothing is cut
    assert (again["tokens"] == text["tokens"]).all()


def test_the_first_words_are_kept():
    """Of a long caption the encoder reads the first words and the end mark; nothing is read of the rest."""
    few = reader(SMALL.but(text_tokens=8))
    a, b = few.encode([LONG])[0], few.encode([LONG + " and a large yellow sphere."])[0]
    assert torch.equal(a, b) and not torch.equal(a, few.encode(["a large" + LONG[7:]])[0])
    ids = [few.tokenizer(LONG)["input_ids"], few.tokenizer(LONG, truncation=True, max_length=8)["input_ids"]]
    assert len(ids[0]) > 8 == len(ids[1]) and few.lengths([LONG]) == [len(ids[0])]


def test_captions_that_cleaning_empties_are_counted():
    with pytest.warns(UserWarning, match="Cleaning leaves nothing of 2 of 4 captions, such as '红色的立方体'.*cleaning is 'full'"):
        encoded(SMALL.but(cleaning="full"), "红色的立方体", "a cube", "photo_01.jpg")


# ---- the same in training, evaluation and sampling ------------------------------------------------------------------


def test_all_three_read_alike():
    recipe = SMALL.but(cleaning="full", text_tokens=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the world's captions are longer
        stored, judge = store_of(recipe, CPU), bench(recipe, CPU, "train", n=4)
        sampler = Training(recipe, stored, 0, CPU).sampler()
        caption = judge.source.captions([0])[0]
        prompts = sampler.text([caption.upper(), caption])
    assert stored.text["mask"].shape[1] == judge.text["mask"].shape[1] == prompts.mask.shape[1] == 6
    seen = torch.tensor(judge.text["tokens"][0]).float()
    for tokens in prompts.tokens:
        torch.testing.assert_close(tokens, seen, atol=2e-2, rtol=1e-2)  # data are stored in float16
    assert torch.equal(prompts.tokens[0], prompts.tokens[1])


def test_a_prompt_that_is_lost_is_named(tmp_path):
    recipe = SMALL.but(cleaning="full", space="pixels")
    sampler = Training(recipe, store_of(recipe, CPU), 0, CPU).sampler()
    with pytest.warns(UserWarning, match="nothing of 1 of 2 captions, such as '红色的立方体'.*'light' or 'none' keeps them"):
        images = sampler(["红色的立方体", "a red cube"], steps=1)
        text = sampler.text(["红色的立方体", "a red cube"])
    assert images.shape == (2, 3, 32, 32)
    assert torch.equal(text.tokens[0], text.null[0]), "what is left is the empty caption"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sampler(recipe.but(cleaning="light"), sampler.model, sampler.mean).text(["红色的立方体", ""])


# ---- the published pipeline -----------------------------------------------------------------------------------------


def small_t5gemma(window: int) -> T5GemmaText:
    """A random T5Gemma encoder whose layers attend within a window and everywhere by turns, as the published one's do."""
    from transformers import T5GemmaConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"vocab_size": 512, "head_dim": 16, "sliding_window": window, "max_position_embeddings": 512}
    config = T5GemmaConfig(encoder=sizes, decoder=sizes).encoder
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    return T5GemmaText("small", T5GemmaEncoder(config).eval(), train_tokenizer([LONG, "a red cube"]), 64)


@pytest.mark.parametrize("window", [4096, 6])
@pytest.mark.parametrize("cleaning", ["light", "full"])
def test_features_are_those_of_the_pipeline(window, cleaning):
    """Its tokenizer pads left and to a fixed number, ours right and to the longest: words have the same features, up to rounding."""
    ours = small_t5gemma(window).reading(cleaning, 48)
    captions = ["A red  CUBE &amp; more", "", LONG]
    tokens, mask = ours.encode(captions)
    ours.tokenizer.padding_side = "left"
    pipeline = PRXPipeline(transformer=None, scheduler=None, text_encoder=ours.network, tokenizer=ours.tokenizer, vae=None)
    options = {"tokenizer_max_length": 48, "skip_text_cleaning": cleaning == "light", "do_classifier_free_guidance": False}
    with torch.no_grad():
        theirs, kept, _, _ = pipeline.encode_prompt(captions, CPU, **options)
    ours.tokenizer.padding_side = "right"
    assert kept.dtype == mask.dtype == torch.bool and torch.equal(kept.sum(1), mask.sum(1)) and kept.shape == mask.shape
    assert not kept[0, 0] and mask[0, 0], "padded on opposite sides"
    for i in range(len(captions)):
        torch.testing.assert_close(tokens[i][mask[i]], theirs[i][kept[i]], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["encoder", "pipeline"])
def test_an_encoder_saved_alone_or_inside_a_pipeline_is_read(tmp_path, kind):
    made = small_t5gemma(4096)
    folder = tmp_path / "text_encoder" if kind == "pipeline" else tmp_path
    made.network.save_pretrained(folder)
    made.tokenizer.save_pretrained(tmp_path / "tokenizer" if kind == "pipeline" else tmp_path)
    read = load_text(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(made.encode([LONG])[0], read.encode([LONG])[0][:, :64]))
    assert read.network.config.max_position_embeddings == 512 and read.reading("none", 400).length == 400
