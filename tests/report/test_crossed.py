"""Two changes that multiply have a ratio of ratios of 1, and its interval holds the noise of all four trainings."""

import json
import math

import pytest
from scipy import stats

from prx_lab.errors import LabError
from prx_lab.record import records, write_json
from prx_lab.report import crossed
from prx_lab.report.evidence import Estimate
from prx_lab.report.pairs import noises
from tests.made_up import write_run

LUCK, NOISE = (1.0, 1.1, 0.9), (1.0, 1.02, 0.98)
TECHNIQUE, FASTER = 0.8, 0.5  # what either does alone
ROWS = {"baseline": 1.0, "repa": TECHNIQUE, "high-lr": FASTER}


@pytest.fixture
def root(tmp_path):
    """A technique, a rate, and both: they multiply, but for noise; a fifth recipe tells nothing but how runs scatter."""
    for i, (name, factor) in enumerate((ROWS | {"repa-high-lr": TECHNIQUE * FASTER, "tread": 1.5}).items()):
        for seed, luck in enumerate(LUCK):
            write_run(tmp_path, name, seed, 20 * luck * factor * NOISE[(seed + i) % 3])
    return tmp_path


FIRST, SECOND = ("repa", "baseline"), ("repa-high-lr", "high-lr")


def of(root):
    found = records(root).found
    return crossed.crossing(found, FIRST, SECOND, "fid", noises(found, "cpu", "fid"))


def test_changes_that_multiply_leave_a_ratio_of_one(root):
    one = of(root)
    assert one.seeds == (0, 1, 2)
    assert 1 + one.first.mean == pytest.approx(TECHNIQUE) and 1 + one.second.mean == pytest.approx(TECHNIQUE)
    assert one.moved.mean == pytest.approx(0, abs=1e-12) and one.moved.lo < 0 < one.moved.hi


def test_the_last_interval_has_the_noise_of_four_trainings(root):
    one, found = of(root), records(root).found
    names = [next(run.folder.parent.name for run in found if run.name == name) for name in (*FIRST, *SECOND)]
    whole = noises(found, "cpu", "fid")
    assert whole.between(*names).value == pytest.approx(sum(whole.of(name).value for name in names))
    four = math.log1p(one.moved.hi) - math.log1p(one.moved.mean)
    t = stats.t.ppf(0.975, whole.between(*names[:2]).freedom)
    assert four == pytest.approx(t * math.sqrt(whole.between(*names).value / 3))
    wide = math.log((1 + one.moved.hi) / (1 + one.moved.lo)) / math.log((1 + one.first.hi) / (1 + one.first.lo))
    assert 1.2 < wide < 1.6  # about the root of two


def test_a_technique_that_gains_less_under_the_other_change_is_seen(root):
    for seed, luck in enumerate(LUCK):
        write_run(root, "repa-high-lr", seed, 20 * luck * FASTER * 1.5 * NOISE[seed])
    one = of(root)
    assert 1 + one.moved.mean == pytest.approx(1.5 / TECHNIQUE, rel=0.03) and one.moved.lo > 0


def test_only_seeds_that_all_four_have_count(root):
    write_run(root, "repa", 3, 1.0)  # alone, and so far off that a mean would show it
    one = of(root)
    assert one.seeds == (0, 1, 2) and 1 + one.first.mean == pytest.approx(TECHNIQUE)


@pytest.mark.parametrize("bad", [None, 0.0])
def test_a_seed_counts_where_all_four_have_a_value(root, bad):
    for name, value in (("repa", bad), ("repa-high-lr", 900.0)):  # the seed that falls out of one falls out of all
        folder = write_run(root, name, 2, 1.0)
        told = json.loads((folder / "eval.json").read_text())
        told["metrics"]["fid"]["value"] = value
        write_json(folder / "eval.json", told)
    one = of(root)
    assert one.seeds == (0, 1) and one.first.n == one.second.n == one.moved.n == 2
    assert (1 + one.second.mean) / (1 + one.first.mean) == pytest.approx(1 + one.moved.mean)


def test_the_luck_of_images_widens_the_intervals(root, monkeypatch):
    before = of(root)
    assert before.images == 0 and "recorded for 0 of these 2 pairs" in repr(crossed.table([(FIRST, SECOND)], root=root))
    monkeypatch.setattr(crossed.luck, "shared", lambda *_: 0.01)
    after = of(root)
    for old, new in ((before.first, after.first), (before.moved, after.moved)):
        assert new.lo < old.lo and new.hi > old.hi and new.mean == old.mean


def test_a_table_has_a_line_a_metric_and_leaves_out_what_is_not_recorded(root):
    told = crossed.table([(FIRST, SECOND), (("sprint", "baseline"), ("tread", "high-lr"))], ("fid", "composition"), root=root)
    assert [row[:4] for row in told.rows] == [
        ("repa / baseline", "repa-high-lr / high-lr", m, "3") for m in ("lab-FID ↓", "composition % ↑")
    ]
    assert "sprint / baseline beside tread / high-lr in lab-FID; " in repr(told)
    assert told.rows[0][4].startswith("0.80 [") and told.rows[1][6].startswith("1.00 [")
    with pytest.raises(LabError, match="No four recipes"):
        crossed.table([(("sprint", "baseline"), ("tread", "high-lr"))], root=root)


def test_two_pairs_with_a_recipe_in_common_are_refused(root):
    for again in ("baseline", "baseline-0123abcd"):  # under whichever name
        with pytest.raises(LabError, match="four different recipes"):
            crossed.table([(("repa", "baseline"), ("tread", again))], root=root)


def test_rows_judged_on_other_images_are_not_crossed(root):
    for run in records(root, "cpu", "repa"):
        write_json(run.folder / "recipe.json", run.recipe | {"data": "photos"})
    assert of(root) is None


def test_what_a_change_does_at_two_scales(tmp_path):
    """Its ratio of the ratios is known, and the interval covers both luck of the first scale and of the second."""
    for scale, effect in (("cpu", 2.0), ("cpu-1024", 0.5)):
        for seed in range(3):
            for i, (name, value) in enumerate((("jit", 20.0), ("jit-tread", 20.0 * effect), ("muon", 9.0), ("ema", 25.0))):
                write_run(tmp_path, name, seed, value * LUCK[seed] * NOISE[(seed + i) % 3], scale=scale)
    route = ("jit-tread", "jit")
    [row] = crossed.scales([(route, "cpu", route, "cpu-1024")], root=tmp_path).rows
    assert row[:4] == ("jit-tread / jit at cpu", "jit-tread / jit at cpu-1024", "lab-FID ↓", "3 and 3")
    (first, second, moved) = (float(text.split()[0]) for text in row[4:])
    assert (first, second, moved) == (2.0, 0.5, 0.25)
    a, b = Estimate(3, 1.0, 0.8, 2 * 2 / 1.8 - 1), Estimate(3, -0.5, -0.6, 0.5 * 0.5 / 0.4 - 1)  # even on a logarithm
    half = math.hypot(math.log(2 / 1.8), math.log(0.5 / 0.4))
    found = crossed.moved(a, b)
    assert [math.log1p(v) for v in (found.lo, found.mean, found.hi)] == pytest.approx([math.log(0.25) + d for d in (-half, 0, half)])
    with pytest.raises(LabError, match="No two pairs"):
        crossed.scales([(route, "cpu", route, "cpu-256")], root=tmp_path)
    one = Estimate(1, 0.5, math.nan, math.nan)
    assert math.isnan(crossed.moved(one, one).lo) and crossed.moved(one, one).mean == 0
