"""Recipes: construction checks, differences, identity, JSON round trips, and what holds for every recipe in the table."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_lab.errors import LabError
from prx_lab.guidance import PathDrop, SelfGuidance, SparseGuidance
from prx_lab.optim import EMA, AdamW
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES, recipe
from prx_lab.routing import TREAD
from prx_lab.sample import CFG
from prx_lab.scales import SCALES
from prx_lab.spec import Spec, require_types
from prx_lab.sprint import SPRINT
from prx_lab.steps.distill import GuidanceDistillation
from prx_lab.terms import REPA, FlowMatching

DIFFERENCES = {  # the fields, and no other, in which each recipe differs from BASE
    "baseline": set(),
    # alignment
    "repa": {"terms[1]"},
    "repa-dense": {"terms[1]"},
    "irepa": {"terms[1]"},
    "irepa-dense": {"terms[1]"},
    "repa-stop": {"terms[1]", "phases[0]"},
    "haste": {"terms[1]", "terms[2]", "phases[0]"},
    "repa-light": {"terms[1]"},
    "repa-heavy": {"terms[1]"},
    "repa-early": {"terms[1]"},
    "repa-late": {"terms[1]"},
    "irepa-uncentred": {"terms[1]"},
    "irepa-release": {"terms[1]"},
    # latent spaces
    "repa-e": {"space", "terms[1]"},
    "repa-e-vae": {"space"},
    "flux2": {"space"},
    # objectives
    "x-pred": {"predict"},
    "contrastive": {"terms[1]"},
    "contrastive-roll": {"terms[1]"},
    "contrastive-corrected": {"terms[1]", "guidance"},
    "contrastive-heavy": {"terms[1]"},
    "x-lpips": {"predict", "terms[1]"},
    "x-pdino": {"predict", "terms[1]"},
    "jit": {"space", "predict", "bottleneck", "time"},
    "jit-lpips": {"space", "predict", "bottleneck", "time", "terms[1]"},
    "jit-pdino": {"space", "predict", "bottleneck", "time", "terms[1]"},
    "jit-v": {"space", "bottleneck", "time"},
    "jit-no-bottleneck": {"space", "predict", "time"},
    "jit-v-no-bottleneck": {"space", "time"},
    "jit-prx": {"space", "predict", "bottleneck", "time", "shift"},
    # routing
    "tread": {"router"},
    "tread-repa": {"router", "terms[1]"},
    "tread-repa-outside": {"router", "terms[1]"},
    "tread-self-guided": {"router", "guidance"},
    "tread-sparse": {"router", "guidance"},
    "no-guidance": {"guidance"},
    "half-guidance": {"guidance"},
    "tread-half-guidance": {"router", "guidance"},
    "tread-light": {"router"},
    "tread-short": {"router"},
    "sprint": {"router", "phases[0]"},
    "sprint-raw": {"router"},
    "sprint-path-drop": {"router", "guidance", "phases[0]"},
    "jit-tread": {"space", "predict", "bottleneck", "time", "router"},
    "jit-tread-light": {"space", "predict", "bottleneck", "time", "router"},
    "jit-tread-short": {"space", "predict", "bottleneck", "time", "router"},
    "jit-tread-sparse": {"space", "predict", "bottleneck", "time", "router", "guidance"},
    "jit-tread-half-guidance": {"space", "predict", "bottleneck", "time", "router", "guidance"},
    "jit-sprint": {"space", "predict", "bottleneck", "time", "router", "phases[0]"},
    "jit-muon": {"space", "predict", "bottleneck", "time", "optim"},
    "jit-tread-light-sparse": {"space", "predict", "bottleneck", "time", "router", "guidance"},
    "jit-tread-short-sparse": {"space", "predict", "bottleneck", "time", "router", "guidance"},
    "jit-muon-tread": {"space", "predict", "bottleneck", "time", "optim", "router"},
    "jit-muon-tread-sparse": {"space", "predict", "bottleneck", "time", "optim", "router", "guidance"},
    "jit-muon-tread-half-guidance": {"space", "predict", "bottleneck", "time", "optim", "router", "guidance"},
    "jit-muon-sprint": {"space", "predict", "bottleneck", "time", "optim", "router", "phases[0]"},
    # data
    "short-captions": {"captions"},
    "short-captions-short-prompts": {"captions", "reference"},
    "long-short-prompts": {"reference"},
    "mixed-finish": {"phases[0]"},
    "mixed-finish-short-prompts": {"phases[0]", "reference"},
    "mixed-captions": {"captions"},
    "mixed-captions-short-prompts": {"captions", "reference"},
    "camera": {"style", "reference"},
    "render-on-camera": {"reference"},
    "sft": {"phases[0]"},
    "sft-unselected": {"phases[0]"},
    "sft-on-polished": {"phases[0]", "reference"},
    "baseline-on-polished": {"reference"},
    "baseline-on-heldout": {"reference"},
    "repa-on-heldout": {"terms[1]", "reference"},
    "muon-on-heldout": {"optim", "reference"},
    "speedrun-tuned-on-heldout": {"optim", "ema", "terms[1]", "phases[0]", "reference"},
    # optimisation
    "muon": {"optim"},
    "muon-fused": {"optim"},
    "muon-low-lr": {"optim"},
    "muon-high-lr": {"optim"},
    "muon-higher-lr": {"optim"},
    "muon-highest-lr": {"optim"},
    "muon-16-lr": {"optim"},
    "low-lr": {"optim"},
    "high-lr": {"optim"},
    "higher-lr": {"optim"},
    "highest-lr": {"optim"},
    "repa-high-lr": {"optim", "terms[1]"},
    "x-pred-high-lr": {"optim", "predict"},
    "tread-high-lr": {"optim", "router"},
    "bf16": {"precision"},
    "fp32": {"precision"},
    "ema": {"ema"},
    "constant": {"schedule"},
    "constant-ema": {"schedule", "ema"},
    # stacked, and distilled
    "speedrun": {"optim", "ema", "router", "terms[1]", "phases[0]"},
    "speedrun-no-repa": {"optim", "ema", "router", "phases[0]"},
    "speedrun-no-tread": {"optim", "ema", "terms[1]", "phases[0]"},
    "speedrun-no-muon": {"ema", "router", "terms[1]", "phases[0]"},
    "speedrun-no-ema": {"optim", "router", "terms[1]", "phases[0]"},
    "speedrun-no-finish": {"optim", "ema", "router", "terms[1]"},
    "speedrun-tuned": {"optim", "ema", "terms[1]", "phases[0]"},
    "speedrun-tuned-both": {"optim", "ema", "terms[1]", "phases[0]"},
    "speedrun-tuned-no-repa": {"optim", "ema", "phases[0]"},
    "speedrun-tuned-no-muon": {"optim", "ema", "terms[1]", "phases[0]"},
    "speedrun-tuned-no-ema": {"optim", "terms[1]", "phases[0]"},
    "speedrun-tuned-no-finish": {"optim", "ema", "terms[1]"},
    "speedrun-pixels": {"space", "predict", "bottleneck", "time", "optim", "ema", "router", "phases[0]"}
    | {"terms[1]", "terms[2]", "terms[3]"},
    "distilled": {"phases[0]", "phases[1]"},
    "distilled-32": {"phases[0]", "phases[1]", "phases[2]"},
    "twenty-eight-steps": {"sampler_steps"},
    "eight-steps": {"sampler_steps"},
    "eight-steps-cfg1": {"sampler_steps", "guidance"},
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
        (dict(scale=replace(SCALES["smoke"], name="a/b")), "names the folder"),
        (dict(scale=replace(SCALES["smoke"], name="..")), "names the folder"),
        (dict(scale=replace(SCALES["smoke"], lr=-1.0)), "learning rate"),
        (dict(scale=replace(SCALES["smoke"], evals=10**6)), "evaluations"),
    ],
)
def test_contradictions_are_refused_with_a_sentence(change, word):
    with pytest.raises(LabError) as error:
        BASE.but(**change)
    assert word in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_are_equal_make_recipes_of_one_id():
    loose = BASE.but(guidance=CFG(4), clip=np.float64(0.5), shift=np.float32(2.0), sampler_steps=np.int64(8), optim=AdamW(betas=(0, 0.5)))
    strict = BASE.but(guidance=CFG(4.0), clip=0.5, shift=2.0, sampler_steps=8, optim=AdamW(betas=(0.0, 0.5)))
    assert loose == strict and loose.id == strict.id and repr(loose) == repr(strict)
    assert Recipe.from_json(json.loads(json.dumps(loose.to_json()))) == strict
    for wrong in (True, 10**400, np.nan, "1"):
        with pytest.raises(LabError, match="clip is"):
            BASE.but(clip=wrong)


def test_a_field_may_be_a_switch():
    @dataclass(frozen=True)
    class Switched(Spec):
        on: bool = False

    for value in (True, np.bool_(True)):
        require_types(Switched(value))
        assert Switched(value).on is True
    with pytest.raises(LabError, match="must be bool"):
        require_types(Switched(1))


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
    refused = [
        ("scale.stpes", "1"),
        ("scale.steps", "many"),
        ("space.name", "x"),
        ("router", "TREED"),
        ("router", "Router"),
        ("time", "Phase"),
    ]
    for path, text in refused:
        with pytest.raises(LabError):
            BASE.set(path, text)


@pytest.mark.parametrize("start, steps", [(0.9, 4), (0.1, 4), (0.9995, 600)])
def test_a_phase_without_a_step_is_refused(start, steps):
    with pytest.raises(LabError, match="one has no step; raise scale.steps"):
        BASE.but(scale=replace(BASE.scale, steps=steps, evals=1)).then(start, BASE.but(scale=replace(BASE.scale, steps=steps, evals=1)))


def test_each_change_reaches_the_phases_that_have_what_it_replaces():
    stack, router, optim = RECIPES["speedrun"], TREAD(rate=0.75), AdamW(lr_scale=2.0)
    together = stack.but(router=router, optim=optim)
    assert together == stack.but(router=router).but(optim=optim) == stack.but(optim=optim).but(router=router)
    assert [part.optim for _, part in together.plan] == [optim, optim]
    assert [part.router for _, part in together.plan] == [router, stack.last.router]  # the finish had another one


def test_guidance_acts_in_an_interval_that_exists():
    for low, high in ((0.9, 0.5), (-0.1, 1.0), (0.0, 1.5)):
        with pytest.raises(LabError, match="low <= high"):
            BASE.but(guidance=CFG(3.0, low, high))
    backwards = {"low": 0.9, "high": 0.5}
    guided = [(TREAD(), SelfGuidance(**backwards)), (TREAD(), SparseGuidance(**backwards)), (SPRINT(), PathDrop(**backwards))]
    for router, guidance in guided:
        with pytest.raises(LabError, match="low <= high"):
            BASE.but(router=router, guidance=guidance)
    with pytest.raises(LabError, match="low <= high"):
        BASE.then(0.6, BASE.but(guidance=CFG(1.0), rule=GuidanceDistillation(guidance=CFG(3.0, **backwards))))


@pytest.mark.parametrize("path, text", [("phases", "x"), ("optim.betas", "0.9,0.99"), ("time.shift", "0"), ("optim.eps", "nan")])
def test_what_cannot_be_set_from_text_is_refused(path, text):
    with pytest.raises(LabError, match=path.rpartition(".")[2]):
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
