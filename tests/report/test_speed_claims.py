"""The post's sentences about speed: read from benchmarks' turns, judged by their sign, and complete."""

import pytest

from prx_lab.report import speed
from prx_lab.report.posts import published
from prx_lab.report.speed import Record, Times
from prx_lab.report.speed_claims import SPEED_CLAIMS, SpeedClaim, measured, table, times
from tests.made_up import write_run

ONE = SpeedClaim("routing is faster", "tread", "baseline", "routing-256", "TREAD", "dense")


def made(dense: list[float], routed: list[float]) -> dict[str, Record]:
    record = Record("routing-256", "Routing")
    record.compare("small", {"dense": Times([9.0] * 3, [9.0] * 3), "TREAD": Times([9.0] * 3, [9.0] * 3)}, [])
    record.compare("large", {"dense": Times(dense, dense), "TREAD": Times(routed, routed)}, [])
    return {"routing-256": record}


def test_a_step_of_half_the_time_is_twice_the_rate():
    found = measured(ONE, made([2.0, 2.2, 1.8], [1.0, 1.1, 0.9]))
    assert (found.n, found.mean) == (3, pytest.approx(1.0)) and found.lo <= found.mean <= found.hi


def test_without_its_benchmark_a_claim_is_not_recorded():
    assert (
        measured(ONE, {}).n == 0
        and measured(SpeedClaim("", "x-pred", "baseline", "routing-256", "none", "dense"), made([1.0], [1.0])).n == 0
    )


def test_a_sign_decides_and_no_change_is_a_claim_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "load", lambda *_: made([2.0, 2.01, 1.99], [4.0, 4.01, 4.02]) | {"objective": objective(1.0, 1.02, 1.3)})
    verdicts = {row[0]: row[-1] for row in table(root=tmp_path).rows}
    assert verdicts["TREAD is faster at 256 tokens"] == "not reproduced: the opposite"
    assert verdicts["contrastive flow matching costs next to nothing"] == "reproduced"
    assert verdicts["x-prediction costs nothing"] == "not reproduced"
    assert verdicts["TREAD is faster at 1024 tokens"] == "not recorded yet"


def objective(base: float, contrastive: float, x: float) -> Record:
    record = Record("objective", "Objective")
    arms = {"baseline": base, "contrastive": contrastive, "x-pred": x}
    turns = {name: [v, v * (1 + 0.001 * i), v] for i, (name, v) in enumerate(arms.items())}  # no two turns of all arms are equal
    record.compare("cpu scale", {name: Times(times, times) for name, times in turns.items()}, [])
    return record


def test_every_printed_rate_is_a_claim_but_those_of_autoencoders_and_of_the_other_teacher():
    rows = [row for row in published() if row.recipe and "batches_per_s" in row.values]
    base = {row.table: row.values["batches_per_s"] for row in reversed(rows)}
    other = {row.recipe for row in rows if row.values["batches_per_s"] != base[row.table]}
    assert other - {claim.recipe for claim in SPEED_CLAIMS} == {"repa", "flux2", "repa-e"}


def test_the_time_to_a_quality_is_judged_by_its_interval_and_on_one_machine(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "baseline", seed, 20.0 + seed)
        write_run(tmp_path, "muon", seed, 6.0 + seed)  # there in a quarter of the time, or so
        write_run(tmp_path, "repa-dense", seed, 30.0 + seed)
    found = {row[1]: row for row in times(root=tmp_path).rows}
    assert found["muon / baseline"][-1] == "reproduced" and found["muon / baseline"][2].startswith("3.")
    assert found["repa-dense / baseline"][-1] == "not reproduced: the opposite" and "not reached" in found["repa-dense / baseline"][2]
    write_run(tmp_path, "repa-dense", 0, 15.0)  # one seed of three arrives
    assert {row[1]: row[-1] for row in times(root=tmp_path).rows}["repa-dense / baseline"] == "undecided"
    for seed in range(3):
        write_run(tmp_path, "muon", seed, 6.0 + seed, device="another processor")
    assert {row[1]: row[-1] for row in times(root=tmp_path).rows}["muon / baseline"] == "not recorded yet"
