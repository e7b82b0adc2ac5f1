"""Statistics over seeds: intervals that cover, differences that are seen as often as promised, ranks and times of known answer."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prx_lab import show
from prx_lab.errors import LabError
from prx_lab.record import Record, append_json, write_json
from prx_lab.report import arrivals, clock
from prx_lab.report.arrival import RISING, Speedup, arrival, at_equal_time, factor, falling, geometric, speedup
from prx_lab.report.columns import METRICS, by_seed
from prx_lab.report.evidence import change, detectable, error, estimate, power, shares, typical_sd
from prx_lab.report.family import Noise, Variance, blocks, likelihood, noise, typical
from prx_lab.report.ranks import agreement, tau_b, taus
from tests.made_up import write_run

FIDS = st.lists(st.floats(0.1, 50), min_size=1, max_size=8)


# ------------------------------------------------------------------------------------------------ seeds
def scoreboard(rng: np.random.Generator, recipes: int, seeds: int, sd: float | np.ndarray, effect: float) -> dict[str, dict[int, float]]:
    """exp(recipe + seed + noise) for made-up recipes of one deviation or (recipes,) of their own; the first two are `effect` apart."""
    level, luck = rng.normal(0, 1, recipes), rng.normal(0, 0.5, seeds)
    level[1] = level[0] + effect
    logs = level[:, None] + luck[None, :] + np.reshape(sd, (-1, 1)) * rng.normal(0, 1, (recipes, seeds))
    return {f"r{i}": dict(enumerate(np.exp(row).tolist())) for i, row in enumerate(logs)}


@pytest.mark.parametrize("recipes, seeds", [(2, 3), (12, 3), (20, 2)])
def test_the_interval_of_a_change_covers_as_often_as_it_says(recipes, seeds):
    rng, hits, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        board = scoreboard(rng, recipes, seeds, 0.2, -0.3)
        found = change(board["r1"], board["r0"], noise(board).between("r1", "r0"))
        hits += found.lo <= math.expm1(-0.3) <= found.hi
    assert abs(hits / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)


def family_of(rng: np.random.Generator) -> np.ndarray:
    return 0.1 * np.sqrt(3 / rng.chisquare(3, 20))


def wild(*where: int) -> np.ndarray:
    return np.where(np.isin(np.arange(20), where), 1.0, 0.1)


@pytest.mark.parametrize(
    "deviations, promised, widest",
    [
        (family_of, 0.916, 1.0),
        (lambda _: wild(5), 0.95, 0.6),
        (lambda _: wild(1), 0.914, 12.0),
        (lambda _: wild(1, 5), 0.914, 12.0),
    ],
    ids=["each its own", "beside a wild one", "the wild one itself", "one of two"],
)
def test_it_covers_nearly_as_often_where_recipes_scatter_differently(deviations, promised, widest):
    """`promised` is what 1,000 boards gave, below 0.95 as the family is estimated; one noise for all covers the wild one in 49 of 100."""
    rng, hits, widths, trials = np.random.default_rng(2), 0, [], 120
    for _ in range(trials):
        board = scoreboard(rng, 20, 3, deviations(rng), -0.3)
        found = change(board["r1"], board["r0"], noise(board).between("r1", "r0"))
        hits += found.lo <= math.expm1(-0.3) <= found.hi
        widths.append(math.log1p(found.hi) - math.log1p(found.lo) if found.lo > -1 else math.inf)
    assert hits / trials > promised - 3.5 * math.sqrt(promised * (1 - promised) / trials)
    assert np.median(widths) < widest  # and not by being wide


def test_a_wild_recipe_stands_for_itself_and_widens_no_other():
    rng = np.random.default_rng(3)
    calm = scoreboard(rng, 20, 3, 0.1, 0.0)
    wild = calm | {"r5": {0: 1.0, 1: 9.0, 2: 0.2}}
    found = noise(wild)
    assert found.apart == {"r5"} and found.of("r5") == found.own["r5"] and not noise(calm).apart
    assert found.between("r1", "r0").value < 1.3 * noise(calm).between("r1", "r0").value < 0.05 * found.between("r5", "r0").value
    assert 1.8 < found.between("r5", "r0").freedom < 3 < found.between("r1", "r0").freedom <= found.freedom


def test_two_wild_recipes_do_not_hide_each_other():
    rng = np.random.default_rng(5)
    boards = [noise(scoreboard(rng, 20, 3, wild(5, 7), 0.0)).apart for _ in range(20)]
    assert all(apart <= {"r5", "r7"} for apart in boards) and sum(map(len, boards)) > 26
    assert sum(len(noise(scoreboard(rng, 20, 3, 0.1, 0.0)).apart) for _ in range(20)) == 0


def test_what_is_no_training_teaches_the_family_nothing_and_is_held_against_it():
    rng = np.random.default_rng(6)
    trained = scoreboard(rng, 20, 3, 0.1, 0.0)
    copy = {seed: 2 * value for seed, value in trained["r0"].items()}
    odd = {0: 1.0, 1: 20.0, 2: 0.1}
    found = noise(trained | {"copy": copy, "odd": odd}, trained)
    assert (found.typical, found.freedom) == (noise(trained).typical, noise(trained).freedom) and found.apart == {"odd"}
    assert found.of("copy").value == pytest.approx(found.typical.value, rel=0.5)
    assert found.between("odd", "r0").value > 50 * found.between("copy", "r0").value and found.between("odd", "r0").freedom < 3
    assert noise(trained, {"r0": trained["r0"]}) == noise(trained)  # which tell nothing: then all


def test_a_recipe_has_its_own_variance_as_far_as_recipes_differ():
    own = {"a": Variance(4.0, 2.0), "b": Variance(1.0, 2.0)}
    found = Noise(Variance(1.0, 6.0), own, frozenset(), 30.0)
    assert found.of("a") == Variance((6 * 1 + 2 * 4) / 8, 8.0) and found.of("alone") == Variance(1.0, 6.0)
    a, b = found.of("a"), found.of("b")
    assert found.between("a", "b").value == a.value + b.value
    assert found.between("a", "b").freedom == pytest.approx((a.value + b.value) ** 2 / (a.value**2 / 8 + b.value**2 / 8))
    alike = Noise(Variance(2.0, math.inf), own, frozenset(), 30.0)
    assert alike.between("a", "alone") == Variance(4.0, 30.0)


def test_the_typical_variance_is_the_likeliest_of_the_family():
    rng = np.random.default_rng(4)
    true = 0.02 * 5 / rng.chisquare(5, 4000)
    found = typical(tuple(Variance(float(v), d) for v, d in zip(true * rng.chisquare(2, 4000) / 2, [2.0] * 4000)))
    assert found.value == pytest.approx(0.02, rel=0.1) and found.freedom == pytest.approx(5, rel=0.15)
    alike = tuple(Variance(float(v), 2.0) for v in 0.02 * stats.chi2.ppf((np.arange(40) + 0.5) / 40, 2) / 2)
    assert typical(alike).freedom == math.inf and typical(alike).value == pytest.approx(np.mean([one.value for one in alike]))
    assert typical(alike[:2]).freedom == math.inf and typical(alike[:2]).value == pytest.approx((alike[0].value + alike[1].value) / 2)
    s, d = np.array([0.1, 0.3, 0.02]), np.array([1.0, 2.0, 0.9])
    same = [likelihood(s, d, v, f) - (stats.f.logpdf(s / v, d, f) - math.log(v)).sum() for v, f in ((0.1, 3.0), (0.2, 30.0))]
    assert same[0] == pytest.approx(same[1])
    assert likelihood(s, d, 0.1, 1e6) == pytest.approx(likelihood(s, d, 0.1, math.inf), abs=1e-4)


def test_many_rows_see_what_one_cannot():
    rng = np.random.default_rng(1)
    boards = [scoreboard(rng, 12, 3, 0.2, 0.6) for _ in range(200)]
    clear = {"all": 0, "own": 0}
    for board in boards:
        clear["all"] += change(board["r1"], board["r0"], noise(board).between("r1", "r0")).lo > 0
        own = {name: board[name] for name in ("r0", "r1")}
        clear["own"] += change(own["r1"], own["r0"], noise(own).between("r1", "r0")).lo > 0
    told = power(0.6 / error(Variance(2 * 0.2**2, 22), 3), 22)
    assert abs(clear["all"] / 200 - told) < 0.08 and clear["own"] < clear["all"] - 40


def test_the_noise_of_a_scale_is_that_of_two_recipes_paired():
    a, b = {0: 2.0, 1: 3.0, 2: 7.0}, {0: 1.0, 1: 4.0, 2: 5.0}
    ratios = np.log([2.0, 3 / 4, 7 / 5])
    found = noise({"a": a, "b": b}).between("a", "b")
    assert found.freedom == pytest.approx(2) and found.value == pytest.approx(ratios.var(ddof=1))
    ours, t = change(a, b, found), stats.ttest_1samp(ratios, 0.0).confidence_interval()
    assert (ours.mean, ours.lo, ours.hi) == pytest.approx([math.expm1(v) for v in (ratios.mean(), t.low, t.high)])


def test_the_noise_forgets_recipes_and_seeds_that_are_not_repeated():
    board = {"a": {0: 2.0, 1: 3.0, 2: 7.0}, "b": {0: 1.0, 1: 4.0, 2: 5.0}}
    more = board | {"alone": {0: 99.0}, "broken": {0: math.inf, 1: math.nan, 2: 0.0}, "elsewhere": {7: 5.0}}
    assert noise(more).freedom == pytest.approx(2) and noise(more).typical.value == pytest.approx(noise(board).typical.value)
    for nothing in ({}, {"a": {0: 1.0}}, {"a": {0: 1.0, 1: 2.0}}):
        assert math.isnan(noise(nothing).between("a", "b").value) and noise(nothing).freedom == 0
    still = noise({name: {0: 2.0, 1: 2.0} for name in "abcd"})  # nothing scatters
    assert still.between("a", "b").value == 0 and not still.apart


def test_one_seed_has_a_change_and_no_interval():
    found = change({0: 3.0}, {0: 2.0}, Variance(0.1, 40))
    assert (found.n, found.mean) == (1, pytest.approx(0.5)) and math.isnan(found.lo) and math.isnan(found.hi)
    assert change({0: 3.0}, {1: 2.0}, Variance(0.1, 40)).n == 0


def test_shares_and_estimates_leave_out_what_has_no_pair():
    assert shares({0: 3.0, 1: math.inf, 2: 4.0, 3: 1.0}, {0: 2.0, 1: 2.0, 3: 0.0, 4: 1.0}) == {0: 0.5}
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
    assert detectable(1.0, 1 - 1e-12) == pytest.approx(detectable(1.0, 1))  # freedoms need not be whole
    assert detectable(1.0, 1) < detectable(1.0, 0.7) < math.inf


def test_the_typical_deviation_is_that_of_the_median_group_whatever_the_sizes():
    rng = np.random.default_rng(0)
    for sizes in ((2,), (3,), (2, 3, 5)):
        groups = [rng.normal(7.0, 2.0, sizes[i % len(sizes)]) for i in range(6000)]
        assert typical_sd(groups) == pytest.approx(2.0, rel=0.03)
    few = [[0.0, 1.0], [0.0, 1.1], [0.0, 0.9], [5.0]]
    assert typical_sd([*few, [0.0, 1e6], [0.0, 1e-6]]) == pytest.approx(typical_sd(few))
    assert math.isnan(typical_sd([[1.0], []]))


# ------------------------------------------------------------------------------------------------ ranks
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=12))
def test_tau_is_scipys_with_and_without_ties(pairs):
    x, y = zip(*pairs)
    known = stats.kendalltau(x, y).statistic
    assert tau_b(x, y) == pytest.approx(known, abs=1e-12, nan_ok=True)


def test_a_resample_counts_pairs_as_often_as_they_are_drawn():
    x, y, counts = [1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 5.0, 4.0], np.array([[2.0, 0.0, 1.0, 3.0]])
    taken = [i for i, k in enumerate(counts[0].astype(int)) for _ in range(k)]
    known = stats.kendalltau([x[i] for i in taken], [y[i] for i in taken]).statistic
    assert taus(x, y, counts)[0] == pytest.approx(known)


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
    for flat in ([0, 0, 0, 0], [math.nan] * 4):
        assert agreement([1, 2, 3, 4], flat).texts == ("–", "–")


# ------------------------------------------------------------------------------------------------ blocks
def test_what_is_left_is_the_least_squares_residual():
    values = scoreboard(np.random.default_rng(1), 3, 3, 0.3, 0.0)
    del values["r1"][1]
    names, logs, design = blocks(values)
    rest = logs - design @ np.linalg.lstsq(design, logs, rcond=None)[0]
    found = noise(values)
    assert (
        len(names) == 8
        and found.freedom == pytest.approx(3)
        and sum(v.value * v.freedom for v in found.own.values()) == pytest.approx(rest @ rest)
    )


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
    n, logs = len(fids), np.log(fids)
    mean = lambda i, j: logs[i : j + 1].mean()  # noqa: E731
    known = [min(max(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]  # its min-max formula
    assert falling(fids) == pytest.approx(np.exp(known), rel=1e-9)
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


def test_a_score_that_rises_is_read_by_what_is_wrong(tmp_path):
    """Composition arrives where its errors are as few as the baseline's at its end."""
    assert set(RISING) == {name for name, metric in METRICS.items() if metric.percent and not metric.lower}
    for name, rights in (("baseline", (0.2, 0.6, 0.8)), ("muon", (0.4, 0.8, 0.9))):
        for seed in (0, 1):
            folder = write_run(tmp_path, name, seed, 20.0)
            points = [{"step": 10 * i, "seconds": 50.0 * i, "fid": 20.0 - i, "composition": right} for i, right in enumerate(rights)]
            told = json.loads((folder / "eval.json").read_text())
            write_json(folder / "eval.json", told | {"curve": points})
    runs, base = ([Record.load(tmp_path / "cpu" / f"{name}-0123abcd" / f"seed{s}") for s in (0, 1)] for name in ("muon", "baseline"))
    assert speedup(runs, base, "step", "composition").factors == pytest.approx((2.0, 2.0))
    assert speedup(runs, base, "step").factors == pytest.approx((1.0, 1.0))
    [row] = arrivals.goals(1.5, ["muon", "ema"], root=tmp_path).rows
    assert row[:2] == ("muon", "2") and row[2].endswith(", missed") and row[5] == "2.00 [2.00, 2.00], reached" and row[3] == ""


