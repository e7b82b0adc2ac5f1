"""What notebooks share: real source lines, galleries whose pixels are right, sentences that say what the records say."""

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from made_up import write_run
from PIL import Image

from prx_lab import live, pages, zoo
from prx_lab.errors import LabError
from prx_lab.gallery import GAP, Gallery, enlarge, pca_colours
from prx_lab.metrics.similarity import cka
from prx_lab.record import records, write_json
from prx_lab.report.table import Table
from prx_lab.run import save_grid
from prx_lab.terms.repa import REPALoss

G = np.random.default_rng(0)


def test_source_is_the_file_s_own_text():
    listing = pages.source(REPALoss)
    (file, lines), *_ = listing.parts
    assert file == "prx_lab/terms/repa.py" and lines.startswith("class REPALoss")
    assert lines in (pages.CHECKOUT / file).read_text() and lines in listing._repr_markdown_() and lines in repr(listing)


def test_a_gallery_holds_every_image_once_and_labels_are_escaped():
    rows = {"a <b>": G.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8) // 64 * 64, "c": torch.zeros(3, 3, 16, 16)}
    html = Gallery(rows, ["one", "two", "<three>"])._repr_html_()
    assert html.count("<img") == 2 and "a &lt;b&gt;" in html and "&lt;three&gt;" in html
    uri = html.split('src="')[1].split('"')[0]
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert strip.shape == (16, 3 * 16 + 2 * GAP, 3)
    assert repr(Gallery(rows)) == "2 rows of 3 images, 16 x 16 pixels: a <b>, c"


