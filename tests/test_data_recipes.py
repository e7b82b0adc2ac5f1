"""Data interventions: mixed captions, what a short prompt may be judged on, phases with data of their own, references."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from tiny import CPU

from prx_lab import evaluate
from prx_lab.data.captions import facts
from prx_lab.data.open import open_source
from prx_lab.data.scenes import HELD_OUT, Scenes, composed
from prx_lab.data.source import kind_at
from prx_lab.errors import LabError
from prx_lab.metrics.composition import Detection, score
from prx_lab.recipe import Recipe, Reference
from prx_lab.recipes import BASE, RECIPES
from prx_lab.run import store_of
from prx_lab.scales import SCALES

SMALL = replace(SCALES["smoke"], images=64, eval_n=8)


def small(recipe: Recipe) -> Recipe:
    return recipe.but(scale=SMALL)


def stores(name: str) -> list:
    return [store_of(part, CPU) for _, part in small(RECIPES[name]).plan]


# ------------------------------------------------------------------------------------------------ mixed
def test_mixed_is_half_and_half_and_fixed_by_the_index():
    kinds = [kind_at("mixed", i) for i in range(2000)]
    assert kinds == [kind_at("mixed", i) for i in range(2000)]
    for n in (2, 10, 512, 2000):  # every even run, from the start or elsewhere
        assert kinds[:n].count("long") == n // 2 == kinds[-n:].count("short")
    firsts = kinds[::2].count("long")  # which of two neighbours is long is a fair draw
    assert 400 < firsts < 600
    assert {kind_at(kind, i) for kind in ("long", "short") for i in (0, 1)} == {"long", "short"}


def test_mixed_captions_of_scenes_are_the_long_or_the_short_one_in_any_order():
    world = Scenes("simple", "render", 100)
    texts = {kind: world.captions(range(100), kind) for kind in ("long", "short", "mixed")}
    assert texts["mixed"] == [texts[kind_at("mixed", i)][i] for i in range(100)]
    assert world.captions([7, 3, 7], "mixed") == [texts["mixed"][i] for i in (7, 3, 7)]


def test_mixed_captions_of_a_folder_use_what_is_there(tmp_path):
    from PIL import Image

    from prx_lab.data.load import load_source

    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"picture {i}")
    one = load_source(str(tmp_path), "train")
    assert one.captions(range(len(one)), "mixed") == one.captions(range(len(one)))
    for i in range(12):
        (tmp_path / f"{i}.txt").unlink()
    lines = [f'{{"file_name": "{i}.png", "caption": "a long picture {i}", "short_caption": "{i}"}}' for i in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    two = load_source(str(tmp_path), "train")
    n = len(two)
    assert two.captions(range(n), "mixed") == [two.captions([i], kind_at("mixed", i))[0] for i in range(n)]
    assert abs(sum(text.startswith("a long") for text in two.captions(range(n), "mixed")) - n / 2) <= 0.5


# ------------------------------------------------------------------------------------------------ facts
@pytest.mark.parametrize("level", ["simple", "full"])
def test_short_facts_are_part_of_the_long_ones_and_stand_in_the_caption(level):
    world = Scenes(level, "render", 60)
    for i in range(60):
        scene = world.scene(i)
        long, short = facts(scene), facts(scene, "short")
        assert short.relations == () and len(short.objects) == len(long.objects)
        text = world.captions([i], "short")[0]
        for told, whole in zip(short.objects, long.objects):
            assert all(a in ("", b) for a, b in zip(astuple(told), astuple(whole)))
            assert f"{told.colour} {told.shape}" in text and (told.size, told.material) == ("", "")
        assert facts(scene, "mixed") == facts(scene, kind_at("mixed", i))


def test_only_what_a_prompt_states_is_scored():
    world = Scenes("simple", "render", 200)
    scene = next(world.scene(i) for i in range(200) if len(world.scene(i).objects) == 2)
    other = {"small": "large", "large": "small", "matte": "glossy", "glossy": "matte"}
    seen = [Detection(o.shape, o.colour, other[o.size], other[o.material], 0.5, 0.5, 1.0) for o in scene.objects]
    report = {kind: score([seen], [facts(scene, kind)]).to_dict() for kind in ("long", "short")}
    assert set(report["short"]) == {"composition", "shape", "colour", "whole"}
    assert all(report["short"][name]["value"] == 1 for name in report["short"])
    assert {k: report["long"][k]["value"] for k in ("composition", "size", "material", "relation", "whole")} == {
        "composition": 1, "size": 0, "material": 0, "relation": 0, "whole": 0,
    }  # fmt: skip


def test_mixed_totals_count_what_each_prompt_states():
    world = Scenes("simple", "render", 40)
    told = [facts(world.scene(i), "mixed") for i in range(40)]
    result = score([[] for _ in told], told)
    for i, total in enumerate(result.totals["size"]):
        assert total == (len(world.scene(i).objects) if kind_at("mixed", i) == "long" else 0)
    assert (result.totals["shape"] == [len(world.scene(i).objects) for i in range(40)]).all()


# ------------------------------------------------------------------------------------------------ phases
def test_the_mixed_finish_changes_the_text_and_nothing_else():
    first, second = stores("mixed-finish")
    assert np.array_equal(first.images, second.images) and np.array_equal(first.x, second.x)
    for i in range(64):
        same = int(first.text["mask"][i].sum()) == int(second.text["mask"][i].sum())
        assert same == (kind_at("mixed", i) == "long")


def test_the_fine_tuning_set_is_small_and_polished():
    first, second = stores("sft")
    assert (len(first), len(second)) == (64, 1)
    whole = small(RECIPES["sft"])
    (_, one), (start, two) = whole.plan
    assert (one.style, two.style, start) == ("render", "polished", round(0.85 * SMALL.steps))
    world = Scenes(SMALL.level, "polished", 64)
    assert composed(world.scene(0)) and np.array_equal(second.images[0], world.images([0], SMALL.size)[0])


def test_a_subset_is_the_first_images():
    whole, part = (store_of(small(BASE.but(subset=share)), CPU) for share in (1.0, 0.25))
    assert len(part) == 16 and np.array_equal(part.images, whole.images[:16]) and np.array_equal(part.x, whole.x[:16])
    assert BASE.but(subset=1.0).id == BASE.id


@pytest.mark.parametrize("subset", [0.0, -0.1, 1.5])
def test_a_subset_is_a_share(subset):
    with pytest.raises(LabError, match="subset"):
        BASE.but(subset=subset)


# ------------------------------------------------------------------------------------------------ references
@pytest.mark.parametrize("ours, theirs", [
    ("camera", "render-on-camera"), ("sft-on-polished", "baseline-on-polished"), ("mixed-finish-short-prompts", "long-short-prompts"),
    ("short-captions-short-prompts", "long-short-prompts"), ("short-captions", "baseline"), ("sft", "baseline"),
])  # fmt: skip
def test_compared_recipes_share_one_reference(ours, theirs):
    assert RECIPES[ours].reference == RECIPES[theirs].reference
    home = Reference()
    assert RECIPES[theirs].but(reference=home) == BASE


def test_a_reference_decides_images_and_prompts():
    benches = {name: evaluate.bench(small(RECIPES[name]), CPU) for name in ("baseline", "camera", "render-on-camera", "long-short-prompts")}
    camera, judged, plain, short = (benches[k] for k in ("camera", "render-on-camera", "baseline", "long-short-prompts"))
    for metric in camera.reference:
        assert np.array_equal(camera.reference[metric], judged.reference[metric])
        assert not np.array_equal(camera.reference[metric], plain.reference[metric])
        assert np.array_equal(short.reference[metric], plain.reference[metric])
    assert np.array_equal(camera.text["tokens"], judged.text["tokens"])
    assert short.text["mask"].sum() < plain.text["mask"].sum()


def test_held_out_pairs_are_asked_for_and_were_never_trained_on():
    unseen = evaluate.bench(small(RECIPES["baseline-on-heldout"]), CPU, n=32)
    asked = [{(o.shape, o.colour) for o in unseen.source.scene(i).objects} for i in range(32)]
    trained = open_source(small(BASE), "train")
    assert not any((o.shape, o.colour) in HELD_OUT for i in range(len(trained)) for o in trained.scene(i).objects)
    assert all(pairs & HELD_OUT for pairs in asked) and unseen.reference.keys() == set(evaluate.FEATURES)
    assert evaluate.ceiling(unseen)["composition"]["value"] > 0.9


def test_a_part_that_the_data_has_not_is_refused():
    with pytest.raises(LabError, match="reference.split is 'test'; use one of val, heldout"):
        BASE.but(reference=Reference(split="test"))
    with pytest.raises(LabError, match="Only the embedded world has a 'heldout' part"):
        BASE.but(data="photographs", reference=Reference(split="heldout"))


def test_ceilings_follow_the_reference():
    found = {name: evaluate.ceiling(evaluate.bench(small(RECIPES[name]), CPU, n=32)) for name in ("long-short-prompts", "render-on-camera")}
    assert "size" not in found["long-short-prompts"] and found["long-short-prompts"]["composition"]["value"] > 0.95
    assert "size" in found["render-on-camera"] and found["render-on-camera"]["composition"]["value"] > 0.9  # photographs at 32 pixels
