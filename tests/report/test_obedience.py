"""Composition beside the claims: a line for each pair that is recorded, decided by its interval and by no claim."""

import json

import pytest

from prx_lab.errors import LabError
from prx_lab.record import write_json
from prx_lab.report import claims, obedience
from tests.made_up import write_run


def drawn(folder, value: float, chance: float = 0.06) -> None:
    told = json.loads((folder / "eval.json").read_text())
    write_json(folder / "eval.json", told | {"metrics": told["metrics"] | {"composition": {"value": value, "chance": chance}}})


def test_a_pair_has_its_change_of_composition_whatever_its_distances(tmp_path):
    """Nearer in every distance and worse at its captions: both are told."""
    for seed in range(3):
        drawn(write_run(tmp_path, "baseline", seed, 20.0 + seed), 0.8 + 0.01 * seed)
        drawn(write_run(tmp_path, "muon", seed, 10.0 + seed), 0.4 + 0.004 * (seed - 1))
        drawn(write_run(tmp_path, "bf16", seed, 20.0 + seed), 0.8 + 0.01 * (2 - seed))
    drawn(write_run(tmp_path, "repa", 0, 18.0), 0.9)
    made = obedience.table(root=tmp_path)
    rows = {row[0]: row for row in made.rows}
    assert rows["muon / baseline"][1].startswith("−51 % [") and rows["muon / baseline"][2:] == ("3", "worse")
    assert rows["bf16 / baseline"][3] == "undecided" and rows["repa / baseline"][3] == "undecided: one seed"
    assert set(rows) <= {claims.pair_of(claim) for claim in claims.CLAIMS} and len(rows) == 3
    assert made.notes == (obedience.NOTE,)
    assert claims.findings(root=tmp_path, recipes=("muon",))[0].verdict == claims.REPRODUCED  # which composition does not change


def test_networks_that_do_not_follow_captions_yet_are_told_as_such_and_nothing_recorded_says_so(tmp_path):
    for seed in range(2):
        drawn(write_run(tmp_path, "baseline", seed, 20.0 + seed), 0.07)
        drawn(write_run(tmp_path, "muon", seed, 10.0 + seed), 0.09 + 0.001 * seed)
    made = obedience.table(root=tmp_path)
    assert [row[-1] for row in made.rows] == ["chance"] and made.notes == (obedience.NOTE, obedience.CHANCE)
    folder = write_run(tmp_path, "muon", 2, 10.0)
    drawn(write_run(tmp_path, "baseline", 2, 20.0), 0.07)
    told = json.loads((folder / "eval.json").read_text())
    del told["metrics"]["composition"]
    write_json(folder / "eval.json", told)
    made = obedience.table(root=tmp_path)
    assert [row[2] for row in made.rows] == ["2"] and made.notes == (obedience.NOTE, obedience.CHANCE)  # not measured: no failure
    drawn(folder, 0.0)
    made = obedience.table(root=tmp_path)
    assert [row[2] for row in made.rows] == ["2"] and made.notes[-1].endswith("is left out: muon / baseline.")
    with pytest.raises(LabError, match="is recorded at cpu scale yet"):
        obedience.table(root=tmp_path / "nothing")
