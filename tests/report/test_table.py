"""The scoreboard: its numbers follow from the records, and it says what it does not know."""

import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from prx_lab.errors import LabError
from prx_lab.recipes import PUBLISHED
from prx_lab.record import Record, write_json
from prx_lab.report.columns import METRICS
from prx_lab.report.comparable import elsewhere
from prx_lab.report.findings import detectables, evenness
from prx_lab.report.layout import finer
from prx_lab.report.table import Cell, Table, current_id
from tests.made_up import write_run

BASELINE = {0: 20.0, 1: 22.0, 2: 21.0}
VARIANT = {0: 17.0, 1: 18.0, 3: 50.0}


@pytest.fixture
def root(tmp_path):
    for seed, fid in BASELINE.items():
        write_run(tmp_path, "baseline", seed, fid)
    for seed, fid in VARIANT.items():
        write_run(tmp_path, "repa", seed, fid)
    return tmp_path


def test_two_recipes_of_one_name_at_a_scale_of_ones_own_have_a_row_each(tmp_path):
    for name, id in (("baseline", "0123abcd"), ("muon", "0123abcd"), ("muon", "4567cdef")):
        write_run(tmp_path, name, 0, 20.0, id=id, scale="mine")
    assert [row.label for row in Table.of("mine", root=tmp_path).rows] == ["baseline", "muon-0123abcd", "muon-4567cdef"]
    assert current_id("prx-1.2b", "prx-256") == PUBLISHED["prx-1.2b"].id and current_id("gone", "cpu") == ""


def line(table, start):
    return next(row for row in repr(table).splitlines() if row.startswith(start))


def test_means_and_paired_difference(root):
    data = Table.of("cpu", root=root).to_pandas().set_index(["recipe", "metric"])
    row = data.loc[("repa", "fid")]
    assert (row.n, row["mean"], row.common, row.difference) == (3, pytest.approx(85 / 3), 2, pytest.approx(-3.5))
    half = stats.t.ppf(0.975, 1) * 0.5  # two differences, -3 and -4: sd sqrt(1/2), standard error 1/2
    assert (row.lo, row.hi) == (pytest.approx(-3.5 - half), pytest.approx(-3.5 + half))
    assert row.published == 16.6
    assert data.loc[("baseline", "fid")].sd == pytest.approx(1.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shift=st.floats(-5, 5), fids=st.lists(st.floats(10, 30), min_size=2, max_size=4))
def test_a_constant_shift_is_found_exactly(tmp_path_factory, shift, fids):
    root = tmp_path_factory.mktemp("results")
    for seed, fid in enumerate(fids):
        write_run(root, "baseline", seed, fid)
        write_run(root, "repa", seed, fid + shift)
    row = Table.of("cpu", metrics=["fid"], root=root).to_pandas().iloc[1]
    assert row.difference == pytest.approx(shift, abs=1e-9) and row.hi - row.lo == pytest.approx(0, abs=1e-6)


def test_text_shows_n_interval_post_and_ceiling(root):
    table = Table.of("cpu", recipes=["repa", "irepa"], root=root)
    assert "21.00 ± 1.00" in line(table, "baseline") and line(table, "baseline").split()[1] == "3"
    assert "−3.50 [−9.85, +2.85]" in line(table, "  Δ")
    assert "16.60 (−1.60)" in line(table, "  post: REPA-Dinov2")
    alone = repr(Table.of("cpu", recipes=["repa", "irepa"], root=root, posts=tuple))
    assert "post" not in alone and "−3.50" in alone
    assert "97.5" in line(table, "real images, same judge")
    assert line(table, "irepa: no runs recorded").split()[4] == "0"
    assert len({len(row) for row in repr(table).splitlines()[:4]}) == 1  # aligned
    assert repr(table) == repr(Table.of("cpu", recipes=["repa", "irepa"], root=root))


def test_one_seed_has_no_interval(tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0)
    write_run(tmp_path, "repa", 0, 17.0)
    table = Table.of("cpu", metrics=["fid"], root=tmp_path)
    assert line(table, "baseline").split() == ["baseline", "1", "20.00"]
    assert line(table, "  Δ").split() == ["Δ", "1", "−3.00"]
    assert "[" not in "".join(repr(table).splitlines()[2:5]) and "±" not in repr(table)
    assert "one seed gives no interval" in repr(table)


def test_a_table_without_any_record_says_so(tmp_path):
    for form in (repr, Table.markdown, Table._repr_html_):
        assert "baseline: no runs recorded" in form(Table.of("gpu", root=tmp_path))


