"""A forest plot: every point and line is what the records say, and a recipe judged otherwise is not among them."""

import json
import math
from dataclasses import replace

import pytest

from prx_lab.errors import LabError
from prx_lab.record import records, write_json
from prx_lab.report.columns import METRICS
from prx_lab.report.evidence import change
from prx_lab.report.forest import ALL, BETTER, ONE_SEED, POST, WORSE, branches, forest, ranked
from prx_lab.report.pairs import noises
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
    one = next(b for b in branches(records(root).found, "fid", ("muon",), "cpu", "baseline"))
    found = records(root).found
    values = {name: {run.seed: run.metric("fid") for run in found if run.name == name} for name in ("muon", "baseline")}
    muon, baseline = (next(run.folder.parent.name for run in found if run.name == name) for name in values)
    assert one.ours == change(values["muon"], values["baseline"], noises(found, "cpu", "fid").between(muon, baseline))
    line = next(
        line for line in forest(("muon",), root=root).figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2
    )
    assert list(line.get_xdata()) == pytest.approx([1 + one.ours.lo, 1 + one.ours.hi])


def test_verdicts_and_colours_follow_intervals_and_the_direction_of_the_metric(root):
    found = records(root).found
    told = {one.name: one.told(METRICS["fid"]) for one in branches(found, "fid", (*ranked(root=root), "sprint"), "cpu", "baseline")}
    assert told == {
        "muon": "better", "tread": "worse", "repa": "undecided", "flux2": "undecided: one seed",
    }  # fmt: skip
    lines = [line for line in forest(root=root).figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_color() for line in lines if line.get_label() != "here"] == [BETTER, GREY, GREY, WORSE]  # from top to bottom
    muon, tread = (one.told(METRICS["composition"]) for one in branches(found, "composition", ("muon", "tread"), "cpu", "baseline"))
    assert (muon, tread) == ("better", "worse")  # a share of right answers, made up as 1 / FID


def test_the_posts_change_stands_beside_where_it_printed_one(root):
    plot = forest(("muon", "repa"), root=root)
    assert sorted(drawn(plot, "D")) == pytest.approx(sorted([15.55 / 18.2, 16.6 / 18.2]))
    assert {line.get_color() for line in plot.figure.axes[0].lines if line.get_marker() == "D"} == {POST}
    assert not drawn(forest(("muon",), baseline="repa", root=root), "D")


@pytest.mark.parametrize("other", [{"reference": {"style": "photo"}}, {"data": "a folder"}])
def test_a_recipe_judged_otherwise_is_not_shown(root, other):
    write_run(root, "camera", 0, 20.0)
    assert "camera" in repr(forest(("camera",), root=root))
    path = next(root.glob("cpu/camera-*/seed0/recipe.json"))
    write_json(path, json.loads(path.read_text()) | other)
    assert "camera" not in repr(forest(root=root))
    with pytest.raises(LabError, match="and is judged as it is"):
        forest(("camera",), root=root)


def test_a_row_of_the_post_stands_at_its_number_of_tokens(root):
    for scale in ("cpu", "cpu-256", "cpu-1024"):
        for name in ("jit", "jit-tread"):
            write_run(root, name, 0, 20.0, scale=scale)
    posts = [branches(records(root).found, "fid", ["jit-tread"], scale, "jit")[0].post for scale in ("cpu", "cpu-256", "cpu-1024")]
    assert math.isnan(posts[0]) and posts[1:] == pytest.approx([21.61 / 18.2 - 1, 14.1 / 17.42 - 1])  # its own 256 tokens, its 1024


@pytest.mark.parametrize(("fid", "luck"), [(19.0, 0.001), (10.0, 0.2), (400.0, 0.01), (60000.0, 0.01), (0.002, 0.01)])
def test_an_axis_can_be_read_however_narrow_or_wide(tmp_path, fid, luck):
    for seed in range(2):
        write_run(tmp_path, "baseline", seed, 20.0)
        write_run(tmp_path, "muon", seed, fid * (1 + luck * seed))
    axis = forest(("muon",), root=tmp_path).figure.axes[0]
    (lo, hi), shown = axis.get_xlim(), [float(text.get_text().removeprefix("× ")) for text in axis.get_xticklabels()]
    assert (
        lo <= 0.8 and hi >= 1.25 and 3 <= len(shown) <= 6 and all(lo <= tick <= hi for tick in shown) and list(axis.get_xticks()) == shown
    )


def test_the_legend_names_the_post_where_it_is_drawn(root):
    write_run(root, "ema", 0, 14.0)
    legends = [forest(names, root=root).figure.axes[0].get_legend() for names in (("muon",), ("flux2", "ema"), ("ema",))]
    told = [[text.get_text() for text in legend.get_texts()] for legend in legends]
    assert told == [["in the post"], ["one seed", "in the post"], ["one seed"]]
    assert [one.told(METRICS["fid"]) for one in branches(records(root).found, "fid", ("ema",), "cpu", "baseline")] == [ONE_SEED]


def test_a_recipe_that_is_not_recorded_is_named_below(root):
    shown = (("muon", "sprint", "camera"), ("muon",), ALL)
    below = [" ".join(forest(names, root=root).figure.axes[0].get_xlabel().split()) for names in shown]  # wherever its lines end
    luck = "interval without the luck of the judged images: all"
    assert below[0].endswith(f"judged otherwise: sprint, camera {luck}") and below[1:] == [luck, luck]


def test_rows_are_compared_on_the_seeds_that_are_asked_for(root):
    whole = branches(records(root).found, "fid", ("muon", "tread"), "cpu", "baseline")
    write_run(root, "muon", 2, 4000.0)  # a seed that would turn the order round
    write_run(root, "tread", 7, 1.0)
    plot = forest(("muon", "tread", "flux2"), root=root, seeds=(0, 1))
    muon, tread = branches(records(root).found, "fid", ("muon", "tread"), "cpu", "baseline", (0, 1))
    assert (muon.ours.n, tread.ours.n) == (2, 2) and muon.ours.mean == pytest.approx(whole[0].ours.mean, rel=0.05)
    assert [text.get_text() for text in plot.figure.axes[0].get_yticklabels()] == ["muon (2)", "tread (2)", "flux2 (1)"]
    assert "seeds of all rows: 0, 1" in plot.figure.axes[0].get_xlabel()
    assert ranked(root=root, seeds=(0, 1))[0] == "muon" and ranked(root=root)[-1] == "muon"


def test_what_is_timed_or_has_no_width_gets_no_verdict(root):
    one = branches(records(root).found, "fid", ("muon",), "cpu", "baseline")[0]
    assert one.verdict(METRICS["fid"]) == "better" and one.verdict(METRICS["seconds_to_baseline"]) == "undecided"
    assert replace(one, ours=replace(one.ours, lo=-0.5, hi=-0.5)).verdict(METRICS["fid"]) == "undecided"


def test_what_is_not_recorded_is_said(root, tmp_path_factory):
    with pytest.raises(LabError, match="No recipe of sprint shares a seed with baseline and is judged as it is at cpu scale yet"):
        forest(("sprint",), root=root)
    with pytest.raises(LabError, match="No recipe shares a seed"):
        forest(ranked(among=("sprint",), root=root), root=root)
    with pytest.raises(LabError, match="No run of baseline is recorded"):
        forest(root=tmp_path_factory.mktemp("empty"))
