"""The claims of the post: every verdict follows from the records, and a claim is tested by a pair that exists."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prx_lab.errors import LabError
from prx_lab.recipes import GROUPS, RECIPES
from prx_lab.record import records, write_json, write_lines
from prx_lab.report import arrivals, claims, crossed, family, findings, pairs, ranks
from prx_lab.report.claims import CLAIMS, FEW, LONG, MANY, MISSING, NOT, REPRODUCED, UNDECIDED, line, verdict
from prx_lab.report.columns import METRICS
from prx_lab.report.evidence import Estimate, detectable, error
from prx_lab.report.posts import STANDS, at, published, share
from prx_lab.report.table import Table
from prx_lab.scales import SCALES
from tests.made_up import write_run

TRUE = {"repa-dense": 0.8, "repa": 0.9, "tread": 1.19, "muon": 0.85, "bf16": 1.2, "short-captions": 2.0}  # FID over the baseline's


@pytest.fixture
def root(tmp_path):
    """Three seeds whose luck is 10 % of FID each, and a noise of 4 %, so that some verdicts lie near the border."""
    for seed, luck in enumerate((1.0, 1.1, 0.9)):
        write_run(tmp_path, "baseline", seed, 20.0 * luck)
        for i, (name, factor) in enumerate(TRUE.items()):
            write_run(tmp_path, name, seed, 20.0 * luck * factor * (1 + 0.04 * ((seed + i) % 3 - 1)))
    return tmp_path


# ------------------------------------------------------------------------------------------------ the data
def test_every_claim_is_tested_by_recipes_that_exist_and_are_run_with_it():
    for claim in CLAIMS:
        assert {claim.recipe, claim.against} <= set(RECIPES) and claim.recipe != claim.against
        assert set(claim.metrics) <= set(METRICS) and (not claim.scale or claim.scale in SCALES)
        group = {"": "post", FEW: "routes", MANY: "many-tokens", LONG: "horizon"}[claim.scale]
        assert {claim.recipe, claim.against} <= set(GROUPS[group].names)
    assert len({(claim.text, claims.pair_of(claim)) for claim in CLAIMS}) == len(CLAIMS)


def test_a_pair_that_stands_for_another_is_held_against_the_numbers_of_the_post():
    """A row with another optimiser or of other pictures is not in the post; that of its tokens is."""
    posts = published()
    for scale, stands in STANDS.items():
        here = at(scale, posts)
        assert {row.tokens for row in here if row.recipe in stands} == {scale.removeprefix("cpu-")}
        base = next(name for name, other in stands.items() if other in ("baseline", "jit"))
        for name in stands.keys() - {base}:
            found, known = share(name, base, "fid", here), share(stands[name], stands[base], "fid", posts)
            assert found == known and math.isfinite(found)
    assert not {"jit", "jit-tread"} & {row.recipe for row in at("cpu", posts)} and at("cpu", ()) == ()


def test_networks_at_chance_decide_nothing(root):
    def drawn(value):
        for folder in root.glob("cpu/*/seed*"):
            evaluation = json.loads((folder / "eval.json").read_text())
            evaluation["metrics"]["composition"] = {"value": value, "chance": 0.06, "n": 512}
            write_json(folder / "eval.json", evaluation)
        return {one.verdict for one in claims.findings("cpu", root, ("muon",))}

    assert drawn(0.1) == {claims.UNTAUGHT, MISSING}  # one distance is not measured
    assert claims.UNTAUGHT not in drawn(0.2)


def test_a_claim_has_the_posts_numbers_or_a_direction_and_not_both():
    posts = published()
    for claim in CLAIMS:
        printed = [not math.isnan(claims.printed(claim, metric, at(claim.scale or "cpu", posts))) for metric in claim.metrics]
        assert all(printed) if claim.sign is None else claim.sign in (-1, 0, 1) and (claim.sign == 0 or not any(printed))
    assert claims.printed(claims.Claim("", "flux2", "repa-dense"), "fid", posts) == pytest.approx(12.07 / 14.64 - 1)  # of two tables
    assert math.isnan(claims.printed(claims.Claim("", "tread", "jit"), "fid", posts))  # two baselines
    assert claims.printed(CLAIMS[0], "fid", posts) == pytest.approx(14.64 / 18.2 - 1)


def test_every_row_of_the_posts_tables_is_a_claim():
    claimed = {claim.recipe for claim in CLAIMS}
    rows = [row for row in published() if row.recipe and "part 2" in row.source]
    bases = {row.table: row.recipe for row in reversed(rows)}
    assert {row.recipe for row in rows if row.recipe != bases[row.table]} <= claimed
    assert all(reason.endswith(".") for _, reason in claims.UNTESTABLE)


def test_the_end_of_an_interval_keeps_its_side():
    assert claims.interval(Estimate(3, -0.3, -0.51, -0.003)) == "−30 % [−51, −0.3]"
    assert (
        claims.interval(Estimate(3, 0.2, 0.0004, 0.4)) == "+20 % [+0.04, +40]"
        and claims.interval(Estimate(3, 0.0, -0.1, 0.0)) == "+0 % [−10, +0]"
    )


def test_an_end_that_nothing_holds_is_not_spelt_out():
    assert claims.interval(Estimate(2, -0.7, -1.2, 4e8)) == "−70 % [−120, > +9999]"
    assert claims.interval(Estimate(2, 78.0, -1.0, 8e8)) == "× 79 [0.0, > 999]"
    assert crossed.ratio_of(Estimate(2, 2.7, -1.0, 3e7)) == "3.70 [0.00, > 999]"
    assert crossed.ratio_of(Estimate(2, 2.7, 0.1, 20)) == "3.70 [1.10, 21.00]"


# ------------------------------------------------------------------------------------------------ verdicts
def test_an_interval_without_width_decides_nothing():
    """Counts of few seeds can differ by the same number; an infinitely narrow interval is no certainty."""
    for sign, mean in ((1, 0.1), (-1, 0.1), (0, 0.0)):
        assert verdict(sign, math.nan, Estimate(3, mean, mean, mean)).startswith(UNDECIDED)


def test_recipes_that_are_one_training_at_first_have_their_own_noise(root):
    """Two runs that part late share most of their luck; the noise of two trainings would hide what the last steps do."""
    rows = [{"step": step, "loss": 1 / (1 + step), "seed": 0} for step in range(10)]
    for seed, (fid, moved) in enumerate(((20.0, 0.90), (31.0, 0.91), (12.0, 0.89))):
        for name, value, last in (("baseline", fid, 0.1), ("ema", fid * moved, 0.2)):
            folder = write_run(root, name, seed, value)
            write_lines(folder / "train.jsonl", [row | {"loss": row["loss"] + seed + last * (row["step"] == 9)} for row in rows])
    found = records(root).found
    runs, base = pairs.pair(found, "ema", "baseline", "cpu")
    whole = pairs.noises(found, "cpu", "fid")
    ours = pairs.changed(runs, base, "fid", whole, math.nan)
    logs = [math.log(0.90), math.log(0.91), math.log(0.89)]
    half = stats.t.ppf(0.975, 2) * stats.tstd(logs) / math.sqrt(3)
    assert ours.lo == pytest.approx(math.expm1(sum(logs) / 3 - half)) and ours.hi == pytest.approx(math.expm1(sum(logs) / 3 + half))
    apart = pairs.changed(runs, pairs.pair(found, "baseline", "repa", "cpu")[1], "fid", whole, math.nan)
    assert apart.hi - apart.lo > 4 * (ours.hi - ours.lo)


@pytest.mark.parametrize(
    "sign, post, interval, expected",
    [
        (-1, -0.2, (-0.3, -0.1), REPRODUCED),
        (-1, -0.2, (-0.9, -0.5), REPRODUCED),  # larger is still the claimed direction
        (+1, 0.2, (0.1, 0.3), REPRODUCED),
        (-1, -0.2, (0.01, 0.3), f"{NOT}: the opposite"),
        (-1, -0.2, (-0.1, 0.1), f"{UNDECIDED}: smaller than claimed"),
        (-1, -0.34, (-0.1, 0.001), f"{UNDECIDED}: smaller than claimed"),
        (-1, -0.34, (-0.1, -0.001), REPRODUCED),  # nothing but zero divides the two
        (-1, -0.2, (-0.3, 0.1), UNDECIDED),
        (-1, math.nan, (-0.1, 0.1), UNDECIDED),  # in words, without a size to exclude
        (0, math.nan, (-0.04, 0.04), REPRODUCED),
        (0, math.nan, (0.06, 0.2), NOT),
        (0, math.nan, (-0.2, 0.04), UNDECIDED),
    ],
)
def test_a_verdict_follows_from_the_interval(sign, post, interval, expected):
    assert verdict(sign, post, Estimate(3, sum(interval) / 2, *interval)) == expected


def test_without_an_interval_nothing_is_decided():
    assert verdict(-1, -0.2, Estimate(0, math.nan, math.nan, math.nan)) == MISSING
    assert verdict(-1, -0.2, Estimate(3, -0.2, math.nan, math.nan)) == f"{UNDECIDED}: nothing tells of the noise"
    assert verdict(-1, -0.2, Estimate(1, -5.0, math.nan, math.nan)) == f"{UNDECIDED}: one seed"


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.01, 1), st.sampled_from([-1, 1]))
def test_a_claim_and_its_contrary_are_never_both_reproduced(lo, width, size, sign):
    ours = Estimate(3, lo + width / 2, lo, lo + width)
    both = [verdict(s, s * size, ours) for s in (sign, -sign)]
    assert both.count(REPRODUCED) <= 1
    assert (REPRODUCED in both) == ((ours.lo > 0 or ours.hi < 0) and not math.isclose(ours.lo, ours.hi))


def test_known_changes_get_their_verdicts(root):
    found = {(f.claim.recipe, f.claim.against): f for f in claims.findings(root=root) if f.metric.name == "fid" and not f.claim.scale}
    for name in TRUE:
        one = found[(name, "baseline")]
        assert one.ours.mean == pytest.approx(TRUE[name] - 1, abs=0.01) and one.ours.n == 3
        assert one.verdict == REPRODUCED and abs(one.ours.mean) > (one.ours.hi - one.ours.lo) / 2
    border = found[("repa-dense", "repa")]
    assert border.ours.lo < border.ours.mean < border.ours.hi and border.ours.hi - border.ours.lo > 0.1
    assert border.verdict == (REPRODUCED if border.ours.hi < 0 else UNDECIDED)
    assert found[("contrastive", "baseline")].verdict == MISSING
    words = [f.verdict for f in claims.findings(root=root)]
    assert f"{words.count(REPRODUCED)} reproduced" in repr(claims.table(root=root)) and words.count(REPRODUCED) >= 7
    assert f"{words.count(MISSING)} not recorded yet" in repr(claims.table(root=root))


def test_the_contrary_and_one_seed_are_told(root):
    for seed, luck in enumerate((1.0, 1.1, 0.9)):
        write_run(root, "flux2", seed, 30.0 * luck)
    write_run(root, "x-pred", 0, 10.0)
    found = {f.claim.recipe: f for f in claims.findings(root=root) if f.metric.name == "fid" and f.claim.against == "baseline"}
    assert found["flux2"].verdict == f"{NOT}: the opposite" and "one seed" in found["x-pred"].verdict
    row = next(row for row in repr(claims.table(root=root)).splitlines() if "x-pred / baseline" in row)
    assert "−50 %" in row and "[" not in row


def test_older_recipes_of_a_name_are_not_mixed_in(root):
    write_run(root, "repa", 0, 1.0, id="ffffffff")
    found = {f.claim.recipe: f for f in claims.findings(root=root) if f.metric.name == "fid" and f.claim.against == "baseline"}
    assert found["repa"].verdict == MISSING


def test_the_page_of_a_method_shows_its_own_claims(root):
    shown = claims.table(root=root, recipes=("muon", "bf16"))
    pairs = {f"{name} / baseline{place}" for name in ("muon", "bf16") for place in ("", f" at {LONG}")}
    assert {row[1] for row in shown.rows} - {" "} == pairs and "12 measures of 2 claims" in repr(shown)
    own = [line(f) for f in claims.findings(root=root) if f.claim.recipe in ("muon", "bf16")]
    assert [line(f) for f in claims.findings(root=root, recipes=("muon", "bf16"))] == own  # the noise is that of all recipes, also here
    with pytest.raises(LabError, match="claims nothing that haste would test"):
        claims.table(root=root, recipes=("haste",))


def test_a_table_without_any_record_says_so(tmp_path):
    assert f"{len(claims.findings(root=tmp_path))} not recorded yet" in repr(claims.table(root=tmp_path))
    for make in (ranks.ranks, arrivals.speedups):
        with pytest.raises(LabError):
            make(root=tmp_path)
    with pytest.raises(LabError, match="nothing can be said about seeds"):
        findings.detectables(Table.of("cpu", root=tmp_path))


# ------------------------------------------------------------------------------------------------ other tables
def test_ranks_of_equal_order_agree(root):
    made = ranks.pairs("fid", root=root)
    assert {pair.recipe for pair in made} == set(TRUE)
    row = ranks.ranks(root=root, metrics=["fid"]).rows[0]
    known = stats.kendalltau([pair.post for pair in made], [TRUE[pair.recipe] for pair in made]).statistic
    assert row[1:3] == ("6", "0") and row[3].startswith(f"{known:+.2f} [")


def test_one_of_our_seeds_ranks_as_the_others_do_as_far_as_luck_lets_it(root):
    made = ranks.pairs("fid", root=root)
    changes = np.array([[pair.seeds[seed] for seed in range(3)] for pair in made])
    known = [stats.kendalltau(changes[:, one], np.delete(changes, one, 1).mean(1)).statistic for one in range(3)]
    assert ranks.repeated(made) == pytest.approx(sum(known) / 3) and min(known) < 1
    assert ranks.ranks(root=root, metrics=["fid"]).rows[0][-1] == f"{sum(known) / 3:+.2f}"
    assert math.isnan(ranks.repeated(made[:3])) and math.isnan(ranks.repeated([replace(pair, seeds={0: 1.0}) for pair in made]))
    same = [replace(pair, seeds=dict.fromkeys(range(2), pair.ours)) for pair in made]
    assert ranks.repeated(same) == pytest.approx(1)


def test_rows_with_one_seed_are_counted_and_open_and_no_other_scale_is_among_them(root):
    write_run(root, "flux2", 0, 12.0)
    for name, fid in (("jit", 20.0), ("jit-tread", 10.0)):
        write_run(root, name, 0, fid, scale=claims.MANY)
        write_run(root, name, 0, fid)
    assert {pair.recipe: len(pair.seeds) for pair in ranks.pairs("fid", root=root)} == dict.fromkeys(TRUE, 3) | {"flux2": 1}
    (only,) = ranks.pairs("fid", claims.MANY, root)
    assert only.recipe == "jit-tread" and only.post == pytest.approx(14.1 / 17.42 - 1)
    assert only.ours == pytest.approx(-0.5) and only.seeds == {0: pytest.approx(-0.5)}
    shown = ranks.ranks(root=root, metrics=["fid"])
    assert shown.rows[0][1:3] == ("7", "1") and "luck in which ablations" in repr(shown)
    points = [line for line in ranks.scatter(root=root).figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted(point.get_fillstyle() for point in points) == ["full"] * 6 + ["none"]


def test_what_real_images_score_moves_no_claim(root):
    """Other scenes are no floor of a generator that draws the reference's own captions: a change is a share of the whole distance."""
    before = {line(one) for one in claims.findings(root=root)}
    for path in (root / "cpu").glob("baseline-*/seed*/eval.json"):
        told = json.loads(path.read_text())
        write_json(path, told | {"ceiling": told["ceiling"] | {"fid": {"value": told["metrics"]["fid"]["value"]}}})
    assert {line(one) for one in claims.findings(root=root)} == before
    (muon,) = [one.ours for one in claims.findings(root=root, recipes=("muon",)) if one.metric.name == "fid" and not one.claim.scale]
    values = {name: {run.seed: run.metric("fid") for run in records(root, "cpu", name)} for name in ("muon", "baseline")}
    logs = [math.log(values["muon"][seed] / values["baseline"][seed]) for seed in values["muon"]]
    assert muon.mean == pytest.approx(math.exp(sum(logs) / len(logs)) - 1)