@pytest.mark.parametrize(
    "scale, names, sentence",
    [("cpuu", {}, "no scale 'cpuu'"), ("cpu", {"baseline": "basline"}, "'baseline'"), ("cpu", {"recipes": ["repaa"]}, "'repa'")],
)
def test_a_slip_of_the_pen_is_no_empty_table(root, scale, names, sentence):
    with pytest.raises(LabError, match=sentence):
        Table.of(scale, root=root, **names)


def fall(before, goal, after):
    """The share of the way from `before` to `after` at which `goal` lies, in logarithms."""
    return math.log(before / goal) / math.log(before / after)


def test_seconds_to_the_baselines_quality(root):
    # the baseline of seed 0 falls from 40 to 20 in 100 s; a variant that ends at 17 passes 20 between its last two points
    data = Table.of("cpu", root=root).to_pandas().set_index(["recipe", "metric"])
    assert data.loc[("repa", "seconds_to_baseline")].n == 2
    assert data.loc[("repa", "seconds_to_baseline")]["mean"] == pytest.approx(75 + 25 * (fall(27, 20, 17) + fall(28, 22, 18) - 1))
    write_run(root, "tread", 0, 30.0)
    assert "0 of 1 reach it" in line(Table.of("cpu", root=root), "tread")


def test_recipes_that_differ_are_never_averaged(root):
    write_run(root, "repa", 5, 1.0, id="ffffffff")
    data = Table.of("cpu", root=root).to_pandas()
    assert set(data.recipe) == {"baseline", "repa-0123abcd", "repa-ffffffff"}
    write_run(root, "baseline", 5, 1.0, id="ffffffff")
    with pytest.raises(LabError, match="baseline-ffffffff"):
        Table.of("cpu", root=root)
    data = Table.of("cpu", baseline="baseline-ffffffff", recipes=["repa-ffffffff"], root=root).to_pandas()
    assert list(data[data.metric == "fid"].difference) == [0.0, 0.0]


def test_embedded_numbers_never_carry_a_real_name(root):
    assert "lab-FID ↓" in repr(Table.of("cpu", root=root)) and " FID ↓" not in repr(Table.of("cpu", root=root))
    for seed in BASELINE:
        folder = write_run(root, "baseline", seed, 20.0, scale="gpu")
        real = {"metrics": {"fid": {"value": 20.0, "judge": "inception-v3"}}, "n": 100 + seed}
        write_json(folder / "eval.json", real)
    table = Table.of("gpu", metrics=["fid"], root=root)
    assert " FID ↓" in repr(table) and "lab-FID" not in repr(table)
    assert "100 or 101 or 102 images. Sizes differ" in repr(table)


def test_what_makes_numbers_incomparable_is_said(root):
    write_run(root, "tread", 0, 30.0, device="another processor")
    (root / "cpu" / "repa-0123abcd" / "seed9").mkdir()
    (root / "cpu" / "repa-0123abcd" / "seed9" / "recipe.json").write_text("{}")
    text = repr(Table.of("cpu", root=root))
    assert "without a difference of times or of memory: tread. The machines are a processor and another processor." in text
    assert "Skipped: cpu/repa-0123abcd/seed9/env.json is missing" in text


def test_times_of_two_machines_are_not_compared(root):
    """What a step takes on another processor says nothing about a recipe; its scores are compared all the same."""
    row = lambda: next(row for row in Table.of("cpu", ["tread"], root=root).rows if row.label == "tread").cells  # noqa: E731
    for seed in range(3):
        write_run(root, "tread", seed, 15.0)
    for name in ("fid", "images_per_s", "seconds_to_baseline"):
        assert row()[name].common == (0, 1, 2)
    write_run(root, "tread", 2, 15.0, device="another processor")
    assert row()["fid"].common == (0, 1, 2) and row()["images_per_s"].n == 3  # the rate itself is known
    assert row()["images_per_s"].common == row()["seconds_to_baseline"].common == (0, 1) and row()["seconds_to_baseline"].n == 2
    for seed in range(2):
        write_run(root, "tread", seed, 15.0, device="another processor")
    assert row()["images_per_s"].common == row()["seconds_to_baseline"].common == () and row()["fid"].common == (0, 1, 2)


def test_threads_and_borrowed_weights_are_part_of_a_machine(root):
    base = write_run(root, "baseline", 0, 20.0)
    run = write_run(root, "half-guidance", 0, 20.0, device="another processor")
    apart = lambda: elsewhere([Record.load(run)], [Record.load(base)])  # noqa: E731
    assert apart() == {0}
    env = {"device_name": "a processor"}
    write_json(run / "env.json", {"device_name": "another processor", "trained": {"run": "x", "env": env}})
    assert not apart()  # judged elsewhere, trained here
    write_json(run / "env.json", env | {"threads": 2})
    assert apart() == {0}
    write_json(base / "env.json", env | {"threads": 2})
    assert not apart()


