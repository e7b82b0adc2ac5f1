"""Composition: matching by agreement, counts, relations, extras, chance level and intervals."""

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from prx_lab.errors import LabError
from prx_lab.metrics.composition import ATTRIBUTES, NAMES, Composition, Detection, holds, match, score

SHAPES, COLOURS = ("sphere", "cube", "cone"), ("red", "green", "blue", "gray")
SIZES, MATERIALS = ("small", "large"), ("matte", "glossy")


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    material: str


@dataclass(frozen=True)
class Told:
    objects: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def thing(text: str) -> Thing:
    return Thing(*text.split())


def seen(text: str, x: float = 0.5, y: float = 0.5) -> Detection:
    return Detection(*text.split(), x=x, y=y, score=0.9)


def random_thing(rng: np.random.Generator) -> Thing:
    return Thing(*(str(rng.choice(options)) for options in (SHAPES, COLOURS, SIZES, MATERIALS)))


def random_case(rng: np.random.Generator, most: int = 4) -> tuple[list[Detection], Told]:
    objects = tuple(random_thing(rng) for _ in range(rng.integers(1, most + 1)))
    lists = [
        Detection(**dataclasses.asdict(random_thing(rng)), x=rng.random(), y=rng.random(), score=1.0) for _ in range(rng.integers(0, 5))
    ]
    return lists, Told(objects)


RED, BLUE = "sphere red large matte", "cube blue small glossy"
BOTH = Told((thing(RED), thing(BLUE)), ((0, "left of", 1), (1, "behind", 0)))


def counts(result: Composition) -> dict[str, tuple[int, int]]:
    return {name: (int(result.hits[name].sum()), int(result.totals[name].sum())) for name in NAMES}


def test_everything_right():
    result = score([[seen(BLUE, 0.8, 0.3), seen(RED, 0.2, 0.6)]], [BOTH])
    assert all(result.accuracy(name) == 1 for name in NAMES) and result.extra[0] == 0 and result.n == 1
    assert counts(result)["composition"] == (2, 2) and counts(result)["relation"] == (2, 2)


def test_nothing_seen():
    result = score([[]], [BOTH])
    assert all(result.accuracy(name) == 0 for name in NAMES)


def test_swapped_colours_keep_the_attributes_apart_from_the_binding():
    """A blue sphere and a red cube: each attribute was drawn, but no object is right."""
    result = score([[seen("sphere blue large matte", 0.2), seen("cube red small glossy", 0.8)]], [BOTH])
    assert counts(result)["composition"] == (0, 2) and counts(result)["relation"] == (0, 2) and result.accuracy("whole") == 0
    assert counts(result)["shape"] == (2, 2) and counts(result)["colour"] == (0, 2)


def test_a_wrong_material_spares_the_object():
    result = score([[seen("sphere red large glossy", 0.2, 0.6), seen(BLUE, 0.8, 0.3)]], [BOTH])
    assert counts(result)["composition"] == (2, 2) and counts(result)["material"] == (1, 2)
    assert result.accuracy("relation") == 1 and result.accuracy("whole") == 0


def test_extra_objects_are_counted_and_do_not_cost_the_rest():
    result = score([[seen(RED, 0.2, 0.6), seen(BLUE, 0.8, 0.3), seen(BLUE, 0.9), seen("cone gray small matte")]], [BOTH])
    assert result.extra[0] == 2 and result.accuracy("composition") == 1


def test_a_detection_that_agrees_in_nothing_is_extra():
    result = score([[seen("cone gray small glossy")]], [Told((thing(RED),))])
    assert result.extra[0] == 1 and result.accuracy("shape") == 0


def test_relations():
    here, there = seen(RED, 0.2, 0.8), seen(BLUE, 0.7, 0.4)
    assert holds("left of", here, there) and holds("right of", there, here)
    assert holds("in front of", here, there) and holds("behind", there, here)
    for one, other in (("left of", "right of"), ("in front of", "behind")):
        assert not holds(other, here, there) and not holds(one, there, here)
        assert not holds(one, here, here) and not holds(other, here, here)
    close = dataclasses.replace(here, x=here.x + 0.005)
    assert not holds("left of", here, close) and not holds("right of", here, close)
    with pytest.raises(LabError, match="no relation 'above'"):
        holds("above", here, there)


