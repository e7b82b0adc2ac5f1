"""A forest plot: every point and line is what the records say, and a recipe judged otherwise is not among them."""

import json
import math

import pytest

from prx_lab.claims import noises
from prx_lab.columns import METRICS
from prx_lab.errors import LabError
from prx_lab.evidence import change
from prx_lab.forest import BETTER, POST, WORSE, branches, forest, ranked
from prx_lab.record import records, write_json
from prx_lab.show import GREY
from tests.made_up import write_run

NOISE = (1.00, 1.02, 0.98)


@pytest.fixture
def root(tmp_path):
    for i, (name, factor) in enumerate({"baseline": 1.0, "muon": 0.5, "tread": 2.0, "repa": 1.001}.items()):
        for seed, luck in enumerate((20.0, 24.0, 18.0)):
            write_run(tmp_path, name, seed, luck * factor * NOISE[(seed + i) % 3])
    write_run(tmp_path, "flux2", 0, 14.0)
    return tmp_path


def drawn(plot, marker):
    """{x: fill style} of the points of one marker; a point at NaN is not drawn."""
    lines = [line for line in plot.figure.axes[0].lines if line.get_marker() == marker]
    return {float(x): line.get_fillstyle() for line in lines for x in line.get_xdata() if math.isfinite(x)}


def test_points_are_ratios_over_common_seeds_the_best_on_top(root):
    plot = forest(root=root)
    axis = plot.figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["muon (3)", "flux2 (1)", "repa (3)", "tread (3)"]
    assert list(drawn(plot, "o").values()).count("none") == 1
    assert min(drawn(plot, "o")) == pytest.approx(0.5, rel=0.02) and max(drawn(plot, "o")) == pytest.approx(2, rel=0.02)
    assert "muon 0.5" in repr(plot) and axis.get_ylim()[0] > axis.get_ylim()[1]


def test_the_best_comes_first_in_either_direction(root):
    assert ranked(root=root) == ("muon", "flux2", "repa", "tread") and ranked(root=root, among=("tread", "muon")) == ("muon", "tread")
    assert ranked("composition", root=root) == ("muon", "flux2", "repa", "tread")  # made up as 1 / FID


def test_a_line_is_the_interval_with_the_noise_of_the_scale(root):
    one = next(b for b in branches("fid", ("muon",), "cpu", "baseline", root))
    found = records(root).found
    values = {name: {run.seed: run.metric("fid") for run in found if run.name == name} for name in ("muon", "baseline")}
    assert one.ours == change(values["muon"], values["baseline"], noises(found, "cpu", "fid"))
    line = next(
        line for line in forest(("muon",), root=root).figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2
    )
    assert list(line.get_xdata()) == pytest.approx([1 + one.ours.lo, 1 + one.ours.hi])


def test_colours_follow_intervals_and_the_direction_of_the_metric(root):
    fid = {b.name: b.colour(METRICS["fid"]) for b in branches("fid", ranked(root=root), "cpu", "baseline", root)}
    assert fid == {"muon": BETTER, "tread": WORSE, "repa": GREY, "flux2": GREY}
    right = {b.name: b.colour(METRICS["composition"]) for b in branches("composition", ranked(root=root), "cpu", "baseline", root)}
    assert right["muon"] == BETTER and right["tread"] == WORSE  # a share of right answers, made up as 1 / FID


def test_the_posts_change_stands_beside_where_it_printed_one(root):
    plot = forest(("muon", "repa"), root=root)
    assert sorted(drawn(plot, "D")) == pytest.approx(sorted([15.55 / 18.2, 16.6 / 18.2]))
    assert {line.get_color() for line in plot.figure.axes[0].lines if line.get_marker() == "D"} == {POST}
    assert not drawn(forest(("muon",), baseline="repa", root=root), "D")


def test_a_recipe_judged_otherwise_is_shown_only_where_it_is_named(root):
    write_run(root, "camera", 0, 20.0)
    path = next(root.glob("cpu/camera-*/seed0/recipe.json"))
    write_json(path, json.loads(path.read_text()) | {"reference": {"style": "photo"}})
    assert "camera" not in repr(forest(root=root)) and "camera" in repr(forest(("camera",), root=root))


def test_what_is_not_recorded_is_said(root, tmp_path_factory):
    with pytest.raises(LabError, match="No recipe of sprint shares a seed with baseline at cpu scale yet"):
        forest(("sprint",), root=root)
    with pytest.raises(LabError, match="No run of baseline is recorded"):
        forest(root=tmp_path_factory.mktemp("empty"))
