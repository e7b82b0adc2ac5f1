"""The luck of images: influences are those of the recorded intervals, and an interval with it covers other images too."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from prx_lab import claims, cli, findings, grid, luck
from prx_lab.errors import LabError
from prx_lab.evidence import change
from prx_lab.family import Variance
from prx_lab.metrics.composition import Composition
from prx_lab.metrics.fid import fid, fid_influences
from prx_lab.metrics.mmd import mmd, mmd_influences
from prx_lab.recipes import RECIPES
from prx_lab.record import Record, records
from prx_lab.scales import Scale
from tests.made_up import write_run

SMALL = Scale("smoke", 32, "simple", 32, 4, 48, 3, 3, 2, 8, 2e-3, 8, 2, 1)
NORMAL = 1.959964


# ------------------------------------------------------------------------------------------------ recording
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = grid.one(RECIPES["baseline"].but(scale=SMALL), 0, tmp_path_factory.mktemp("results"))
    assert cli.call(["influences", str(folder)]) == 0
    return folder


def test_the_spread_is_that_of_the_recorded_interval(run):
    """The oracle is the interval over images that the run was recorded with."""
    found, told = luck.read(luck.place(run)), Record.load(run).eval["metrics"]
    assert set(found) >= {"fid", "cmmd", "dino_mmd"}
    for metric in ("fid", "cmmd", "dino_mmd"):
        half = (told[metric]["hi"] - told[metric]["value"]) / told[metric]["value"]
        assert NORMAL * math.sqrt(luck.spread(found[metric])) == pytest.approx(half, rel=2e-3)


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


def test_what_cannot_be_drawn_or_read_is_told_in_a_sentence(run, tmp_path, capsys):
    folder = write_run(tmp_path, "baseline", 0, 2.0)
    assert luck.read(luck.place(folder)) == {}
    assert cli.call(["influences", str(folder)]) == 2 and capsys.readouterr().err.strip().endswith(".")
    luck.place(folder).parent.mkdir(parents=True)
    luck.place(folder).write_text("no tensors")
    with pytest.raises(LabError, match="delete it and record it again"):
        luck.read(luck.place(folder))


# ------------------------------------------------------------------------------------------------ differences
def write_influences(folder, **rows):
    luck.place(folder).parent.mkdir(parents=True, exist_ok=True)
    save_file({name.replace("_", "."): np.asarray(row, np.float16) for name, row in rows.items()}, luck.place(folder))


def test_what_seeds_share_is_told_from_what_they_do_not(tmp_path):
    """Of a difference of variance 1 + 4 over images, each seed shares the part of variance 1; the real images are the same for all."""
    rng, n, m = np.random.default_rng(0), 40_000, 80_000
    kept, real = rng.normal(0, 1, n), rng.normal(0, 3, m)
    runs, base = [], []
    for seed in range(2):
        own = rng.normal(0, 1, n)
        theirs = write_run(tmp_path, "baseline", seed, 2.0)
        ours = write_run(tmp_path, "repa", seed, 1.0)
        write_influences(theirs, fid_generated=own, fid_real=real)
        write_influences(ours, fid_generated=own + kept + rng.normal(0, 2, n), fid_real=real / 3)
        runs, base = [*runs, Record.load(ours)], [*base, Record.load(theirs)]
    expected = 1 / n + 4 / m
    assert luck.shared(runs, base, "fid") == pytest.approx(expected, rel=0.05)
    assert luck.shared(runs[:1], base, "fid") == pytest.approx(expected + 4 / n, rel=0.05)
    assert luck.spread(luck.both(runs, base, "fid")[0][1]) == pytest.approx(1 / n + 9 / m, rel=0.05)
    assert math.isnan(luck.shared(runs, base, "cmmd")) and math.isnan(luck.shared(runs[:1], base[1:], "fid"))


def judged_once(rng, seeds=3, n=60):
    """Log ratios, 0.3 and luck: of training, of an image at one seed and of an image at all; and what `common` says of the last."""
    kept, own = rng.normal(0, 1, n), rng.normal(0, 0.7, (seeds, n))
    values = 0.3 + kept.mean() + own.mean(1) + rng.normal(0, 0.1, seeds)
    return dict(enumerate(np.exp(values).tolist())), luck.common(kept + own)


def test_an_interval_with_the_luck_of_images_covers_other_images():
    rng, trials, hits, narrow = np.random.default_rng(1), 600, 0, 0
    for _ in range(trials):
        ratios, images = judged_once(rng)
        noise = Variance(0.1**2 + 0.7**2 / 60, 60)  # what seeds differ by: training, and what each does with an image alone
        base = dict.fromkeys(ratios, 1.0)
        with_images, without = change(ratios, base, noise, max(images, 0.0)), change(ratios, base, noise)
        hits += with_images.lo <= math.expm1(0.3) <= with_images.hi
        narrow += without.lo <= math.expm1(0.3) <= without.hi
    assert abs(hits / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials) and narrow / trials < 0.85


def test_a_variance_that_is_known_lends_its_freedom():
    one = Variance(2.0, 3.0)
    assert one.plus(0.0) is one and one.plus(2.0) == Variance(4.0, 12.0)
    assert Variance(0.0, 3.0).plus(1.0) == Variance(1.0, math.inf)


def test_claims_hold_the_luck_of_images_and_the_table_of_both_says_how_large(tmp_path):
    rng = np.random.default_rng(0)
    for seed, luck_of_seed in enumerate((1.0, 1.1, 0.9)):
        for name, factor in {"baseline": 1.0, "repa": 0.9, "muon": 0.8, "tread": 1.2}.items():
            write_run(tmp_path, name, seed, 20.0 * luck_of_seed * factor * (1 + 0.03 * rng.normal()))
    whole = lambda: claims.noises(records(tmp_path).found, "cpu", "fid")  # noqa: E731
    width = lambda: (one := claims.measured(records(tmp_path).found, "muon", "baseline", "fid", "cpu", whole())).hi - one.lo  # noqa: E731
    before = width()
    with pytest.raises(LabError, match="No influences of images"):
        findings.images(root=tmp_path)
    kept = {name: rng.normal(0, 2, 512) for name in ("baseline", "muon")}
    for name, influence in kept.items():
        for folder in tmp_path.glob(f"cpu/{name}-*/seed*"):
            write_influences(folder, fid_generated=influence, fid_real=np.zeros(2048))
    assert width() > 1.5 * before
    row = findings.images(root=tmp_path).rows[0]
    expected = math.exp(math.sqrt(np.var(kept["muon"] - kept["baseline"], ddof=1) / 512))
    assert row[:2] == ("lab-FID ↓", "1") and row[3] == row[4] == f"× {expected:.2f}"
