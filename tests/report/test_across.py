"""A figure over scales: every point and line is that of `forest` at the scale, and a gap stays a gap."""

import math

import pytest

from prx_lab.errors import LabError
from prx_lab.record import records
from prx_lab.report.across import across, leaves, limits
from prx_lab.report.evidence import Estimate
from prx_lab.report.forest import NARROWEST, branches
from tests.made_up import write_run

PLACES = {"cpu": "64 tokens", "cpu-256": "256", "cpu-1024": "1024"}


@pytest.fixture
def root(tmp_path):
    for scale, factor in {"cpu": 2.0, "cpu-256": 1.5, "cpu-1024": 0.5}.items():
        for seed, luck in enumerate((20.0, 24.0)):
            write_run(tmp_path, "baseline", seed, luck, scale=scale)
            write_run(tmp_path, "tread", seed, luck * factor * (1.02, 0.99)[seed], scale=scale)
    write_run(tmp_path, "sprint", 0, 10.0, scale="cpu")
    write_run(tmp_path, "sprint", 0, 30.0, scale="cpu-1024")
    return tmp_path


def points(axis, marker):
    """(x, y, fill style) of the points of one marker in a panel; the legend's is empty."""
    lines = [line for line in axis.lines if line.get_marker() == marker]
    return [(float(x), float(y), line.get_fillstyle()) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata())]


def test_points_and_lines_are_those_of_each_scale(root):
    plot = across(("tread", "sprint"), PLACES, ("fid", "composition"), root=root)
    for axis, metric in zip(plot.figure.axes, ("fid", "composition")):
        first, second = points(axis, "o"), points(axis, "s")
        assert [round(x) for x, _, _ in first] == [0, 1, 2] and [round(x) for x, _, _ in second] == [0, 2]
        assert {fill for *_, fill in first} == {"full"} and {fill for *_, fill in second} == {"none"}
        drawn = {line.get_xdata()[0]: line.get_ydata() for line in axis.lines if line.get_linewidth() == 2}
        for (x, y, _), scale in zip(first, PLACES):
            (one,) = branches(records(root).found, metric, ("tread",), scale, "baseline")
            assert y == pytest.approx(1 + one.ours.mean) and list(drawn[x]) == pytest.approx([1 + one.ours.lo, 1 + one.ours.hi])
        between = [line.get_ydata() for line in axis.lines if line.get_linestyle() == ":"]
        assert [[math.isnan(y) for y in ys] for ys in between] == [[False] * 3, [False, True, False]]
        assert [text.get_text() for text in axis.get_xticklabels()] == list(PLACES.values())
    assert "FID ↓ of tread cpu 2.0" in repr(plot) and "FID ↓ of sprint cpu 0.50, cpu-1024 1.50" in repr(plot)


def test_an_interval_without_end_leaves_its_panel_and_not_the_others(root):
    assert limits([]) == NARROWEST and limits([Estimate(2, 0.0, -0.5, 1.0)])[1] < 2.5
    endless = limits([Estimate(2, 0.0, -1 + 1e-9, 1e9), Estimate(1, 2.0, math.nan, math.nan)])
    assert endless == pytest.approx((0.1 / 100**0.05, 10 * 100**0.05))
    write_run(root, "tread", 1, 4000.0, scale="cpu-256")
    plot = across(("tread",), PLACES, ("fid",), root=root)
    (one,) = branches(records(root).found, "fid", ("tread",), "cpu-256", "baseline")
    bottom, top = plot.figure.axes[0].get_ylim()
    assert (leaves(one.ours), 1 + one.ours.hi > top) == (True, True) and bottom < 1 + one.ours.mean < top
    assert "a line that meets an edge goes on" in plot.figure.get_suptitle()


def test_one_scale_is_no_comparison(root):
    with pytest.raises(LabError, match="at two of the scales cpu, cpu-256"):
        across(("sprint",), {"cpu": "64", "cpu-256": "256"}, ("fid",), root=root)
    with pytest.raises(LabError, match="marks for 4 recipes and was asked for 5"):
        across(("tread",) * 5, PLACES, ("fid",), root=root)