def test_seconds_of_two_machines_have_no_factor_and_steps_have(tmp_path):
    base = [write_run(tmp_path, "baseline", seed, 20.0 + seed) for seed in (0, 1)]
    fast = [write_run(tmp_path, "muon", seed, 10.0 + seed, device=device) for seed, device in ((0, "a processor"), (1, "another"))]
    runs, others = ([Record.load(folder) for folder in part] for part in (fast, base))
    steps, seconds = (speedup(runs, others, against) for against in ("step", "seconds"))
    assert steps.n == 2 and seconds.n == 1 and seconds.factors[0] == steps.factors[0]
    assert math.isnan(at_equal_time(runs[1], others[1])) and not math.isnan(at_equal_time(runs[1], others[1], "step"))
    row = arrivals.speedups(root=tmp_path).rows[0]
    assert row[:2] == ("muon", "2") and "[" in row[2] and "[" not in row[3] and row[5] == "+0 %"
    write_run(tmp_path, "muon", 0, 10.0, device="another")
    assert arrivals.speedups(root=tmp_path).rows[0][3:] == ("", "", "")
    assert arrivals.sooner(1.1, ["muon"], root=tmp_path).rows[0][2:4] == ("", "undecided: another machine")


@pytest.mark.parametrize(
    "factors, missed, expected",
    [
        ((3.2, 3.3, 3.4), (), "reached"),
        ((2.0, 2.1, 2.05), (), "missed"),
        ((2.0, 4.0), (), "undecided"),
        ((9.0,), (), "undecided: one seed"),
        ((2.0, 2.1), (1.0,), "missed: 1 of 3 never arrive"),
        ((9.0, 9.1), (1.0,), "undecided: 1 of 3 never arrive"),
        ((), (1.0,), "undecided: one seed"),
        ((), (1.0, 3.5), "undecided: 2 of 2 never arrive"),
        ((), (), "not recorded yet"),
    ],
)
def test_a_goal_is_reached_or_missed_by_the_whole_interval(factors, missed, expected):
    assert Speedup(factors, missed).verdict(3.0) == expected