def test_sharing_seeds_is_told_to_narrow_what_it_narrows(root):
    """Luck is shared in the fixture; here a recipe has luck of its own, as large and the other way round."""
    factor = lambda text: float(text.partition("log ratio is ")[2].split()[0])  # noqa: E731
    table = Table.of("cpu", ["repa"], metrics=["fid"], root=root)
    assert factor(repr(findings.pairing(table))) < 0.5
    for seed, luck in enumerate((1.0, 0.9, 1.1)):
        write_run(root, "irepa", seed, 20.0 * luck)
    table = Table.of("cpu", ["irepa"], metrics=["fid"], root=root)
    assert factor(repr(findings.pairing(table))) > 1


def test_a_score_that_never_moves_says_nothing_about_seeds(tmp_path):
    for name in ("baseline", "repa"):
        for seed in range(3):
            folder = write_run(tmp_path, name, seed, 20.0 + seed)
            told = json.loads((folder / "eval.json").read_text())
            told["metrics"]["composition"]["value"] = 0.0
            write_json(folder / "eval.json", told)
    table = Table.of("cpu", metrics=["fid", "composition"], root=tmp_path)
    assert "composition" not in repr(findings.pairing(table)) and "lab-FID" in repr(findings.pairing(table))
    assert repr(findings.detectables(table))


