"""The luck of images: influences are derivatives, what seeds share of them is told from the rest, and intervals with it cover."""

import math
import shutil

import numpy as np
import pytest
from scipy import stats

from prx_lab import cli, grid
from prx_lab.errors import LabError
from prx_lab.metrics.composition import Composition
from prx_lab.metrics.fid import fid, fid_influences
from prx_lab.metrics.mmd import mmd, mmd_influences
from prx_lab.recipes import RECIPES
from prx_lab.record import Record, records, write_json
from prx_lab.report import claims, findings, luck, pairs
from prx_lab.report.evidence import change
from prx_lab.report.family import Variance, noise
from prx_lab.report.forest import forest
from prx_lab.report.luck import Influences
from prx_lab.scales import Scale
from tests.made_up import write_run

SMALL = Scale("smoke", 32, "simple", 32, 4, 48, 3, 3, 2, 8, 2e-3, 8, 2, 1)
NORMAL = float(stats.norm.ppf(0.975))


# ------------------------------------------------------------------------------------------------ recording
@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run, and one with another scale of guidance that was judged with its weights."""
    root = tmp_path_factory.mktemp("results")
    return [grid.one(RECIPES[name].but(scale=SMALL), 0, root) for name in ("baseline", "half-guidance")]


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_keeps_the_influences_of_its_images_and_gets_them_again_from_its_weights(runs, place, tmp_path):
    """What is drawn again is what was drawn; of the record's interval, which takes the two sets as independent, it has the width."""
    first, told = luck.read(runs[place]), Record.load(runs[place]).eval["metrics"]
    assert {"fid", "cmmd", "dino_mmd"} <= set(first)
    (runs[place] / luck.FILE).rename(tmp_path / luck.FILE)
    assert cli.call(["influences", str(runs[place])]) == 0
    again = luck.read(runs[place])
    for metric, one in first.items():
        assert np.allclose(one.generated, again[metric].generated, rtol=1e-2, atol=1e-2 * one.generated.std())
        if len(one.real):
            variance = one.generated.var(ddof=1) / len(one.generated) + one.real.var(ddof=1) / len(one.real)
            half = (told[metric]["hi"] - told[metric]["value"]) / told[metric]["value"]
            assert NORMAL * math.sqrt(variance) == pytest.approx(half, rel=2e-3)


def test_what_cannot_be_drawn_again_or_read_is_told_in_a_sentence(runs, tmp_path, capsys):
    folder = write_run(tmp_path, "baseline", 0, 2.0)
    assert luck.read(folder) == {}
    assert cli.call(["influences", str(folder)]) == 2 and capsys.readouterr().err.strip().endswith(".")
    (folder / luck.FILE).write_text("no tensors")
    with pytest.raises(LabError, match="delete it and record it again"):
        luck.read(folder)
    other = tmp_path / "smoke" / runs[0].parent.name / "seed0"
    shutil.copytree(runs[0], other)
    changed = Record.load(other).eval
    changed["metrics"]["fid"]["value"] *= 1.2
    write_json(other / "eval.json", changed)
    assert cli.call(["influences", str(other)]) == 2 and "its images drawn again have" in capsys.readouterr().err


def test_influences_that_half_precision_does_not_hold_are_not_kept(tmp_path):
    luck.write(tmp_path, {"fid": Influences(np.array([1.0, 2.0]), np.array([1e9, 2.0])), "cmmd": Influences(np.arange(2.0), luck.NOTHING)})
    assert set(luck.read(tmp_path)) == {"cmmd"}


