"""What notebooks display: right pixels, deterministic texts, one picture per plot, and no widget on a stored page."""

import io
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from prx_lab import show
from prx_lab.errors import LabError
from prx_lab.explorer import Explorer
from prx_lab.images import Samples, sheet, to_uint8
from prx_lab.record import records
from prx_lab.report.table import Table
from prx_lab.sample import CFG
from tests.made_up import write_run

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.just(3))
PIXELS = SHAPES.map(lambda shape: np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8))
BUSY = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])  # right on a loaded machine too


@pytest.fixture
def runs(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "baseline", seed, 20.0 + seed)
    write_run(tmp_path, "repa", 0, 17.0)
    return tmp_path


def picture(shown) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shown._repr_png_())).convert("RGBA"))


@BUSY
@given(PIXELS)
def test_bytes_survive_the_way_to_floats_and_back(array):
    floats = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert (to_uint8(floats) == array).all() and to_uint8(array) is array


@BUSY
@given(PIXELS, st.integers(1, 6))
def test_a_sheet_holds_every_image_in_reading_order(array, cols):
    made, (n, H, W, _) = np.asarray(sheet(array, cols, gap=1)), array.shape
    cols = min(n, cols)
    for i in range(n):
        y, x = (i // cols) * (H + 1), (i % cols) * (W + 1)
        assert (made[y : y + H, x : x + W] == array[i]).all()


def test_out_of_range_is_clipped_and_nonsense_refused():
    assert to_uint8(torch.full((1, 3, 2, 2), 7.0)).max() == 255
    for bad in (torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), np.zeros((1, 8, 8, 4), np.uint8), torch.zeros(1, 3, 8, 8).long()):
        with pytest.raises(LabError, match="Images are float"):
            to_uint8(bad)
    with pytest.raises(LabError, match="diverged"):
        to_uint8(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(LabError, match="as many captions"):
        show.grid(torch.zeros(2, 3, 4, 4), captions=["one"])
    with pytest.raises(LabError, match="no image"):
        sheet(torch.zeros(0, 3, 4, 4), 2)


def test_samples_show_index_and_save_themselves(tmp_path):
    samples = Samples(torch.linspace(-1, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8), ["a red cube", "a ball", "$x_1$ & more"], cols=2)
    assert picture(samples).shape[2] == 4
    assert (np.asarray(samples[-1]) == to_uint8(samples.images)[2]).all()
    assert Image.open(samples.save(tmp_path / "deep" / "grid.png")).size == (18, 18)
    assert repr(samples).splitlines()[0] == "Samples: 3 images of 8 x 8 pixels" and "1: a ball" in repr(samples)


def test_figures_are_transparent_with_mid_tone_text(runs):
    image = picture(show.curves(records(runs), "fid"))
    assert image[0, 0, 3] == 0 and (image[..., 3] > 200).any()
    opaque = image[image[..., 3] > 250][:, :3].astype(int)
    assert opaque.sum(1).min() > 150 and opaque.sum(1).max() < 3 * 225  # neither black nor white: visible on both


def test_a_curve_tells_how_many_seeds_it_has(runs):
    plot = show.curves(records(runs), "fid")
    axis = plot.figure.axes[0]
    assert repr(plot) == "lab-FID ↓ against step: baseline n=3, repa n=1"
    assert len(axis.collections) == 1  # a band over three seeds, none over one
    assert axis.get_ylabel() == "lab-FID ↓"
    assert axis.lines[0].get_ydata()[-1] == pytest.approx(21.0)


def test_curves_of_the_training_log(runs):
    found = records(runs, recipe="repa")
    assert list(show.curves(found, "loss").figure.axes[0].lines[0].get_ydata()) == pytest.approx([17, 8.5, 17 / 3])
    assert list(show.curves(found, "terms.repa", "seconds").figure.axes[0].lines[0].get_xdata()) == [10, 20, 30]
    assert list(show.curves(found, "loss", smooth=2).figure.axes[0].lines[0].get_xdata()) == [1.5, 3]
    heads = [show.curves(found, what, smooth=smooth).figure.axes[0].get_ylabel() for what, smooth in (("terms.repa", 2), ("loss", 1))]
    assert heads == ["repa term, mean of 2 logged steps", "loss"]
    with pytest.raises(LabError, match="has 'terms.tread'"):
        show.curves(found, "terms.tread")


def test_recipes_of_one_name_keep_their_own_line(runs):
    write_run(runs, "repa", 1, 17.0, id="ffffffff")
    assert "repa-0123abcd n=1, repa-ffffffff n=1" in repr(show.curves(records(runs), "fid"))


def test_bars_are_the_tables_means(runs):
    table = Table.of("cpu", root=runs)
    axis = show.bars(table, "composition").figure.axes[0]
    assert [bar.get_width() for bar in axis.patches][1] == pytest.approx(100 / 17)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["baseline (n=3)", "repa (n=1)"]
    with pytest.raises(LabError, match="no column 'kid'"):
        show.bars(table, "kid")


def test_the_same_figure_is_the_same_bytes(runs):
    assert show.curves(records(runs), "fid")._repr_png_() == show.curves(records(runs), "fid")._repr_png_()


def colour_of_seed(prompts, seed, steps, guidance):
    """A sampler whose pictures tell their prompt and seed apart."""
    rows = [torch.full((3, 4, 4), len(prompt) / 10 + seed / 100) for prompt in prompts]
    return torch.stack(rows)


def test_a_stored_page_gets_every_prompt_and_seed(monkeypatch):
    monkeypatch.setenv("PRX_STATIC", "1")
    explorer = Explorer(colour_of_seed, ["a", "abc"], seeds=(1, 2))
    samples = explorer.static()
    assert not show.live()
    assert [round(float(image[0, 0, 0]), 2) for image in samples.images] == [0.11, 0.12, 0.31, 0.32]
    assert samples.captions[1] == "a (seed 2)" and samples.cols == 2
    assert repr(explorer) == "Explorer: 2 prompts, 2 seeds, 20 steps, guidance 3"


def test_the_widget_samples_what_it_shows():
    calls = []

    def sampler(prompts, seed, steps, guidance):
        calls.append((prompts, seed, steps, guidance))
        return colour_of_seed(prompts, seed, steps, guidance)

    box = Explorer(sampler, ["a", "abc"], seeds=(7,), steps=3, guidance=CFG(scale=2.0)).widget()
    _, controls, said, image = box.children
    assert calls == [(["a"], 7, 3, CFG(scale=2.0))] and image.value[:4] == b"\x89PNG"
    controls.children[0].value = 8
    controls.children[3].click()
    assert calls[1][1] == 8 and said.value == "seed 8, 3 steps, guidance 2"


def test_a_recipe_shows_what_differs():
    from prx_lab.recipes import BASE, RECIPES

    recipe = BASE.but(predict="x")
    html = show.recipe_html(recipe)
    changed, folded = html.split("<details>")
    assert "predict" in changed and "baseline: v" in changed and "1 fields differ" in changed and "captions" not in changed
    assert "captions" in folded
    assert "phases" not in show.recipe_html(RECIPES["sft"]).split("<details>")[1]  # what a phase changes is no field as in the baseline
    assert "the baseline" in show.recipe_html(BASE.at("cpu")) and "differ" not in show.recipe_html(BASE.at("cpu"))
    assert show.spec_html(BASE.optim).startswith("<b>AdamW</b>")


def test_no_text_holds_an_address(runs):
    shown = [show.curves(records(runs), "loss"), Samples(torch.zeros(1, 3, 4, 4)), records(runs), Table.of("cpu", root=runs)]
    assert not re.search("0x[0-9a-f]{6,}| at 0x|object at", "".join(map(repr, shown)))