def test_a_recipe_judged_on_other_images_tests_no_claim(root):
    for run in records(root, "cpu", "muon"):
        write_json(run.folder / "recipe.json", run.recipe | {"data": "photos"})
    assert {one.verdict for one in claims.findings("cpu", root, ("muon",)) if not one.claim.scale} == {claims.APART}
    assert "muon" not in [pair.recipe for pair in ranks.pairs("fid", "cpu", root)]


def test_runs_of_other_settings_share_no_luck_of_a_seed(root):
    """Noise is what is left of a recipe and a seed; the seeds of another scale or another judge are other seeds."""
    before = pairs.noises(records(root).found, "cpu", "fid")
    for seed, fid in enumerate((5.0, 5.2, 5.4)):  # rises where the luck of the others goes up and down
        folder = write_run(root, "sprint", seed, fid)
        write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "photo"}})
    after = pairs.noises(records(root).found, "cpu", "fid")
    assert after.freedom == before.freedom and after.typical.value == pytest.approx(before.typical.value)


def test_a_recipe_whose_scale_was_changed_tests_no_claim(root):
    before = pairs.noises(records(root).found, "cpu", "fid").typical
    for seed in range(3):
        folder = write_run(root, "sprint", seed, 5.0 + 40 * seed)
        write_json(folder / "recipe.json", {"type": "Recipe", "scale": asdict(SCALES["cpu"]) | {"steps": 20}})
    assert {one.verdict for one in claims.findings("cpu", root, ("sprint",))} == {claims.APART}
    after = pairs.noises(records(root).found, "cpu", "fid").typical
    assert (after.value, after.freedom) == pytest.approx((before.value, before.freedom))
    table = Table.of("cpu", root=root)
    assert "trained at other settings, so without a difference: sprint." in repr(table)
    assert math.isnan(next(row for row in table.rows if row.label == "sprint").cells["fid"].difference()[0])