@pytest.mark.parametrize("influences, distance", [(fid_influences, fid), (mmd_influences, mmd)])
def test_an_influence_is_the_derivative_of_the_weight_of_an_image(influences, distance):
    """A set in which one image stands once more than the others moves the distance by its influence over n, less the mean's."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((200, 4)), 0.8 * rng.standard_normal((300, 4)) + 0.3
    value, on_a, on_b = influences(a, b)
    assert value == pytest.approx(distance(a, b))
    copies = 50  # so that one more copy weighs little
    whole = distance(np.concatenate([a] * copies), b)
    for i in (0, 7):
        once_more = distance(np.concatenate([*[a] * copies, a[i : i + 1]]), b)
        assert (once_more - whole) * copies * len(a) == pytest.approx(on_a[i] - on_a.mean(), rel=0.05, abs=0.02 * on_a.std())


def test_the_influence_on_an_accuracy_is_that_of_a_ratio():
    hits, totals = np.array([1, 0, 2, 3]), np.array([2, 1, 2, 4])
    told = Composition({"composition": hits}, {"composition": totals}, np.zeros(4), {})
    moved = [((hits.sum() + 1e-6 * h) / (totals.sum() + 1e-6 * t) - hits.sum() / totals.sum()) / 1e-6 * 4 for h, t in zip(hits, totals)]
    assert told.influence("composition") == pytest.approx(moved, rel=1e-4)
    with pytest.raises(LabError, match="kind 'composition'"):
        Composition({"composition": hits * 0}, {"composition": totals * 0}, np.zeros(4), {}).influence("composition")


# ------------------------------------------------------------------------------------------------ differences
def test_what_seeds_share_is_told_from_what_they_do_not(tmp_path):
    """Of a difference of variance 1 + 4 over images the seeds share the part of 1; and all real images move the two recipes differently."""
    rng, n, m = np.random.default_rng(0), 40_000, 80_000
    kept, real = rng.normal(0, 1, n), rng.normal(0, 3, m)
    runs, base = [], []
    for seed in range(2):
        own = rng.normal(0, 1, n)
        theirs, ours = write_run(tmp_path, "baseline", seed, 2.0), write_run(tmp_path, "repa", seed, 1.0)
        luck.write(theirs, {"fid": Influences(own, real)})
        luck.write(ours, {"fid": Influences(own + kept + rng.normal(0, 2, n), real / 3)})
        runs, base = [*runs, Record.load(ours)], [*base, Record.load(theirs)]
    expected = 1 / n + 4 / m
    assert luck.shared(runs, base, "fid") == pytest.approx(expected, rel=0.05)
    assert luck.shared(runs[:1], base, "fid") == pytest.approx(expected + 4 / n, rel=0.05)
    ours, theirs = luck.both(runs, base, "fid")[0]
    assert luck.alone(theirs) == pytest.approx(1 / n + 9 / m, rel=0.05)
    assert luck.paired(ours, theirs) == pytest.approx(expected + 4 / n, rel=0.05)
    assert math.isnan(luck.shared(runs, base, "cmmd")) and math.isnan(luck.shared(runs[:1], base[1:], "fid"))
    luck.write(runs[0].folder, {"fid": Influences(kept[:7], real)})
    with pytest.raises(LabError, match="repa and baseline were judged on different images"):
        luck.shared(runs, base, "fid")


def test_a_scene_moves_a_score_by_both_of_its_images():
    """A caption's two images pull a distance in opposite directions: the mean distance of made-up one-dimensional sets is the oracle."""
    rng, n, m = np.random.default_rng(0), 50, 200
    gaps, variances = [], []
    for _ in range(2000):
        real = rng.normal(0, 1, m)
        generated = 0.8 * real[:n] + rng.normal(0.5, 0.6, n)
        gaps.append(generated.mean() - real.mean())
        variances.append(luck.alone(Influences(generated, -real)))
    assert np.mean(variances) == pytest.approx(np.var(gaps), rel=0.08)
    assert np.var(gaps) < 0.8 * (1 / n + 1 / m)  # what two independent sets would have


def boards(rng, trials, recipes=6, seeds=3, n=80):
    """Log scores of recipes on scenes that all seeds share: training, a scene for a recipe, and a scene for a recipe at one seed."""
    for _ in range(trials):
        kept, own = rng.normal(0, 1, (recipes, 1, n)), rng.normal(0, 0.7, (recipes, seeds, n))
        logs = (kept + own).mean(2) + rng.normal(0, 0.1, (recipes, seeds)) + rng.normal(0, 0.3, seeds)
        logs[1] += 0.3
        yield {f"r{i}": dict(enumerate(np.exp(row).tolist())) for i, row in enumerate(logs)}, (kept + own)[1] - (kept + own)[0]