def test_a_row_without_its_seeds_says_so(root):
    write_run(root, "tread", 0, 30.0)
    note = next(n for n in Table.of("cpu", recipes=["repa", "tread", "irepa"], root=root).notes if "seeds:" in n)
    assert note == "Fewer than the baseline's 3 seeds: tread (1)."
    assert line(Table.of("cpu", root=root), "tread").split()[1] == "1"
    assert "Fewer" not in repr(Table.of("cpu", recipes=["repa"], root=root))
    for i in range(9):
        write_run(root, f"row{i}", 0, 30.0)
    assert "Fewer than the baseline's 3 seeds: 10 rows, see n." in repr(Table.of("cpu", root=root))


def test_the_baseline_is_told_for_the_seeds_that_a_difference_is_over(root):
    write_run(root, "tread", 0, 30.0)
    write_run(root, "irepa", 0, 30.0)
    write_run(root, "irepa", 2, 30.0)
    notes = Table.of("cpu", recipes=["tread", "irepa"], metrics=["fid", "composition"], root=root).notes
    found = [note for note in notes if "alone" in note]
    one, two = (sum(BASELINE[seed] for seed in seeds) / len(seeds) for seeds in ((0,), (0, 2)))
    assert len(found) == 2 and found[0].startswith("The baseline over seed 0 alone, from which a Δ over it is counted:")
    assert found[0].endswith(f"lab-FID {one:.2f}, composition % {100 / BASELINE[0]:.1f}.") and "seeds 0, 2 alone" in found[1]
    assert f"lab-FID {two:.2f}," in found[1]
    write_run(root, "muon", 0, 10.0)
    write_run(root, "muon", 1, 10.0)
    write_run(root, "muon", 2, 10.0)
    assert "alone" not in repr(Table.of("cpu", recipes=["muon"], root=root))


def test_real_images_are_those_that_the_baseline_is_judged_on(root):
    folder = write_run(root, "camera", 0, 30.0)
    write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "photo", "captions": "long"}})
    found = json.loads((folder / "eval.json").read_text())
    write_json(folder / "eval.json", found | {"ceiling": {"composition": {"value": 0.5}}})
    assert Table.of("cpu", root=root).ceiling == {"composition": pytest.approx(0.975)}


def test_html_and_markdown_hold_the_same_numbers(root):
    table = Table.of("cpu", root=root)
    html = table._repr_html_()
    assert (
        '<td style="text-align:left;padding-left:1.6em">Δ</td>' in html and "<td>3</td>" in html and "−3.50 [" in html and "\u00a0" in html
    )
    for form in (table.markdown(), html.replace("\u00a0", " ")):
        for text in ("21.00 ± 1.00", "−3.50 [−9.85, +2.85]", "97.5", "composition % ↑"):
            assert text in form
    columns = {row.count("|") for row in table.markdown().splitlines() if row.startswith("|")}
    assert len(columns) == 1


def test_a_clear_difference_is_coloured_by_its_direction(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "baseline", seed, 20.0)
        write_run(tmp_path, "repa", seed, 10.0 + 0.01 * seed)
    table = Table.of("cpu", metrics=["fid", "composition"], root=tmp_path)
    html, said = table._repr_html_(), "Bold Δ: its interval excludes zero, for better or for worse."
    assert html.count("#3f9b6c") == 2 and "#c8553d" not in html  # lower FID and higher composition are both better
    assert said in table.markdown() and said not in Table.of("cpu", ["baseline"], root=tmp_path).markdown()


def test_a_bound_that_rounds_to_zero_beside_a_verdict_has_a_digit_more():
    ours = {0: 0.0400, 1: 0.0402}
    clear, unclear = Cell(ours, {0: 0.0412, 1: 0.04128}), Cell(ours, {0: 0.0412, 1: 0.0390})
    metric = METRICS["cmmd"]
    lo, hi = clear.difference()[1:]
    assert hi < 0 and metric.show(hi, sign=True) == "0.000" and finer(clear, metric).show(hi, sign=True) != "0.0000"
    assert finer(unclear, metric) is metric


def test_a_table_says_what_its_median_row_would_show(root):
    text = "\n".join(Table.of("cpu", root=root).notes)
    assert "the median row of a column would show, 80 times of 100, a true difference of lab-FID" in text
    assert "images/s" not in text.split("80 times of 100")[1].split("\n")[0]


def test_an_unknown_metric_is_corrected(root):
    with pytest.raises(LabError, match="Did you mean 'fid'"):
        Table.of("cpu", metrics=["fdi"], root=root)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6))
def test_a_shown_value_reads_back(value):
    for metric in METRICS.values():
        shown = metric.show(value, sign=True)
        assert float(shown.replace("−", "-")) == pytest.approx((100 if metric.percent else 1) * value, abs=0.5 * 10**-metric.digits + 1e-6)
        assert not shown.lstrip("+−").strip("0.") == "" or shown[0] not in "+−"
        assert metric.show(math.nan) == "–"


