"""Runs trained twice: found by what no loss reads, whatever code made them, and compared loss by loss."""

from dataclasses import replace
from pathlib import Path

import pytest

from prx_lab.errors import LabError
from prx_lab.optim import EMA
from prx_lab.recipes import BASE, RECIPES
from prx_lab.record import Record
from prx_lab.report.repeats import losses, repeats, same_losses, twice

RUN = Record(Path("results/smoke/baseline-0/seed0"), "smoke", "baseline", "0", 0, BASE.to_json(), {"git": {"commit": "a" * 40}}, {}, ())


def again(recipe, commit: str = "b", **changes) -> Record:
    return replace(RUN, recipe=recipe.to_json(), env={"git": {"commit": commit * 40}}, **changes)


def test_sampling_judging_and_an_average_change_no_loss():
    for name in ("eight-steps-cfg1", "baseline-on-heldout", "long-short-prompts", "ema"):
        assert same_losses(RECIPES[name]) == same_losses(BASE)
    assert same_losses(RECIPES["speedrun"]) == same_losses(RECIPES["speedrun-no-ema"])
    assert same_losses(RECIPES["muon"]) != same_losses(BASE) != same_losses(BASE.but(drop=0.2))


def test_only_another_version_of_the_code_at_the_same_seed_is_a_repetition():
    other = again(BASE.but(ema=EMA(0.999)))
    assert twice([RUN, other]) == [(RUN, other)]
    assert twice([RUN, again(BASE, "a")]) == twice([RUN, again(BASE, seed=1)]) == twice([RUN, again(RECIPES["muon"])]) == []
    assert twice([RUN, replace(other, recipe={"scale": {}})]) == []


def test_losses_are_read_by_step():
    log = ({"step": 0, "loss": 2.0}, {"step": 3, "loss": 1.5}, {"event": "resumed"})
    assert losses(replace(RUN, train=log)) == {0: 2.0, 3: 1.5}


def test_recorded_repetitions_agree_and_nothing_recorded_says_so(tmp_path):
    found = repeats("cpu")
    assert len(found.rows) > 3 and all(row[-1] == "equal to the last digit" for row in found.rows)
    with pytest.raises(LabError, match="trained again"):
        repeats("smoke", tmp_path)