def test_a_relation_needs_both_objects():
    result = score([[seen(RED, 0.2, 0.6), seen("cube green small glossy", 0.8, 0.3)]], [BOTH])
    assert counts(result)["relation"] == (0, 2)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_twins_are_told_apart_by_the_relations(order):
    told = Told((thing(RED), thing(RED), thing(BLUE)), ((0, "left of", 1), (1, "left of", 2)))
    lists = [seen(RED, 0.1), seen(RED, 0.5), seen(BLUE, 0.9)]
    result = score([[lists[i] for i in order]], [told])
    assert result.accuracy("relation") == 1 and result.accuracy("whole") == 1


def test_matching_is_the_best_of_all_assignments():
    rng = np.random.default_rng(0)
    weight = dict(zip(ATTRIBUTES, (2, 2, 1, 1)))

    def agreement(o, d):
        return sum(w for a, w in weight.items() if dataclasses.asdict(o)[a] == dataclasses.asdict(d)[a])

    for _ in range(60):
        lists, told = random_case(rng)
        padded = [*range(len(lists)), *[-1] * len(told.objects)]
        best = max(
            sum(agreement(o, lists[j]) for o, j in zip(told.objects, choice) if j >= 0)
            for choice in set(itertools.permutations(padded, len(told.objects)))
        )
        found = match(lists, told)
        used = [j for j in found if j >= 0]
        assert len(used) == len(set(used))
        assert sum(agreement(told.objects[i], lists[j]) for i, j in enumerate(found) if j >= 0) == best


def test_counts_do_not_depend_on_the_order_of_detections_or_objects():
    rng = np.random.default_rng(1)
    for _ in range(80):
        lists, told = random_case(rng)
        one = score([lists], [told])
        turned = Told(tuple(told.objects[i] for i in rng.permutation(len(told.objects))))
        other = score([[lists[i] for i in rng.permutation(len(lists))]], [turned])
        assert counts(one) == counts(other) and (one.extra == other.extra).all()


def test_order_and_duplication_of_images():
    rng = np.random.default_rng(2)
    cases = [random_case(rng) for _ in range(20)]
    lists, told = [c[0] for c in cases], [c[1] for c in cases]
    one, turned, twice = score(lists, told), score(lists[::-1], told[::-1]), score(lists * 2, told * 2)
    for name in ("composition", *ATTRIBUTES, "whole"):
        assert one.accuracy(name) == turned.accuracy(name) == twice.accuracy(name)
        assert (one.hits[name] <= one.totals[name]).all() and (one.hits[name] == turned.hits[name][::-1]).all()
    assert (one.hits["composition"] <= np.minimum(one.hits["shape"], one.hits["colour"])).all()


def test_chance_level_is_what_another_caption_gets():
    rng = np.random.default_rng(3)
    told = [Told((random_thing(rng),)) for _ in range(2000)]
    perfect = [[Detection(**dataclasses.asdict(t.objects[0]), x=0.5, y=0.5, score=1.0)] for t in told]
    result = score(perfect, told)
    assert result.accuracy("composition") == 1
    for name, chance in (("composition", 1 / 12), ("shape", 1 / 3), ("colour", 1 / 4), ("size", 1 / 2)):
        assert result.chance[name] == pytest.approx(chance, abs=0.04)
    assert result.chance["relation"] is None and score([[]], [BOTH]).chance["shape"] is None


def test_intervals_and_report():
    rng = np.random.default_rng(4)
    told = [Told((random_thing(rng),)) for _ in range(200)]
    lists = [[Detection(**dataclasses.asdict(t.objects[0]), x=0.5, y=0.5, score=1.0)] if rng.random() < 0.7 else [] for t in told]
    result = score(lists, told)
    lo, hi = result.interval("composition")
    value = result.accuracy("composition")
    assert lo < value < hi and (hi - lo) / 2 == pytest.approx(1.96 * np.sqrt(value * (1 - value) / 200), rel=0.2)
    report = result.to_dict()
    assert "relation" not in report and report["shape"] == {
        "value": value,
        "lo": pytest.approx(lo),
        "hi": pytest.approx(hi),
        "n": 200,
        "chance": result.chance["shape"],
    }
    assert score([[]], [BOTH]).interval("shape") is None  # one image: no interval, never a made-up one


def test_misfits_are_refused():
    for lists, told in (([[]], []), ([], [])):
        with pytest.raises(LabError, match="one list of detections per caption"):
            score(lists, told)
