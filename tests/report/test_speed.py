"""Records of speed return as written, their intervals are honest, their tables say what was reached; pictures show all of it."""

import math

import numpy as np
import pytest
import torch

from prx_lab.errors import LabError
from prx_lab.report import speed
from prx_lab.report import speed_figures as figures


def test_a_ratio_is_that_of_medians_with_an_interval_over_rounds():
    g = np.random.default_rng(0)
    drift = np.repeat([1.0, 5.0], 20)  # the machine slows down half-way, for both arms
    fast = drift * g.uniform(0.99, 1.01, 40)
    value, lo, hi = speed.ratio(3 * fast * g.uniform(0.99, 1.01, 40), fast)
    assert lo < 3 < hi and 2.9 < lo <= value <= hi < 3.1
    assert speed.ratio([2.0, 8.0, 4.0], [1.0, 2.0, 9.0])[0] == 2.0
    assert speed.ratio([4.0] * 5, [2.0] * 5) == (2.0, 2.0, 2.0)


def test_an_interval_covers_the_ratio_about_as_often_as_it_says():
    g, covered = np.random.default_rng(1), 0
    for _ in range(200):
        lo, hi = speed.ratio(2 * g.lognormal(0, 0.1, 15), g.lognormal(0, 0.1, 15), 400)[1:]
        covered += lo < 2 < hi
    assert 180 <= covered <= 200


def made() -> speed.Record:
    """A record with a ratio that reaches its goal, one that misses it, a fact and two goals."""
    record = speed.Record("step", "A title <b>", facts={"case": {"share": 0.25}})
    times = {"fast": speed.Times([0.1, 0.2, 0.3], [0.1] * 3), "slow": speed.Times([0.3, 0.4, 0.5], [0.2] * 3)}
    record.compare("64 tokens", times, [("fast", "slow", 1.5), ("slow", "fast", 1.5), ("fast", "slow", 0.0)])
    record.goals = [speed.Goal("case", "share", 0.25, 0.3, "at most"), speed.Goal("case", "part", 0.25, 0.3)]
    return record


def test_a_record_comes_back_as_written(tmp_path):
    record = made()
    path = record.save("cpu", tmp_path)
    assert path == tmp_path / "cpu" / "step.json" and speed.devices(tmp_path) == ["cpu"]
    (found,) = speed.load("cpu", tmp_path).values()
    assert found == record and found.machine["packages"]["torch"] == torch.__version__
    assert [one.value for one in found.ratios] == pytest.approx([2.0, 0.5, 2.0])
    assert found.rows[0].spread == pytest.approx(0.25)  # the middle half of 0.1, 0.2, 0.3 is 0.15 to 0.25
    assert speed.load("cuda", tmp_path) == {}


def test_a_record_is_replaced_as_a_whole(tmp_path):
    record = made()
    held = tmp_path / "held.json"
    held.hardlink_to(record.save("cpu", tmp_path))
    before = held.read_text()
    record.facts["case"]["share"] = math.nan
    assert record.save("cpu", tmp_path).read_text() != held.read_text() == before  # what a reader has open stays
    assert speed.load("cpu", tmp_path)["step"].facts["case"]["share"] is None  # strict JSON


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "rows": [{"group": 1}]}', '{"rows": 3, "ratios": [], "goals": []}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "step.json").write_text(text)
    with pytest.raises(LabError, match="step.json (is no record of a|cannot be read as|does not hold a) .*make bench"):
        speed.load("cpu", tmp_path)


def test_tables_say_what_was_reached(tmp_path):
    record = made()
    record.save("cpu", tmp_path)
    said, shown = repr(record), record._repr_html_()
    for text in (said, shown):
        assert text.count("reached") == 2 and text.count("missed") == 2 and "0.25" in text
    assert "A title <b>" in said and "<b>A title &lt;b&gt;" in shown
    board = repr(speed.board({"step": record}))
    assert board.count("reached") == board.count("missed") == 2 and "torch" in board
    assert len(speed.board({"step": record}).rows) == 4  # a ratio without a goal is no claim
    assert repr(speed.Record("empty", "Nothing")) == "Nothing (not saved, ? threads)"


@pytest.mark.parametrize("value, bound, side, reached", [(2, 2, "at least", True), (1.9, 2, "at least", False), (2, 2, "at most", True)])
def test_a_goal_holds_its_bound(value, bound, side, reached):
    assert speed.Goal("", "", value, bound, side).reached is reached


# ---------------------------------------------------------------------------------------------------- figures
def numbers() -> dict[str, speed.Record]:
    """Records of the kinds that figures read, with made-up numbers."""
    roof = {"roof": {"GFLOP/s": 500.0, "GB/s": 20.0}, "step, eager": {"FLOP per byte": 4.0, "GFLOP/s": 100.0}}
    parts = {"bf16, eager": {"attention": 0.6, "casts and copies": 0.395, "draws": 0.005}}
    found = {"step": made(), "roofline": speed.Record("roofline", "", facts=roof), "breakdown": speed.Record("breakdown", "", facts=parts)}
    for tokens, value in ((64, 1.1), (1024, 1.8)):
        one = speed.Record(f"routing-{tokens}", "", facts={f"{tokens}, TREAD": {"times fewer operations": 1.9}})
        one.ratios = [speed.Ratio(str(tokens), "TREAD", "dense", value, value - 0.1, value + 0.1, value)]
        found[one.name] = one
    return found


def test_pictures_say_what_they_show():
    found = numbers()
    assert repr(figures.claims(found)) == "2 claims, 1 of them reached"
    assert repr(figures.shares(found)) == "bf16, eager: most of the time in attention"
    assert repr(figures.roofline(found)) == "roofline: 500 GFLOP/s and 20 GB/s; of the first, step, eager 20%"
    assert repr(figures.routed(found)) == "routing: 64 tokens TREAD 1.10; 1024 tokens TREAD 1.80"
    found["routing-64"].machine = {"device_name": "another processor", "threads": 2}
    with pytest.raises(LabError, match="are of different machines"):
        figures.routed(found)


def test_pictures_hold_the_numbers():
    found = numbers()
    line, *_ = figures.roofline(found).figure.axes[0].lines
    assert line.get_xydata()[1] == pytest.approx([25, 500])  # where the two ceilings meet
    bars = figures.shares(found).figure.axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(100) and len(bars) == 3
    for make in (figures.claims, figures.shares, figures.roofline, figures.routed):
        assert make(found)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("make", [figures.claims, figures.shares, figures.roofline, figures.routed])
def test_a_picture_of_nothing_says_how_to_measure_it(make):
    with pytest.raises(LabError, match="python -m benchmarks"):
        make({})
