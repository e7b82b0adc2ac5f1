"""Statistics over seeds: intervals that cover, differences that are seen as often as promised, ranks and times of known answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from prx_lab import clock, show
from prx_lab.arrival import arrival, at_equal_time, factor, falling, geometric, speedup
from prx_lab.columns import by_seed
from prx_lab.errors import LabError
from prx_lab.evidence import (
    Noise,
    agreement,
    blocks,
    change,
    detectable,
    error,
    estimate,
    noise,
    pooled_sd,
    power,
    rest,
    shares,
    spread,
    tau_b,
)
from prx_lab.record import Record, append_json, write_json
from tests.made_up import write_run

FIDS = st.lists(st.floats(0.1, 50), min_size=1, max_size=8)


# ------------------------------------------------------------------------------------------------ seeds
def scoreboard(rng: np.random.Generator, recipes: int, seeds: int, sd: float, effect: float) -> dict[str, dict[int, float]]:
    """exp(recipe + seed + noise) for made-up recipes; the first two are `effect` apart."""
    level, luck = rng.normal(0, 1, recipes), rng.normal(0, 0.5, seeds)
    level[1] = level[0] + effect
    logs = level[:, None] + luck[None, :] + rng.normal(0, sd, (recipes, seeds))
    return {f"r{i}": dict(enumerate(np.exp(row).tolist())) for i, row in enumerate(logs)}


@pytest.mark.parametrize("recipes, seeds", [(2, 3), (12, 3), (20, 2)])
def test_the_interval_of_a_change_covers_as_often_as_it_says(recipes, seeds):
    rng, hits, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        board = scoreboard(rng, recipes, seeds, 0.2, -0.3)
        found = change(board["r1"], board["r0"], noise(board))
        hits += found.lo <= math.expm1(-0.3) <= found.hi
    assert abs(hits / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)


def test_many_rows_see_what_one_cannot():
    rng = np.random.default_rng(1)
    boards = [scoreboard(rng, 12, 3, 0.2, 0.6) for _ in range(200)]
    clear = {"all": 0, "own": 0}
    for board in boards:
        clear["all"] += change(board["r1"], board["r0"], noise(board)).lo > 0
        own = {name: board[name] for name in ("r0", "r1")}
        clear["own"] += change(own["r1"], own["r0"], noise(own)).lo > 0
    told = power(0.6 / error(Noise(0.2, 22), 3), 22)
    assert abs(clear["all"] / 200 - told) < 0.08 and clear["own"] < clear["all"] - 40


def test_the_noise_of_a_scale_is_that_of_two_recipes_paired():
    a, b = {0: 2.0, 1: 3.0, 2: 7.0}, {0: 1.0, 1: 4.0, 2: 5.0}
    ratios = np.log([2.0, 3 / 4, 7 / 5])
    found = noise({"a": a, "b": b})
    assert found.freedom == 2 and found.sd * math.sqrt(2) == pytest.approx(ratios.std(ddof=1))
    ours, t = change(a, b, found), stats.ttest_1samp(ratios, 0.0).confidence_interval()
    assert (ours.mean, ours.lo, ours.hi) == pytest.approx([math.expm1(v) for v in (ratios.mean(), t.low, t.high)])


def test_the_noise_forgets_recipes_and_seeds_that_are_not_repeated():
    board = {"a": {0: 2.0, 1: 3.0, 2: 7.0}, "b": {0: 1.0, 1: 4.0, 2: 5.0}}
    more = board | {"alone": {0: 99.0}, "broken": {0: math.inf, 1: math.nan, 2: 0.0}, "elsewhere": {7: 5.0}}
    assert noise(more).freedom == 2 and noise(more).sd == pytest.approx(noise(board).sd)
    for nothing in ({}, {"a": {0: 1.0}}, {"a": {0: 1.0, 1: 2.0}}):
        assert math.isnan(noise(nothing).sd) and noise(nothing).freedom == 0


def test_one_seed_has_a_change_and_no_interval():
    found = change({0: 3.0}, {0: 2.0}, Noise(0.1, 40))
    assert (found.n, found.mean) == (1, pytest.approx(0.5)) and math.isnan(found.lo) and math.isnan(found.hi)
    assert change({0: 3.0}, {1: 2.0}, Noise(0.1, 40)).n == 0


def test_shares_and_estimates_leave_out_what_has_no_pair():
    assert shares({0: 3.0, 1: math.inf, 2: 4.0, 3: 1.0}, {0: 2.0, 1: 2.0, 3: 0.0, 4: 1.0}) == [0.5]
    assert estimate([]).n == 0 and math.isnan(estimate([1.0]).lo)
    assert (estimate([1.0, 3.0]).lo + estimate([1.0, 3.0]).hi) / 2 == pytest.approx(2.0)


# ------------------------------------------------------------------------------------------- what could be seen
@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_detectable_difference_is_seen_four_times_in_five(n):
    sd, rng = 0.7, np.random.default_rng(n)
    true = detectable(sd / math.sqrt(n), n - 1)
    d = rng.normal(true, sd, (40000, n))
    t = d.mean(1) / d.std(1, ddof=1) * math.sqrt(n)
    assert abs((np.abs(t) > stats.t.ppf(0.975, n - 1)).mean() - 0.8) < 0.01


def test_power_is_the_noncentral_t():
    for shift, freedom in [(1.0, 4), (2.5, 10), (4.0, 3)]:
        edge = stats.t.ppf(0.975, freedom)
        known = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
        assert power(shift, freedom) == pytest.approx(known, abs=1e-3)
    assert power(0.0, 5) == pytest.approx(0.05, abs=1e-3)
    assert math.isnan(detectable(1.0, 0)) and math.isnan(detectable(math.nan, 3))


def test_the_pooled_deviation_weighs_groups_by_their_freedom():
    assert pooled_sd([[1.0, 3.0], [0.0, 0.0, 0.0], [9.0]]) == pytest.approx(math.sqrt(2 / 3))
    assert math.isnan(pooled_sd([[1.0], []]))


# ------------------------------------------------------------------------------------------------ ranks
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=12))
def test_tau_is_scipys_with_and_without_ties(pairs):
    x, y = zip(*pairs)
    known = stats.kendalltau(x, y).statistic
    assert float(tau_b(x, y)[0]) == pytest.approx(known, abs=1e-12, nan_ok=True)


def test_a_resample_counts_pairs_as_often_as_they_are_drawn():
    x, y, counts = [1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 5.0, 4.0], np.array([[2.0, 0.0, 1.0, 3.0]])
    taken = [i for i, k in enumerate(counts[0].astype(int)) for _ in range(k)]
    known = stats.kendalltau([x[i] for i in taken], [y[i] for i in taken]).statistic
    assert tau_b(x, y, counts)[0] == pytest.approx(known)


def test_the_interval_of_tau_covers_the_true_one():
    rng, hits, rho = np.random.default_rng(0), 0, 0.8
    for _ in range(200):
        x = rng.normal(size=14)
        found = agreement(x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=14), draws=300)
        hits += found.lo <= 2 / math.pi * math.asin(rho) <= found.hi
    assert 0.9 < hits / 200


def test_agreement_knows_order_and_disorder():
    up, down = agreement(range(8), range(8)), agreement(range(8), range(8)[::-1])
    assert up.tau == 1 and down.tau == -1 and up.p < 0.01 and down.p < 0.01
    none = agreement([1, 2, 3, 4, 5, 6], [3, 6, 1, 5, 2, 4])
    assert none.p > 0.3 and none.lo < 0 < none.hi
    with pytest.raises(LabError, match="at least four pairs; here are 3"):
        agreement([1, 2, 3], [1, 2, 3])


# ------------------------------------------------------------------------------------------------ even scatter
def made_up(sds: dict[str, float], n: int, seed: int) -> dict[str, dict[int, float]]:
    """Runs of a randomised block design with a level for each recipe and seed and normal noise of the given deviations."""
    rng = np.random.default_rng(seed)
    levels, blocks = rng.standard_normal(len(sds)), rng.standard_normal(n)
    return {
        name: {s: math.exp(levels[i] + blocks[s] + sd * rng.standard_normal()) for s in range(n)}
        for i, (name, sd) in enumerate(sds.items())
    }


def test_a_recipe_that_scatters_more_is_found_and_equal_ones_are_not():
    found = spread(made_up(dict.fromkeys("abcd", 0.1) | {"e": 2.0}, 3, 0))
    assert found.name == "e" and found.share > 0.7 and found.chance < 0.01
    chances = [spread(made_up(dict.fromkeys("abcde", 0.1), 3, k), draws=200).chance for k in range(60)]
    assert 0.3 < np.mean(chances) < 0.7 and sum(c < 0.05 for c in chances) <= 9  # about uniform: 3 of 60 expected


def test_what_is_left_is_the_least_squares_residual():
    values = made_up(dict.fromkeys("abc", 0.3), 3, 1)
    del values["b"][1]
    names, logs, design = blocks(values)
    assert len(names) == 8 and rest(design, logs) == pytest.approx(logs - design @ np.linalg.lstsq(design, logs, rcond=None)[0])
    assert math.sqrt((rest(design, logs) ** 2).sum() / 3) == pytest.approx(noise(values).sd) and noise(values).freedom == 3


def test_a_spread_needs_three_recipes_with_two_seeds():
    level = {name: {0: 2.0, 1: 2.0} for name in "abc"}  # nothing scatters
    apart = {name: {2 * i: 1.0, 2 * i + 1: 3.0} for i, name in enumerate("abc")}  # no seed in common: nothing is left
    for values in (made_up(dict.fromkeys("ab", 0.1), 3, 0), level, apart):
        with pytest.raises(LabError, match="three of them with the same two seeds"):
            spread(values)


# ------------------------------------------------------------------------------------------------ the clock
def run_of(
    root, seed: int, fids: list[float], rates: list[float], phases: tuple[float, ...] = (), batch: int = 10, steps: int = 100
) -> Record:
    """A run of 100 steps whose log has a rate for each phase and whose curve has its points at equal distances."""
    folder = write_run(root, "repa", seed, fids[-1])
    (folder / "train.jsonl").unlink()
    starts = [0, *(round(p * steps) for p in phases), steps]
    for step in range(steps):
        phase = max(i for i, s in enumerate(starts[:-1]) if step >= s)
        pause = 1000.0 if step == 50 else 1.0  # the process was stopped in a step
        append_json(folder / "train.jsonl", {"step": step, "images_per_s": rates[phase] / pause})
    write_json(folder / "recipe.json", {"scale": {"steps": steps, "batch": batch}, "phases": [{"start": p} for p in phases]})
    at = [steps * (i + 1) // len(fids) for i in range(len(fids))]
    points = [{"step": s, "seconds": 1e6 + s, "fid": f} for s, f in zip(at, fids)]
    write_json(folder / "eval.json", {"metrics": {}, "curve": points, "throughput": {"seconds": 1e6}})
    return Record.load(folder)


def test_a_pause_does_not_count_and_phases_have_their_own_steps(tmp_path):
    run = run_of(tmp_path, 0, [4.0, 3.0, 2.0, 1.0], [100.0, 50.0], phases=(0.5,))
    assert clock.step_seconds(run) == pytest.approx([0.1, 0.2])
    assert [p["seconds"] for p in clock.curve(run)] == pytest.approx([2.5, 5.0, 10.0, 15.0])
    assert clock.training_seconds(run) == pytest.approx(15.0)
    assert run.curve[0]["seconds"] == 1e6 + 25  # the record keeps its own
    assert clock.images_per_second(run) == pytest.approx(10 * 100 / 15.0)  # not the median step, which is the first phase's
    drawn = [show.curves([run], "fid", against).figure.axes[0].lines[0].get_xdata() for against in ("step", "seconds")]
    assert [list(x) for x in drawn] == [[25, 50, 75, 100], pytest.approx([2.5, 5.0, 10.0, 15.0])]
    assert by_seed("images_per_s", [run], []) == {0: pytest.approx(10 * 100 / 15.0)}


def test_a_log_without_rates_leaves_the_recorded_seconds(tmp_path):
    run = Record.load(write_run(tmp_path, "baseline", 0, 20.0))
    assert [p["seconds"] for p in clock.curve(run)] == [0.0, 50.0, 100.0] and math.isnan(clock.training_seconds(run))
    quiet = run_of(tmp_path, 1, [2.0, 1.0], [math.nan])
    assert [p["seconds"] for p in clock.curve(quiet)] == [1e6 + 50, 1e6 + 100] and clock.training_seconds(quiet) == 1e6
    assert clock.images_per_second(Record.load(write_run(tmp_path, "muon", 0, 20.0))) == 100.0  # the recorded median


# ------------------------------------------------------------------------------------------------ arrival
@given(FIDS)
def test_the_falling_curve_is_the_isotonic_regression_of_logarithms(fids):
    known = np.exp(optimize.isotonic_regression(np.log(fids), increasing=False).x)
    assert falling(fids) == pytest.approx(known, rel=1e-9)
    assert falling(sorted(fids, reverse=True)) == pytest.approx(sorted(fids, reverse=True))


def test_exponential_curves_are_crossed_exactly(tmp_path):
    """FID halves every 25 steps in the baseline and every 12.5 in the other: twice as soon, in steps and in seconds."""
    base = run_of(tmp_path / "a", 0, [8.0, 4.0, 2.0, 1.0], [100.0])
    fast = run_of(tmp_path / "b", 0, [4.0, 1.0, 0.25, 0.0625], [100.0])
    slow = run_of(tmp_path / "c", 0, [4.0, 1.0, 0.25, 0.0625], [25.0])
    assert arrival(base, base) == pytest.approx(10.0) and arrival(fast, base, "step") == pytest.approx(50.0)
    assert speedup([fast], [base]).factors == pytest.approx((2.0,)) and speedup([slow], [base]).factors == pytest.approx((0.5,))
    assert speedup([slow], [base], "step").factors == pytest.approx((2.0,))
    assert speedup([fast], [base]).text == "2.00"


def test_quality_at_equal_time_reads_a_slow_run_early_and_a_fast_one_at_its_end(tmp_path):
    """The base ends at 1 after 10 seconds; a run at a quarter of its rate has done 25 of 100 steps, one at half of it 50."""
    base = run_of(tmp_path / "a", 0, [8.0, 4.0, 2.0, 1.0], [100.0])
    at = {
        rate: at_equal_time(run_of(tmp_path / str(rate), 0, [4.0, 2.0, 1.0, 0.5], [rate]), base)
        for rate in (25.0, 50.0, 75.0, 100.0, 400.0)
    }
    assert at == pytest.approx({25.0: 4.0, 50.0: 2.0, 75.0: 1.0, 100.0: 0.5, 400.0: 0.5})
    between = at_equal_time(run_of(tmp_path / "c", 0, [4.0, 1.0, 0.5, 0.5], [37.5]), base)
    assert between == pytest.approx(2.0)  # half-way from 4 to 1 on a logarithmic axis
    assert math.isnan(at_equal_time(run_of(tmp_path / "d", 0, [4.0, 1.0], [10.0]), base))  # nothing is known of it so early
    assert at_equal_time(base, base) == pytest.approx(1.0)
    assert factor(geometric([0.5, 2.0])).startswith("1.00 [") and factor(geometric([0.5])) == "0.50" and factor(geometric([])) == ""


def test_a_lucky_evaluation_earns_nothing(tmp_path):
    base = run_of(tmp_path / "a", 0, [8.0, 4.0, 2.0, 1.0], [100.0])
    lucky = run_of(tmp_path / "b", 0, [8.0, 0.9, 4.0, 2.0], [100.0])
    assert math.isinf(arrival(lucky, base)) and speedup([lucky], [base]).text == "not reached, below 1.00"


def test_a_curve_that_stops_falling_arrives_there_and_is_no_faster_than_itself(tmp_path):
    base = run_of(tmp_path / "a", 0, [8.0, 4.0, 1.0, 1.5], [100.0])
    assert arrival(base, base, "step") == pytest.approx(75.0) and speedup([base], [base]).factors == pytest.approx((1.0,))


def test_speedups_pair_seeds_and_have_an_interval_where_all_arrive(tmp_path):
    base = [run_of(tmp_path / "a", s, [8.0, 4.0, 2.0, 1.0], [100.0]) for s in (0, 1, 2)]
    other = [run_of(tmp_path / "b", s, [4.0, 1.0, 0.25, 0.06], [rate]) for s, rate in ((0, 100.0), (1, 50.0), (5, 1.0))]
    found = speedup(other, base)
    assert found.n == 2 and found.interval.mean == pytest.approx(math.sqrt(2.0)) and found.interval.lo < 1 < found.interval.hi
    late = run_of(tmp_path / "b", 2, [8.0, 8.0, 8.0, 8.0], [100.0])
    assert speedup([*other, late], base).text == "2 of 3 arrive" and not speedup([*other, late], base).interval.n
    assert speedup([], base).text == "" and speedup([], base).n == 0