def test_an_interval_with_the_luck_of_images_covers_other_images_and_seeds():
    trials, hits, narrow = 400, 0, 0
    for board, moved in boards(np.random.default_rng(1), trials):
        images, seeds = luck.common(moved / moved.shape[1]), noise(board).between("r1", "r0")
        whole, part = (change(board["r1"], board["r0"], seeds, more) for more in (max(images, 0.0), 0.0))
        hits += whole.lo <= math.expm1(0.3) <= whole.hi
        narrow += part.lo <= math.expm1(0.3) <= part.hi
    assert abs(hits / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials) and narrow / trials < 0.85


@pytest.mark.parametrize("freedom", [1, 2, 30, math.inf])
def test_the_luck_of_images_narrows_no_interval(freedom):
    """Not even one whose seeds have one degree of freedom, where that of the sum of variances would be larger."""
    ours, base = {0: 1.0, 1: 1.3}, {0: 1.0, 1: 1.0}
    halves = [math.log1p(change(ours, base, Variance(0.04, freedom), images).hi) for images in (0.0, 0.001, 0.01, 0.1)]
    assert halves == sorted(halves) and halves[0] < halves[-1]
    same = Variance(0.0, freedom)
    alone = change(ours, base, same, 0.01)
    assert math.log1p(alone.hi) - math.log1p(alone.mean) == pytest.approx(1.96 * 0.1, rel=1e-3)


# ------------------------------------------------------------------------------------------------ showing
@pytest.fixture
def board(tmp_path):
    rng = np.random.default_rng(0)
    for seed, luck_of_seed in enumerate((1.0, 1.1, 0.9)):
        for name, factor in {"baseline": 1.0, "repa": 0.9, "muon": 0.8, "tread": 1.2}.items():
            write_run(tmp_path, name, seed, 20.0 * luck_of_seed * factor * (1 + 0.03 * rng.normal()))
    return tmp_path


def test_claims_and_figures_hold_the_luck_of_images_and_tell_where_it_is(board):
    one = lambda: next(f for f in claims.findings(root=board) if f.claim.recipe == "muon" and f.metric.name == "fid")  # noqa: E731
    drawn = lambda: forest(("muon", "repa"), root=board).figure.axes[0]  # noqa: E731
    before = one()
    assert not before.images and "is in 0 of" in repr(claims.table(root=board))
    assert "without the luck of the judged images: all" in drawn().get_xlabel().replace("\n", " ")
    with pytest.raises(LabError, match="No influences of images"):
        findings.images(root=board)
    rng, n, m = np.random.default_rng(1), 512, 2048
    kept = rng.normal(0, 2, n)
    for name, own in (("baseline", 0.0), ("muon", 1.0)):
        for folder in board.glob(f"cpu/{name}-*/seed*"):
            luck.write(folder, {"fid": Influences(own * (kept + rng.normal(0, 2, n)), np.zeros(m))})
    after = one()
    assert after.images and after.ours.hi - after.ours.lo > 1.5 * (before.ours.hi - before.ours.lo)
    assert "is in 1 of" in repr(claims.table(root=board))
    assert "without the luck of the judged images: repa" in drawn().get_xlabel().replace("\n", " ")
    row = findings.images(root=board).rows[0]
    shown = [float(text.removeprefix("× ")) for text in row[2:]]
    assert row[:2] == ("lab-FID ↓", "1") and shown[1] == pytest.approx(math.exp(math.sqrt(8 / n)), abs=0.02)
    assert shown[2] == pytest.approx(math.exp(2 / math.sqrt(n)), abs=0.02) and shown[2] < shown[1]
    whole = pairs.noises(records(board).found, "cpu", "fid").between(*(next(board.glob(f"cpu/{x}-*")).name for x in ("muon", "baseline")))
    assert row[5] == f"× {math.exp(math.sqrt(whole.value / 3)):.2f}"
