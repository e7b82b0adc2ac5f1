"""Training from a checkpoint: it starts at exactly these weights, once, and refuses what does not fit by naming the field."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from test_interop import original, same
from tiny import CPU, TINY, store, tiny

from prx_lab import interop, run
from prx_lab.errors import LabError
from prx_lab.flow import LogitNormal
from prx_lab.model import PRX, Arch
from prx_lab.optim import EMA
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.sample import CFG
from prx_lab.start import foresee
from prx_lab.steps.distill import GuidanceDistillation
from prx_lab.train import Training

ARCH = Arch(16, 1, 12, 32, 4, 2)  # of the tiny recipe on its random data


def network(arch: Arch = ARCH) -> PRX:
    torch.manual_seed(7)
    model = PRX(arch)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return model


@pytest.fixture
def folder(tmp_path):
    """A diffusers pipeline's folder with a small random transformer."""
    interop.save(network(), tmp_path / "start")
    return tmp_path / "start"


def weights(training: Training) -> dict:
    return {k: v.clone() for k, v in training.learner.model.state_dict().items()}


def test_training_starts_at_exactly_these_weights(folder):
    recipe = tiny(RECIPES["repa"]).but(init=str(folder), ema=EMA(0.9))
    training, fresh = Training(recipe, store(), 0, CPU), Training(recipe.but(init=""), store(), 0, CPU)
    assert same(weights(training), network().state_dict()) and same(training.ema, network().state_dict())
    assert not same(weights(fresh), network().state_dict())
    assert same(training.learner.terms.state_dict(), fresh.learner.terms.state_dict())  # heads are fresh
    assert all(v.data_ptr() != training.ema[k].data_ptr() for k, v in training.learner.model.state_dict().items())
    list(training.fit(1))
    assert not same(weights(training), network().state_dict())
    assert same(PRX.from_pretrained(folder).state_dict(), network().state_dict())  # the files are only read


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.phases])
def test_any_recipe_takes_them(tmp_path, name):
    recipe, data = tiny(RECIPES[name]), store(RECIPES[name])
    arch = recipe.arch(data.shape[0], recipe.scale.size // data.shape[1], data.context)
    interop.save(network(arch), tmp_path)
    training = Training(recipe.but(init=str(tmp_path)), data, 0, CPU)
    expected = {k: v.to(training.learner.model.txt_in.weight.dtype) for k, v in network(arch).state_dict().items()}
    assert same({k: v for k, v in weights(training).items() if not k.startswith("route.")}, expected)


def test_a_run_is_a_start(tmp_path):
    first = Training(tiny(BASE).but(ema=EMA(0.5)), store(), 0, CPU)
    list(first.fit(3, tmp_path / "first"))
    second = Training(tiny(BASE).but(init=str(tmp_path / "first"), time=LogitNormal(1.0)), store(), 1, CPU)
    assert same(weights(second), first.ema) and not same(first.ema, weights(first))
    assert not second.optimizer.state and second.step_index == 0


def test_the_original_framework_s_file_is_a_start(tmp_path):
    save_file(original(network().state_dict(), "state.model.denoiser."), tmp_path / "ep0.safetensors")
    assert same(weights(Training(tiny(BASE).but(init=str(tmp_path / "ep0.safetensors")), store(), 0, CPU)), network().state_dict())


def test_stored_in_bf16_they_are_rounded_and_averaged_in_float32(folder):
    training = Training(tiny(BASE).but(init=str(folder), precision=Precision("bf16", "bf16"), ema=EMA(0.9)), store(), 0, CPU)
    rounded = {k: v.bfloat16() for k, v in network().state_dict().items()}
    assert same(weights(training), rounded) and same(training.ema, {k: v.float() for k, v in rounded.items()})


def test_a_resumed_run_does_not_read_them_again(folder, tmp_path):
    recipe, home = tiny(BASE).but(init=str(folder)), tmp_path / "run"
    whole = Training(recipe, store(), 0, CPU, folder=home)
    list(whole.fit(3, home))
    shutil.rmtree(folder)
    resumed = Training(recipe, store(), 0, CPU, folder=home)
    assert resumed.resume(home)
    list(whole.fit(5)), list(resumed.fit(5))
    assert same(weights(resumed), weights(whole))


def test_a_second_phase_goes_on_from_the_first(folder):
    recipe = tiny(BASE).but(init=str(folder)).then(0.5, tiny(BASE).but(time=LogitNormal(1.0)))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(3))
    before = weights(training)
    training.enter(1, training.tensors())
    assert same(weights(training), before) and not same(before, network().state_dict())