def test_detectable_differences_shrink_with_seeds(root):
    head, _, row, *_ = repr(findings.detectables(Table.of("cpu", metrics=["fid"], root=root))).splitlines()
    assert row.startswith("lab-FID") and row.split()[2] == "6" and "a row sees with 3" in head and "with 2" not in head
    write_run(root, "sprint", 0, 25.0)
    write_run(root, "sprint", 1, 27.5)
    again = findings.detectables(Table.of("cpu", metrics=["fid"], root=root))
    rows = Table.of("cpu", metrics=["fid"], root=root).rows
    whole = family.noise({row.label: row.cells["fid"].values for row in rows})
    pairs = [whole.between(row.label, "baseline") for row in rows if not row.is_baseline]
    step = np.median([detectable(error(pair, 3), pair.freedom) for pair in pairs])
    assert again.rows[0][-1] == f"{100 * (1 - math.exp(-step)):.0f} %"  # a distance can be divided, and never falls below zero
    two, three = (float(again.rows[0][i].split()[0]) for i in (3, 4))
    assert two > 3 * three


def test_speedups_leave_out_what_is_judged_otherwise(root):
    for seed in range(3):
        folder = write_run(root, "camera", seed, 5.0)
        write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "photo"}})
    shown = {row[0]: row for row in arrivals.speedups(root=root).rows}
    assert next(iter(shown)) == "repa-dense" and set(shown) == set(TRUE)
    assert "only indicative" in repr(arrivals.speedups(root=root)) and float(shown["muon"][4].split()[0]) < 1
    for seed in range(3):  # a step of muon takes twice as long: half as many times sooner in seconds as in steps, or so
        folder = root / "cpu" / "muon-0123abcd" / f"seed{seed}"
        told = json.loads((folder / "eval.json").read_text())
        write_json(folder / "eval.json", told | {"curve": [point | {"seconds": 2 * point["seconds"]} for point in told["curve"]],
                                                 "throughput": {"images_per_s": 50.0}})  # fmt: skip
    shown = {row[0]: row for row in arrivals.speedups(root=root).rows}
    assert shown["muon"][5] == "−50 %" and float(shown["muon"][2].split()[0]) == pytest.approx(
        2 * float(shown["muon"][3].split()[0]), abs=0.02
    )
    [row] = arrivals.sooner(1.0, ("muon", "camera"), root=root).rows
    assert row[0] == "muon" and row[2] == shown["muon"][3] and row[4] == shown["muon"][2] and (row[3], row[5]) == ("missed", "reached")
    with pytest.raises(LabError, match="No run of haste shares a seed with baseline"):
        arrivals.sooner(3.0, ("haste",), root=root)
    assert [row[0] for row in arrivals.speedups(root=root, recipes=("muon", "camera", "tread")).rows] == ["muon", "tread"]
    with pytest.raises(LabError, match="No recipe of haste has a curve, shares a seed with baseline"):
        arrivals.speedups(root=root, recipes=("haste",))
    assert float(shown["muon"][4].split()[0]) > 1 and float(shown["tread"][4].split()[0]) > 1
    assert all("not reached" in shown[name][2] for name in ("short-captions", "bf16", "tread")) and "[" in shown["muon"][2]


