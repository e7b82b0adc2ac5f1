"""Runs trained twice: found by what no loss reads, whatever code made them, and compared loss by loss."""

from dataclasses import replace
from pathlib import Path

import pytest

from prx_lab.errors import LabError
from prx_lab.optim import EMA
from prx_lab.recipes import BASE, RECIPES
from prx_lab.record import Record
from prx_lab.report.comparable import losses, one_at_first, repeated
from prx_lab.report.repeats import other_machine, repeats, same_losses, twice
from tests.made_up import write_run

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


def test_another_machine_is_another_matter(tmp_path):
    """Its products round otherwise, so equal losses are not to be expected, and what it does to a score is told by itself."""
    far = replace(again(BASE), env={"git": {"commit": "b" * 40}, "device_name": "another processor"})
    assert twice([RUN, far]) == [] and repeated([log(RUN, 1.0), log(far, 1.1, "results/smoke/eight-steps-1/seed0")])
    for seed, fid in ((0, 20.0), (1, 22.0)):
        for name, value in (("baseline", fid), ("muon", fid / 2 + seed)):
            write_run(tmp_path / "a", name, seed, value, device="one")
        write_run(tmp_path / "b", "baseline", seed, 2 * fid, device="two")
    found = other_machine("cpu", tmp_path / "b", tmp_path / "a")
    assert [row[:5] for row in found.rows[:2]] == [("baseline", str(seed), "one", "two", "× 2.00") for seed in (0, 1)]
    assert found.rows[2][4].startswith("× 1.") and found.rows[0][6] == "–"  # the last line has seeds; DINO-MMD is not recorded
    with pytest.raises(LabError, match="trained again on another machine"):
        other_machine("cpu", tmp_path / "a", tmp_path / "a")


def log(run: Record, loss: float, folder: str = "") -> Record:
    return replace(run, folder=Path(folder) if folder else run.folder, train=({"step": 0, "loss": loss}, {"step": 3, "loss": loss / 2}))


def test_a_first_half_in_common_is_one_training():
    """Recipes that part late have the luck of one training; the one with the most trainings stands for it."""
    rows = [{"step": step, "loss": 1.0 + step} for step in range(8)]
    early, late = ([row | {"loss": 0.5} if row["step"] >= part else row for row in rows] for part in (2, 5))
    runs = {name: replace(RUN, folder=Path(f"results/smoke/{name}-0/seed0"), recipe={}, train=tuple(kept)) for name, kept in
            (("baseline", rows), ("finish", late), ("other", early))}  # fmt: skip
    second = replace(runs["baseline"], folder=Path("results/smoke/baseline-0/seed1"), seed=1, train=({"step": 0, "loss": 9.0},))
    assert repeated([*runs.values(), second]) == {runs["finish"].folder}
    assert one_at_first([runs["finish"]], [runs["baseline"]]) and one_at_first([runs["other"]], [runs["baseline"]])
    assert not one_at_first([runs["other"]], [second]) and not one_at_first([], [])
    apart = replace(runs["other"], train=tuple(row | {"loss": row["loss"] + (row["step"] > 0)} for row in rows))
    assert not one_at_first([apart], [runs["baseline"]])  # equal weights at the start are no training in common
    elsewhere = replace(apart, folder=Path("results/smoke/other-1/seed1"), seed=1, env={"device_name": "another processor"})
    assert one_at_first([runs["other"], elsewhere], [runs["baseline"], second])  # a seed of two machines says nothing
    assert not one_at_first([elsewhere], [second])


def test_losses_are_read_by_step():
    log = ({"step": 0, "loss": 2.0}, {"step": 3, "loss": 1.5}, {"event": "resumed"})
    assert losses(replace(RUN, train=log)) == {0: 2.0, 3: 1.5}


def test_recorded_repetitions_agree_and_nothing_recorded_says_so(tmp_path):
    found = repeats("cpu")
    assert len(found.rows) > 3 and all(row[-1] == "equal to the last digit" for row in found.rows)
    with pytest.raises(LabError, match="trained again"):
        repeats("smoke", tmp_path)