def test_a_distillation_may_begin_with_them(folder):
    recipe = tiny(BASE).but(rule=GuidanceDistillation(), guidance=CFG(1.0))
    with pytest.raises(LabError, match="make it a later phase, such as .* or set init"):
        Training(recipe, store(), 0, CPU)
    training = Training(recipe.but(init=str(folder)), store(), 0, CPU)
    assert same(weights(training), network().state_dict())
    assert len(list(training.fit(2))) == 2


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"width": 64}, "has width 64 where this recipe has 32; set scale.width to 64, or start from another init"),
        ({"depth": 3}, "has depth 3 where this recipe has 4; set scale.depth to 3"),
        ({"heads": 4}, "has heads 4 where this recipe has 2; set scale.heads to 4"),
        ({"bottleneck": 8}, "has bottleneck 8 where this recipe has 0; set bottleneck to 8"),
        ({"channels": 4}, "has channels 4 where this recipe has 16; use a space with 4 channels in place of 'lab-vae'"),
        ({"patch": 2}, "has patch 2 where this recipe has 1; change scale.grid .now 4. or scale.size"),
        ({"context": 9}, "has context 9 where this recipe has 12; use a text encoder of width 9 in place of 'lab-t5'"),
        ({"mlp_ratio": 2.0}, "has mlp_ratio 2.0 where this recipe has 3.5; recipes have no such field"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_field(tmp_path, change, sentence):
    interop.save(network(replace(ARCH, **change)), tmp_path)
    with pytest.raises(LabError, match=sentence):
        Training(tiny(BASE).but(init=str(tmp_path)), store(), 0, CPU)


def test_what_the_sentence_says_to_set_does_fit(tmp_path):
    interop.save(network(replace(ARCH, width=64, depth=3, heads=4, bottleneck=8)), tmp_path)
    recipe = tiny(BASE).but(init=str(tmp_path), scale=replace(TINY, width=64, depth=3, heads=4), bottleneck=8)
    assert same(weights(Training(recipe, store(), 0, CPU)), PRX.from_pretrained(tmp_path).state_dict())


def test_a_run_refuses_before_anything_is_encoded(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("PRX_LAB_CACHE", str(cache))
    with pytest.raises(LabError, match="has width 32 where this recipe has 96; set scale.width to 32"):
        run.run(BASE.but(init=str(folder)), root=tmp_path / "results")
    assert not cache.exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"space": "lab-vae-semantic"}, "has channels 16 where this recipe has 32"),
        ({"space": "pixels"}, "has channels 16 where this recipe has 3"),
        ({}, "has context 12 where this recipe has 128; use a text encoder of width 12"),
    ],
)
def test_embedded_networks_are_foreseen_without_loading_them(folder, change, sentence):
    with pytest.raises(LabError, match=sentence):
        foresee(tiny(BASE).but(init=str(folder), **change))
    foresee(tiny(BASE).but(**change))  # nothing to start from, nothing to refuse


def test_foreseen_is_what_the_data_turn_out_to_be(tmp_path):
    """The shape told from the names alone is the one that training has on really encoded images."""
    recipe = BASE.but(scale=replace(TINY, images=4), init=str(tmp_path))
    data = run.store_of(recipe.but(init=""), CPU)
    C, h, _ = data.shape
    interop.save(PRX(recipe.arch(C, recipe.scale.size // h, data.context)), tmp_path)
    foresee(recipe)
    Training(recipe, data, 0, CPU)


def test_the_router_must_be_the_one_they_were_trained_with(tmp_path):
    list(Training(tiny(RECIPES["sprint"]), store(), 0, CPU).fit(1, tmp_path))
    assert weights(Training(tiny(RECIPES["sprint"]).but(init=str(tmp_path)), store(), 0, CPU))
    with pytest.raises(LabError, match="use the same router"):
        Training(tiny(BASE).but(init=str(tmp_path)), store(), 0, CPU)


def test_a_missing_start_is_refused(tmp_path):
    with pytest.raises(LabError, match="There is no file or folder"):
        Training(tiny(BASE).but(init=str(tmp_path / "gone")), store(), 0, CPU)


# ------------------------------------------------------------------------------------------------ the field
def test_the_field_is_part_of_what_a_recipe_is(tmp_path):
    a, b = BASE.but(init="a/b"), BASE.but(init="a/c")
    assert len({BASE.id, a.id, b.id}) == 3 and BASE.but(init="").id == BASE.id
    assert Recipe.from_json(a.to_json()) == a and BASE.set("init", "a/b") == a
    assert BASE.diff(a) == {"init": ("", "a/b")}
    with pytest.raises(LabError, match="init is 3, a int; it must be str"):
        BASE.but(init=3)
    with pytest.raises(LabError, match="A phase has an init of its own"):
        BASE.then(0.5, BASE.but(init="a/b"))
    phased = BASE.then(0.5, BASE.but(time=LogitNormal(1.0)))
    assert [part.init for _, part in phased.but(init="x").plan] == ["x", "x"]