def test_whole_short_runs_are_held_against_whole_runs_of_the_baseline(root):
    for seed, luck in enumerate((1.0, 1.1, 0.9)):
        write_run(root, "muon", seed, 10.0 * luck, scale="cpu-short")
        write_run(root, "muon-low-lr", seed, 10.0, scale="cpu-short")
    shown = arrivals.shortened(("muon", "muon-low-lr", "sprint"), root=root)
    assert [row[:3] for row in shown.rows] == [("muon", "3", "0.50 [0.50, 0.50]"), ("muon-low-lr", "3", shown.rows[1][2])]
    lo, hi = (float(end) for end in shown.rows[1][2].partition("[")[2].rstrip("]").split(","))
    assert lo < 0.5 < hi and "? steps against ?" in repr(shown) and shown.rows[0][3] == ""  # these logs have no rates
    for scale, name, rate in (("cpu", "baseline", 60.0), ("cpu-short", "muon", 40.0)):
        folder = root / scale / f"{name}-0123abcd" / "seed0"
        steps = SCALES[scale].steps
        write_json(folder / "recipe.json", {"scale": {"steps": steps, "batch": 1}, "phases": []})
        write_lines(folder / "train.jsonl", [{"step": step, "images_per_s": rate} for step in range(0, steps, 10)])
    shown = arrivals.shortened(("muon",), root=root)
    assert shown.rows[0][3] == "0.50" and "200 steps against 600" in repr(shown)  # 200 steps at 40 a second over 600 at 60
    with pytest.raises(LabError, match="No run of sprint at cpu-short scale shares a seed with baseline at cpu scale yet"):
        arrivals.shortened(("sprint",), root=root)
    for seed in range(3):
        folder = write_run(root, "muon", seed, 10.0, scale="mine")
        write_json(folder / "recipe.json", {"scale": {"steps": 200, "eval_n": 64}, "phases": []})
    with pytest.raises(LabError, match="mine and cpu are not judged alike"):
        arrivals.shortened(("muon",), short="mine", root=root)
    write_run(root, "baseline", 0, 20.0, scale="mine")
    write_json(root / "mine" / "baseline-0123abcd" / "seed0" / "recipe.json", {"scale": {"steps": 200, "eval_n": 64}, "phases": []})
    assert arrivals.speedups("mine", root).rows[0][0] == "muon"  # a scale of one's own has no study of its images