def test_seeds_of_different_versions_of_the_code_are_told(root):
    other = "Recorded with other code than the baseline's same seed: repa."
    note = "Seeds recorded with different versions of the code: repa. Their speeds do not compare."
    assert note not in repr(Table.of("cpu", root=root))
    (folder,) = (root / "cpu").glob("repa-*/seed0")
    write_json(folder / "env.json", {"python": "3", "git": {"commit": "another"}})
    assert note in repr(Table.of("cpu", root=root)) and other in repr(Table.of("cpu", root=root))


def test_code_that_differs_from_the_baselines_is_told_also_of_weights_that_were_taken_over(root):
    """Every row has one version of its own code; only the weights of the second were trained with another."""
    told = "Recorded with other code than the baseline's same seed: "
    git = {"git": {"commit": "a"}}
    for name in ("baseline", "repa"):
        for folder in (root / "cpu").glob(f"{name}-*/seed*"):
            write_json(folder / "env.json", {"python": "3", **git})
    assert told not in repr(Table.of("cpu", root=root))
    for folder in (root / "cpu").glob("repa-*/seed*"):
        write_json(folder / "env.json", {"python": "3", **git, "trained": {"run": "x", "env": {"git": {"commit": "b"}}}})
    text = repr(Table.of("cpu", root=root))
    assert told + "repa." in text and "Seeds recorded with different" not in text


def test_a_seed_that_never_arrives_leaves_no_difference_over_the_others(root):
    for seed, fid in {0: 17.0, 1: 30.0}.items():
        write_run(root, "tread", seed, fid)
    data = Table.of("cpu", root=root).to_pandas().set_index(["recipe", "metric"])
    row = data.loc[("tread", "seconds_to_baseline")]
    assert row.n == 2 and row.common == 0 and math.isnan(row.difference) and data.loc[("tread", "fid")].common == 2
    assert "1 of 2 reach it" in line(Table.of("cpu", root=root), "tread")
    with pytest.raises(LabError, match="nothing can be said about seeds"):
        detectables(Table.of("cpu", ["tread"], metrics=["seconds_to_baseline"], root=root))


def test_a_row_judged_otherwise_has_values_and_no_difference(tmp_path):
    for name, fid in (("baseline", 20.0), ("camera", 10.0), ("repa", 15.0)):
        folder = write_run(tmp_path, name, 0, fid)
        if name == "camera":
            write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "photo", "captions": "long"}})
        if name == "baseline":  # a record from before the field has the reference that everything had
            write_json(folder / "recipe.json", {"type": "Recipe", "reference": {"style": "render", "captions": "long"}})
    table = Table.of("cpu", metrics=("fid", "seconds_to_baseline"), root=tmp_path)
    rows = {row.label: row.cells for row in table.rows}
    assert rows["camera"]["fid"].mean == 10.0 and not rows["camera"]["fid"].common and not rows["camera"]["seconds_to_baseline"].n
    assert rows["repa"]["fid"].difference()[0] == -5.0
    assert "so without a difference: camera." in repr(table)
    own = Table.of("cpu", ("repa",), baseline="camera", metrics=("fid",), root=tmp_path)
    assert "without a difference: repa." in repr(own)


def test_a_row_that_scatters_more_than_the_others_is_named(tmp_path):
    luck = (0.0, 0.02, -0.01)
    for i, name in enumerate(("baseline", "repa", "tread", "muon", "bf16", "ema")):
        for seed in range(3):
            write_run(tmp_path, name, seed, 20 * math.exp(luck[(seed + i) % 3] * (60 if name == "ema" else 1)))
    told = repr(evenness(Table.of("cpu", metrics=["fid", "images_per_s"], root=tmp_path)))
    assert re.fullmatch(r"lab-FID: × 1\.0[12], alike, as far as seeds tell; apart from them × \d\.\d\d for ema", told)
    calm = repr(evenness(Table.of("cpu", ["repa", "tread", "muon", "bf16"], metrics=["fid", "dino_mmd"], root=tmp_path)))
    assert re.fullmatch(r"lab-FID: × 1\.0[12], alike, as far as seeds tell\nlab-DINO-MMD: no two recipes share two seeds", calm)
    few = Table.of("cpu", ["repa"], metrics=["fid"], root=tmp_path)
    assert repr(evenness(few)).endswith("of too few recipes to compare") and "nan" not in repr(detectables(few))
    with pytest.raises(LabError, match="No two recipes share two seeds at cpu scale yet"):
        evenness(Table.of("cpu", ["sprint"], metrics=["fid"], root=tmp_path))
