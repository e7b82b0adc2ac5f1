"""A long caption states exactly its facts, in few plain words; a short one names the objects."""

import re

import pytest

from prx_lab.data.captions import PHRASE, RELATIONS, caption, facts
from prx_lab.data.graph import LEVELS, STYLES, view
from prx_lab.data.scenes import COLOURS, MATERIALS, SHAPES, SIZES, sample_scene
from prx_lab.errors import LabError

THING = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(MATERIALS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
NAME = rf"(?:a|the) (?:(?:{'|'.join(SIZES)}) (?:{'|'.join(MATERIALS)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
LINK = re.compile(rf"{NAME} (?:is |stands |standing )?({'|'.join(PHRASE.values())}) {NAME}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", STYLES[:2])
def test_long_captions_state_the_facts_and_nothing_else(level, style):
    for i in range(120):
        scene = sample_scene(i, 0, level, style)
        text, told = caption(scene), facts(scene)
        assert text == caption(scene) and re.fullmatch(r"[a-z ,.]+", text)
        assert sorted(THING.findall(text)) == sorted((o.size, o.material, o.colour, o.shape) for o in told.objects)
        names = [(o.colour, o.shape) for o in scene.objects]
        back = {phrase: word for word, phrase in PHRASE.items()}
        links = [(names.index(m[:2]), back[m[2]], names.index(m[3:])) for m in LINK.findall(text)]
        assert tuple(links) == told.relations and len(links) == len(scene.objects) - 1
        assert f"{scene.floor} floor" in text and scene.wall in text
        assert ("above" if scene.light == "above" else f"the {scene.light}") in text
        assert text.startswith("a photo of") == (style == "photo")


def test_relations_hold_in_the_scene():
    seen = set()
    for i in range(300):
        scene = sample_scene(i, 0, "full")
        for a, word, b in facts(scene).relations:
            p, q = scene.objects[a], scene.objects[b]
            across = view(scene).project(*p.centre)[0] - view(scene).project(*q.centre)[0]
            holds = {"left of": across < -0.1, "right of": across > 0.1, "in front of": p.z < q.z, "behind": p.z > q.z}
            assert holds[word]
            seen.add(word)
    assert seen == set(RELATIONS)


def test_lengths_and_short_captions():
    for level, low, high in (("simple", 15, 38), ("standard", 15, 75), ("full", 15, 95)):
        for i in range(200):
            scene = sample_scene(i, 0, level)
            assert low <= len(re.findall(r"[a-z]+|[,.]", caption(scene))) <= high
            short = caption(scene, "short")
            assert all(f"{o.colour} {o.shape}" in short for o in scene.objects) and "." not in short
            assert " a orange" not in short and len(short.split()) <= 20


def test_an_unknown_kind_is_refused():
    with pytest.raises(LabError, match="'long' or 'short'"):
        caption(sample_scene(0), "medium")