def test_a_change_of_more_than_ten_times_is_told_as_a_factor():
    assert (
        claims.interval(Estimate(2, 0.5, -0.1, 1.2)) == "+50 % [−10, +120]"
        and claims.interval(Estimate(1, 0.5, math.nan, math.nan)) == "+50 %"
    )
    assert (
        claims.interval(Estimate(2, 299.0, 179.0, 509.0)) == "× 300 [180, 510]"
        and claims.interval(Estimate(1, 36.0, math.nan, math.nan)) == "× 37"
    )
    assert claims.interval(Estimate(2, 12.0, -1.4, 60.0)) == "× 13 [0.0, 61]"


def test_a_run_that_borrows_its_weights_tells_nothing_about_the_luck_of_training(root):
    """The same network judged otherwise has the same luck: counting it again would make the noise look better known than it is."""
    shown = lambda: findings.noise_of(Table.of("cpu", metrics=["fid"], root=root), "fid")  # noqa: E731
    alone = pairs.noises(records(root).found, "cpu", "fid"), shown()
    for seed, luck in enumerate((1.0, 1.1, 0.9)):
        folder = write_run(root, "half-guidance", seed, 5.0 * luck)
        env = json.loads((folder / "env.json").read_text())
        write_json(folder / "env.json", env | {"trained": {"run": f"cpu/baseline-0123abcd/seed{seed}", "env": env}})
    for then, now in zip(alone, (pairs.noises(records(root).found, "cpu", "fid"), shown())):
        assert (then.typical, then.freedom) == (now.typical, now.freedom)
    one = pairs.measured(records(root).found, "half-guidance", "baseline", "fid", "cpu", pairs.noises(records(root).found, "cpu", "fid"))
    assert one.n == 3 and one.lo < one.mean < one.hi  # and it has the noise that the others teach
