"""Recipes: construction checks, differences, identity, JSON round trips, and what holds for every recipe in the table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_lab.errors import LabError
from prx_lab.optim import EMA, AdamW
from prx_lab.precision import Precision
from prx_lab.recipe import SCALES, Recipe
from prx_lab.recipes import BASE, RECIPES, recipe
from prx_lab.routing import TREAD
from prx_lab.terms import REPA, FlowMatching

DIFFERENCES = {  # the fields, and no other, in which each recipe differs from BASE
    "baseline": set(),
    # alignment
    "repa": {"terms[1]"},
    "repa-dense": {"terms[1]"},
    # latent spaces
    # objectives
    # routing
    # data
    # optimisation
    # stacked, and distilled
}


@pytest.mark.parametrize("name", RECIPES)
def test_narrow(name):
    changed = {path.split(".")[0] for path in RECIPES[name].diff(BASE)}
    assert changed == DIFFERENCES[name]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip_keeps_value_and_id(name, scale):
    one = recipe(name, scale)
    again = Recipe.from_json(one.to_json())
    assert again == one and again.id == one.id


def test_ids_tell_recipes_scales_and_data_apart():
    ids = [recipe(n, s).id for n in RECIPES for s in SCALES] + [BASE.but(data="photos").id]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(predit="x"), "Did you mean 'predict'"),
        (dict(predict="noise"), "v, x"),
        (dict(drop=1.0), "probability"),
        (dict(drop="much"), "must be"),
        (dict(clip=0.0), "positive"),
        (dict(shift=-1.0), "positive"),
        (dict(ema=EMA(1.0)), "[0, 1)"),
        (dict(terms=()), "no loss term"),
        (dict(terms=(REPA(),)), "FlowMatching"),
        (dict(terms=(FlowMatching(), FlowMatching())), "twice"),
        (dict(precision=Precision(store="fp8")), "fp32, bf16"),
        (dict(router=TREAD(rate=1.5)), "(0, 1]"),
        (dict(router=TREAD(rate=0.0)), "(0, 1]"),
        (dict(captions="medium"), "long, short"),
        (dict(optim="adam"), "must be"),
        (dict(scale=replace(SCALES["smoke"], heads=5)), "heads"),
        (dict(scale=replace(SCALES["smoke"], size=30)), "tokens a side"),
        (dict(scale=replace(SCALES["smoke"], steps=0)), "positive"),
        (dict(scale=replace(SCALES["smoke"], lr=-1.0)), "learning rate"),
        (dict(scale=replace(SCALES["smoke"], evals=10**6)), "evaluations"),
    ],
)
def test_contradictions_are_refused_with_a_sentence(change, word):
    with pytest.raises(LabError) as error:
        BASE.but(**change)
    assert word in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"type": "Recipee"}, {"type": "REPA", "wieght": 1.0}, {"type": "REPA"}, {}])
def test_bad_json_is_refused(bad):
    with pytest.raises(LabError):
        Recipe.from_json(bad)


def test_a_space_that_does_not_fit_the_grid_is_refused():
    with pytest.raises(LabError, match="grid"):
        BASE.arch(channels=32, stride=32, context=8)


def test_set_reads_text_as_the_type_of_the_field():
    changed = BASE.set("scale.steps", "7").set("optim.lr_scale", "0.5").set("space", "pixels").set("router", "TREAD")
    assert (changed.scale.steps, changed.optim.lr_scale, changed.space, changed.router) == (7, 0.5, "pixels", TREAD())
    for path, text in [("scale.stpes", "1"), ("scale.steps", "many"), ("space.name", "x"), ("router", "TREED")]:
        with pytest.raises(LabError):
            BASE.set(path, text)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(LabError, match="'baseline'"):
        recipe("basline")
    with pytest.raises(LabError, match="'smoke'"):
        recipe("baseline", "smok")


@given(lr=st.floats(0.01, 10), drop=st.floats(0, 0.99), weight=st.floats(0, 5), steps=st.integers(2, 10**6))
def test_diff_names_exactly_what_changed(lr, drop, weight, steps):
    changed = BASE.but(optim=AdamW(lr_scale=lr), drop=drop, scale=replace(BASE.scale, steps=steps)).plus(REPA(weight=weight))
    assert Recipe.from_json(changed.to_json()) == changed
    expected = {"terms[1]", "terms[1].weight", "terms[1].teacher", "terms[1].depth", "terms[1].hidden"}
    same = {"optim.lr_scale": lr == 1, "drop": drop == 0.1, "scale.steps": steps == BASE.scale.steps}
    expected |= {path for path, equal in same.items() if not equal}
    assert set(changed.diff(BASE)) == expected