def test_a_gallery_refuses_ragged_rows():
    one, two = np.zeros((1, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    for rows in ({}, {"a": one, "b": two}):
        with pytest.raises(LabError, match="equally many"):
            Gallery(rows)
    with pytest.raises(LabError, match="as many captions"):
        Gallery({"a": two}, ["x"])


def test_recorded_samples_are_the_tiles_that_were_saved(tmp_path):
    images = G.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    for name in ("repa", "baseline"):
        folder = write_run(tmp_path, name, 0, 10.0)
        write_json(folder / "recipe.json", {"scale": {"size": 8}})
        save_grid(images, folder / "samples.png")
    found = records(tmp_path)
    assert (pages.tiles(found[0]) == images).all()
    gallery = pages.recorded(found, 5)
    assert list(gallery.rows) == ["baseline", "repa"] and gallery.columns == 5


def test_nothing_recorded_is_a_sentence(tmp_path):
    for make in (lambda: pages.recorded(records(tmp_path)), lambda: pages.trials(tmp_path)):
        note = pages.shown(make)
        assert isinstance(note, pages.Note) and "yet" in repr(note)
    assert pages.shown(lambda: 3) == 3


@pytest.mark.parametrize("shift, word", [(-5.0, "better"), (5.0, "worse"), (0.0, "within noise")])
def test_verdicts(tmp_path, shift, word):
    for seed, jitter in enumerate((0.1, -0.2, 0.1, 0.05)):
        write_run(tmp_path, "baseline", seed, 20.0 + seed)
        write_run(tmp_path, "repa", seed, 20.0 + seed + shift + jitter)
    table = Table.of("cpu", ("repa",), root=tmp_path)
    assert pages.verdict(table, "repa", "fid").endswith(f"over 4 seeds: {word}")
    assert "yet" in pages.verdict(table, "repa-dense", "fid")
    with pytest.raises(LabError, match="no column"):
        pages.verdict(table, "repa", "loss")


def test_decided_goes_by_the_intervals_of_the_figures(tmp_path):
    for seed, fid in enumerate((20.0, 24.0, 18.0)):
        for i, (name, factor) in enumerate({"baseline": 1.0, "muon": 0.5, "tread": 2.0}.items()):
            write_run(tmp_path, name, seed, fid * factor * (1.0, 1.02, 0.98)[(seed + i) % 3])
    write_run(tmp_path, "repa", 0, 10.0), write_run(tmp_path, "jit", 7, 10.0)
    told = str(pages.decided("muon", "repa", "ema", "jit", metrics=("fid", "composition"), root=tmp_path)).splitlines()
    assert told[0] == "cpu, muon over baseline: better in lab-FID and composition"  # made up as 1 / FID
    assert told[1] == "cpu, repa over baseline: undecided: one seed"
    assert told[2] == "cpu, ema over baseline: not recorded yet"
    assert told[3] == "cpu, jit over baseline: judged otherwise, or no seed in common"
    assert str(pages.decided("tread", baseline="muon", metrics=("fid",), root=tmp_path)) == "cpu, tread over muon: worse in lab-FID"
    assert str(pages.decided("muon", scale="cpu-256", root=tmp_path)).endswith("not recorded yet")
    for seed, luck in enumerate((2.0, 0.5, 1.0)):  # nearer, with less of the caption right, and with a distance of luck
        [folder] = tmp_path.glob(f"cpu/muon-*/seed{seed}")
        told = json.loads((folder / "eval.json").read_text())
        metrics = told["metrics"]
        other = {"cmmd": {"value": 2 * luck * metrics["cmmd"]["value"]}, "composition": {"value": metrics["composition"]["value"] / 4}}
        write_json(folder / "eval.json", told | {"metrics": metrics | other})
    told = str(pages.decided("muon", metrics=("fid", "cmmd", "composition"), root=tmp_path))
    assert told == "cpu, muon over baseline: better in lab-FID; worse in composition; undecided in lab-CMMD"
    for wrong in ({"names": ["mouon"]}, {"names": ["muon"], "metrics": ["fdi"]}):
        with pytest.raises(LabError, match="There is no"):
            pages.decided(*wrong.pop("names"), root=tmp_path, **wrong)


def test_one_seed_gives_no_verdict(tmp_path):
    write_run(tmp_path, "baseline", 0, 20.0), write_run(tmp_path, "repa", 0, 10.0)
    assert pages.verdict(Table.of("cpu", ("repa",), root=tmp_path), "repa", "fid").endswith("no verdict")


def test_equal_differences_and_times_give_no_verdict(tmp_path):
    for seed, rates in enumerate(((100.0, 140.0), (101.0, 142.0), (99.0, 139.0))):
        for name, rate, fid in zip(("baseline", "repa"), rates, (20.0, 18.0)):
            folder = write_run(tmp_path, name, seed, fid + seed)
            told = json.loads((folder / "eval.json").read_text())
            write_json(folder / "eval.json", told | {"throughput": told["throughput"] | {"images_per_s": rate, "peak_memory_mb": rate}})
    table = Table.of("cpu", ("repa",), metrics=("fid", "images_per_s", "peak_memory_mb"), root=tmp_path)
    assert pages.verdict(table, "repa", "fid") == "repa, lab-FID ↓: −2.00 in each of 3 seeds: no spread, no verdict"
    assert pages.verdict(table, "repa", "images_per_s").endswith("over 3 seeds: indicative, no verdict")
    assert pages.verdict(table, "repa", "peak_memory_mb").endswith("over 3 seeds: worse")
    difference = next(row for row in table.markdown().splitlines() if row.startswith("| Δ"))
    assert difference.count("**") == 2 and "**+40 [" in difference and "Times and rates are indicative" in repr(table)


def test_trials_are_read_from_records(tmp_path):
    scale = {"level": "simple", "width": 192, "depth": 6, "grid": 8, "batch": 64, "lr": 1e-3, "steps": 100, "eval_steps": 16, "size": 8}
    for id, fid in (("aaaaaaaa", 30.0), ("bbbbbbbb", 20.0)):
        folder = write_run(tmp_path, "custom", 0, fid, id=id)
        write_json(folder / "recipe.json", {"scale": scale, "space": "pixels", "drop": 0.1, "guidance": {"scale": 3.0}})
    frame = pages.trials(tmp_path)
    assert len(frame) == 2 and set(frame["lab-FID"]) == {20.0, 30.0} and set(frame["width"]) == {192} and set(frame["seconds"]) == {100.0}


def test_principal_colours_tell_regions_apart():
    tokens = torch.zeros(2, 16, 6, dtype=torch.float64)
    tokens[:, 8:, 0] = 1.0
    tokens += 0.01 * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    picture = pca_colours(tokens).astype(int)
    assert picture.shape == (2, 4, 4, 3)
    assert abs(picture[:, :2, :, 0].mean() - picture[:, 2:, :, 0].mean()) > 200
    assert (enlarge(picture.astype(np.uint8), 8)[:, ::2, ::2] == picture).all()


def test_every_embedded_network_has_an_entry():
    shown = pages.cards()
    assert [name for name, *_ in shown.entries] == list(zoo.EMBEDDED)
    assert shown._repr_html_().count("<details") == len(zoo.EMBEDDED)


def test_cka_ignores_rotation_and_scale_and_sees_independence():
    a = G.standard_normal((200, 12)) @ np.diag(np.arange(1, 13))
    q, _ = np.linalg.qr(G.standard_normal((12, 12)))
    assert cka(a, 3 * a @ q) == pytest.approx(1)
    assert abs(cka(a, G.standard_normal((200, 300)))) < 0.05
    assert not math.isnan(cka(a, a[:, :2]))


def test_a_table_that_is_not_recorded_says_so(tmp_path, monkeypatch):
    for name, fid in (("baseline", 20.0), ("repa", 15.0)):
        write_run(tmp_path / "results", name, 0, fid)
    monkeypatch.chdir(tmp_path)
    shown = live.table("repa", metrics=("fid",))
    assert [row.label for row in shown.rows] == ["baseline", "repa"] and shown.rows[1].cells["fid"].difference()[0] == -5.0
    assert repr(live.table("muon", "bf16", scale="cpu-long")) == "No run of muon, bf16 is recorded at cpu-long scale yet."


def test_curves_show_the_seeds_that_all_rows_have(tmp_path):
    for name, seeds in {"baseline": (0, 1, 2), "repa": (1, 2), "muon": (2, 3)}.items():
        for seed in seeds:
            write_run(tmp_path, name, seed, 10.0)
    drawn = {(run.name, run.seed) for run in live.in_common(list(records(tmp_path)))}
    assert drawn == {("baseline", 2), ("repa", 2), ("muon", 2)}
    apart = [run for run in records(tmp_path) if (run.name, run.seed) in {("baseline", 0), ("repa", 1)}]
    assert live.in_common(apart) == apart  # nothing in common: better unpaired than nothing


def test_a_row_of_one_seed_does_not_leave_one_seed_of_the_others(tmp_path, monkeypatch):
    for name, seeds in {"baseline": (0, 1, 2), "repa": (0, 1), "muon": (0,)}.items():
        for seed in seeds:
            write_run(tmp_path / "results", name, seed, 10.0)
    monkeypatch.chdir(tmp_path)
    assert repr(live.curves("repa", "muon")).endswith("baseline n=2, repa n=2; one seed, not drawn: muon")
    assert repr(live.curves("muon")).endswith("baseline n=1, muon n=1")  # nothing is lost where no other has more


def test_rows_of_samples_stand_in_the_order_asked_for_with_the_scores_of_their_runs(tmp_path, monkeypatch):
    """Where two rows are compared by eye, the reader sees beside them what the eye cannot count."""
    for name, fid in (("baseline", 20.0), ("ema", 19.0), ("muon", 10.0)):
        folder = write_run(tmp_path / "results", name, 0, fid)
        write_json(folder / "recipe.json", {"type": "Recipe", "scale": {"size": 8}})
        Image.fromarray(np.zeros((8, 18, 3), np.uint8)).save(folder / "samples.png")
    monkeypatch.chdir(tmp_path)
    told = "baseline (lab-FID 20.00, composition 5.0), muon (lab-FID 10.00, composition 10.0), ema (lab-FID 19.00, composition 5.3)"
    found = live.samples("muon", "ema", count=2)
    assert repr(found) == f"3 rows of 2 images, 8 x 8 pixels: {told}" and ">lab-FID 10.00</div>" in found._repr_html_()
    assert 'alt="muon, lab-FID 10.00, composition 10.0: 2 images side by side"' in found._repr_html_()
    assert repr(pages.recorded(records("results", "cpu"), 2)).endswith("pixels: baseline, ema, muon")
