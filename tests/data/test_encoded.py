"""Encoding to disk: what a store has, in shards that are whole or absent; resumed to the same bytes; damage refused by name."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from prx_lab import cli
from prx_lab.data.encode import Networks, begin, encode, work
from prx_lab.data.encoded import is_encoded, training_part, validation_part
from prx_lab.data.manifest import Manifest
from prx_lab.data.open import open_source
from prx_lab.data.streams import hub_streams, open_streams
from prx_lab.errors import LabError
from prx_lab.model import PRX, Arch
from prx_lab.recipes import BASE, RECIPES
from prx_lab.record import Record
from prx_lab.run import store_of
from prx_lab.train import Training

CPU, SHARD, N = torch.device("cpu"), 16, 84
BAD = {3: b"not an image", 40: b"", 21: None}  # rows of the table without an image that can be read
SIZED = RECIPES["repa"].set("scale.images", "100").set("scale.eval_n", "4").set("scale.steps", "2").set("scale.batch", "8")


def png(i: int) -> bytes:
    """Colours that differ from image to image, as smooth as an autoencoder likes them."""
    held, g = io.BytesIO(), np.random.default_rng(i)
    small = Image.fromarray(g.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    small.resize((48, 40), Image.Resampling.BICUBIC).save(held, "PNG")
    return held.getvalue()


def caption(i: int) -> str:
    return "" if i == 11 else f"a {'red ' * (i % 6)}cube, number {i}"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get("PRX_LAB_CACHE")
    os.environ["PRX_LAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("PRX_LAB_CACHE") if before is None else os.environ.update(PRX_LAB_CACHE=before)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Two Parquet files of one split, with three bad images and one empty caption."""
    root = tmp_path_factory.mktemp("table")
    for k, rows in enumerate((range(50), range(50, N))):
        frame = pd.DataFrame({"image": [BAD.get(i, png(i)) for i in rows], "caption": [caption(i) for i in rows]})
        frame.to_parquet(root / f"train-{k}.parquet")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with texts beside its images."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(40):
        (root / f"{i:03d}.png").write_bytes(png(i))
        (root / f"{i:03d}.txt").write_text(f"{caption(i)} x")
    return root


@pytest.fixture(scope="module")
def encoded(table, tmp_path_factory) -> Path:
    """The table as `prx-lab encode` leaves it."""
    told: list[str] = []
    folder = tmp_path_factory.mktemp("out") / "encoded"
    summary = encode(SIZED.but(data=str(table)), folder, CPU, told.append, SHARD)
    assert len(told) == 1 and "training samples of about" in told[0] and "are free" in told[0]
    assert summary.rows["train"] + summary.rows["validation"] == N - len(BAD) - 1
    assert summary.skipped == {"unreadable image": 3, "no caption": 1}
    assert "3 unreadable image, 1 no caption (" in str(summary) and "row 40 (empty file)" in str(summary)
    return folder


def on(folder: Path):
    return SIZED.but(data=str(folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def cut(folder: Path, tmp_path: Path, train: int, held: int) -> Path:
    """A copy as a kill leaves it: the first shards of each part, and a draft."""
    copy = tmp_path / f"{train}-{held}"
    shutil.copytree(folder, copy)
    (copy / "complete.json").unlink()
    for path in [*sorted(copy.glob("train/*"))[train:], *sorted(copy.glob("validation/*"))[held:]]:
        path.unlink()
    (copy / "train" / ".part-00009.safetensors").write_bytes(b"half")
    return copy


# ------------------------------------------------------------------------------------------------ what is in it
def same(mine, theirs) -> None:
    """Latents and teachers as the cache has them, text rounded to bfloat16."""
    assert torch.allclose(mine.x, theirs.x, atol=2e-3)  # other neighbours in a batch of the networks: the last bits of float16
    length = mine.text.mask.shape[1]
    assert torch.equal(mine.text.mask, theirs.text.mask[:, :length]) and not theirs.text.mask[:, length:].any()
    assert torch.allclose(mine.text.tokens, theirs.text.tokens[:, :length], rtol=2**-8, atol=2e-3)
    used = int(theirs.text.null_mask.sum())
    assert torch.equal(mine.text.null_mask[:, :used], theirs.text.null_mask[:, :used]) and not mine.text.null_mask[:, used:].any()
    assert torch.allclose(mine.text.null[:, :used], theirs.text.null[:, :used], rtol=2**-8, atol=2e-3)
    assert torch.allclose(mine.teachers["lab-dino"].float(), theirs.teachers["lab-dino"].float(), atol=2e-2)


def test_a_folder_gives_the_batches_of_the_ordinary_store(pictures, tmp_path):
    summary = encode(on(pictures), tmp_path / "out", CPU, print, SHARD)
    mine, theirs = training_part(on(tmp_path / "out")), store_of(on(pictures), CPU)
    assert len(mine) == len(theirs) == summary.rows["train"] and mine.shape == theirs.shape
    assert (mine.context, mine.widths) == (theirs.context, theirs.widths)
    index = np.array([5, 0, 17, 16, len(mine) - 1, 5])  # several shards, one sample twice
    same(mine.batch(index), theirs.batch(index))
    assert torch.allclose(mine.mean, theirs.mean, atol=2e-3)
    assert {c for c in open_source(on(tmp_path / "out"), "val").captions(range(summary.rows["validation"]))} == {
        c for c in open_source(on(pictures), "val").captions(range(summary.rows["validation"]))
    }


@pytest.mark.filterwarnings("ignore:.*cannot be read and are skipped")
def test_a_table_gives_the_same_samples_in_its_own_order(table, tmp_path):
    with_captions = tmp_path / "table"
    with_captions.mkdir()
    pd.concat(pd.read_parquet(p) for p in sorted(table.iterdir())).drop(index=11).to_parquet(with_captions / "train.parquet")
    summary = encode(on(with_captions), tmp_path / "out", CPU, print, SHARD)
    ordinary, mine = open_source(on(with_captions), "train"), training_part(on(tmp_path / "out"))
    stream = [
        row.long
        for row in open_streams(str(with_captions))[0].rows()
        if row.part == "train" and row.long and row.index not in skipped(with_captions)
    ]
    there = ordinary.captions(range(len(ordinary)))
    assert sorted(stream) == sorted(there) and len(mine) == len(there) == summary.rows["train"]
    index = np.arange(0, len(mine), 5)
    same(mine.batch(index), store_of(on(with_captions), CPU).batch(np.array([there.index(stream[i]) for i in index])))
    held = validation_part(on(tmp_path / "out"))
    assert sorted(held.captions(range(len(held)))) == sorted(c for c in validation_captions(with_captions))


def skipped(folder: Path) -> set[int]:
    cells = pd.concat(pd.read_parquet(p) for p in sorted(folder.iterdir()))["image"]
    return {i for i, cell in enumerate(cells) if cell in BAD.values() or cell is None}


def validation_captions(folder: Path) -> list[str]:
    source = open_source(on(folder), "val")
    return source.captions(range(len(source)))


def test_validation_images_are_the_squares_of_the_source(pictures, tmp_path):
    encode(on(pictures), tmp_path / "out", CPU, print, SHARD)
    mine, theirs = validation_part(on(tmp_path / "out")), open_source(on(pictures), "val")
    images = dict(zip(theirs.captions(range(len(theirs))), theirs.images(range(len(theirs)), 32)))
    for text, image in zip(mine.captions(range(len(mine))), mine.images(range(len(mine)), 32)):
        assert np.array_equal(image, images[text])


def test_what_is_read_does_not_depend_on_the_shards(encoded, table, tmp_path):
    encode(SIZED.but(data=str(table)), tmp_path / "whole", CPU, print, 1024)
    one, many = training_part(on(tmp_path / "whole")), training_part(on(encoded))
    assert len(one.files) == 1 and len(many.files) == -(-len(many) // SHARD)
    a, b = one.batch(np.arange(len(one))), many.batch(np.arange(len(one)))
    assert torch.equal(a.text.mask, b.text.mask) and torch.allclose(a.text.tokens, b.text.tokens, rtol=2**-7, atol=2e-3)
    assert torch.allclose(a.x, b.x, atol=2e-3)


def test_pixels_are_kept_as_they_are(pictures, tmp_path):
    recipe = RECIPES["jit"].but(scale=SIZED.scale, data=str(pictures))
    encode(recipe, tmp_path / "out", CPU, print, SHARD)
    mine, theirs = training_part(recipe.but(data=str(tmp_path / "out"))), store_of(recipe, CPU)
    index = np.arange(len(theirs))
    assert mine.shape == theirs.shape == (3, 32, 32) and torch.equal(mine.batch(index).x, theirs.batch(index).x)
    assert torch.allclose(mine.mean, theirs.mean, atol=1e-6)


# ------------------------------------------------------------------------------------------------ interrupted and damaged
@pytest.mark.parametrize("train, held", [(0, 0), (1, 1), (4, 0)])
def test_a_killed_one_goes_on_to_the_same_bytes(encoded, table, tmp_path, train, held):
    copy = cut(encoded, tmp_path, train, held)
    encode(SIZED.but(data=str(table)), copy, CPU, print, SHARD)
    assert contents(copy) == contents(encoded)


def test_an_incomplete_one_is_not_trained_on(encoded, tmp_path):
    with pytest.raises(LabError, match="is not complete; run the `prx-lab encode` command"):
        training_part(on(cut(encoded, tmp_path, 2, 1)))


def test_a_shard_that_is_cut_is_refused_by_name_and_made_anew_alone(encoded, table, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(encoded, copy)
    shard = sorted(copy.glob("train/*"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    for use in (lambda: training_part(on(copy)), lambda: encode(SIZED.but(data=str(table)), copy, CPU, print, SHARD)):
        with pytest.raises(LabError, match=f"{shard.name} is damaged .*delete it and run `prx-lab encode` again"):
            use()
    shard.unlink()
    with pytest.raises(LabError, match=f"{shard.name} is damaged"):
        training_part(on(copy))
    before = {p: p.stat().st_mtime_ns for p in copy.glob("train/*")}
    encode(SIZED.but(data=str(table)), copy, CPU, print, SHARD)
    assert contents(copy) == contents(encoded)
    assert {p: p.stat().st_mtime_ns for p in copy.glob("train/*") if p != shard} == before


def test_a_flipped_bit_is_found_when_the_folder_is_checked(encoded, table, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(encoded, copy)
    shard = sorted(copy.glob("train/*"))[1]
    raw = bytearray(shard.read_bytes())
    raw[-50] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(LabError, match=f"{shard.name} is damaged .its hash differs"):
        encode(SIZED.but(data=str(table)), copy, CPU, print, SHARD)


def test_data_that_have_changed_are_refused(encoded, table, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(encoded, copy)
    a, b, *_ = sorted(copy.glob("train/*"))
    b.rename(b.with_name(b.name.replace("00001", "00000")))
    a.unlink()
    with pytest.raises(LabError, match="does not follow the one before it"):
        encode(SIZED.but(data=str(table)), copy, CPU, print, SHARD)


# ------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    "change, told",
    [
        (lambda r: r.set("scale.size", "64"), "encoded with size 32 and the recipe has 64"),
        (lambda r: r.but(captions="short"), "encoded with captions 'long' and the recipe has 'short'"),
        (lambda r: r.but(space="lab-vae-repa-e"), "encoded with space 'lab-vae'"),
        (lambda r: r.but(cleaning="full"), "encoded with cleaning 'none'"),
        (lambda r: r.but(text_tokens=20), "encoded with text_tokens 128 and the recipe has 20"),
        (lambda r: r.but(terms=RECIPES["repa-dense"].terms), "no tokens of the teacher 'lab-dino-dense'"),
    ],
)
def test_another_recipe_is_told_why_it_cannot_train_on_it(encoded, change, told):
    for use in (training_part, validation_part):
        with pytest.raises(LabError, match=told):
            use(change(on(encoded)))


def test_a_recipe_that_needs_less_can_train_on_it(encoded):
    found = training_part(BASE.but(scale=SIZED.scale, data=str(encoded), subset=0.5))
    assert found.widths == {} and len(found) == 50 and found.batch(np.array([49])).teachers == {}
    assert training_part(on(encoded).but(text_tokens=128)).batch(np.arange(3)).text.tokens.shape == (3, 128, found.context)


def test_a_folder_begun_for_another_recipe_is_left_alone(encoded, table):
    before = contents(encoded)
    with pytest.raises(LabError, match="was begun with space 'lab-vae', and this is 'lab-vae-repa-e'; use another --out"):
        encode(SIZED.but(data=str(table), space="lab-vae-repa-e"), encoded, CPU, print, SHARD)
    assert contents(encoded) == before


def test_sizes_that_do_not_split_into_tokens_are_refused(table, tmp_path):
    with pytest.raises(LabError, match="change scale.size, scale.grid or space"):
        encode(SIZED.but(data=str(table)).set("scale.grid", "8").set("scale.size", "40"), tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "train").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(table, tmp_path):
    recipe = SIZED.but(data=str(table)).set("scale.images", str(10**10))
    networks = Networks(recipe, CPU)
    manifest = Manifest.of(recipe, networks.text.length, networks.teachers, 16, SHARD)
    streams = hub_streams(str(table), "")  # that do not know their own length
    job = begin(recipe, tmp_path / "out", networks, streams, manifest)
    with pytest.raises(LabError, match=r"10,000,000,000 training samples .* are free; take fewer"):
        work(job, manifest, print)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_data_without_one_good_sample_are_refused(tmp_path):
    pd.DataFrame({"image": [b"junk"] * 30, "caption": ["a cube"] * 30}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(LabError, match="gives no sample to train on .* unreadable image"):
        encode(on(tmp_path / "train.parquet"), tmp_path / "out", CPU, print, SHARD)
    pd.DataFrame({"image": [png(1)] * 30, "caption": [""] * 30}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(LabError, match="has a caption; name data with captions"):
        encode(on(tmp_path / "train.parquet"), tmp_path / "out2", CPU, print, SHARD)


def test_the_embedded_scenes_need_no_encoding(tmp_path):
    with pytest.raises(LabError, match="The embedded scenes are encoded as a run begins"):
        encode(SIZED, tmp_path, CPU)


# ------------------------------------------------------------------------------------------------ streams
def test_a_stream_begins_anywhere_with_the_same_rows(table, pictures):
    for data in (table, pictures):
        for stream in open_streams(str(data)):
            rows = list(stream.rows())
            for start in (0, 1, len(rows) - 1, len(rows)):
                tail = list(stream.rows(start))
                assert [(r.index, r.name, r.part, r.long) for r in tail] == [(r.index, r.name, r.part, r.long) for r in rows[start:]]
                assert [r.blob() for r in tail[:2]] == [r.blob() for r in rows[start : start + 2]]


def test_a_small_table_has_a_row_to_validate_on_and_the_others_to_train_on(tmp_path):
    for n, held in ((1, 0), (2, 1), (5, 1)):
        pd.DataFrame({"image": [png(i) for i in range(n)], "text": ["a"] * n}).to_parquet(tmp_path / "rows.parquet")
        (stream,) = open_streams(str(tmp_path / "rows.parquet"))
        parts = [row.part for row in stream.rows()]
        assert parts.count("validation") == held and [row.part for row in stream.rows(n - 1)] == parts[n - 1 :]


def test_a_hub_data_set_and_its_local_copy_are_one_stream(tmp_path):
    (tmp_path / "data").mkdir()
    for split, rows in (("train", range(6)), ("test", range(6, 9))):
        frame = pd.DataFrame({"image": [png(i) for i in rows], "text": [caption(i) for i in rows], "short_caption": ["cube"] * len(rows)})
        frame.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    hub, local = hub_streams(str(tmp_path), ""), open_streams(str(tmp_path))
    for a, b, part, count in zip(hub, local, ("train", "validation"), (6, 3), strict=True):
        assert a.parts == b.parts == (part,) and b.total == count
        assert [(r.index, r.long, r.short, r.blob()) for r in a.rows()] == [(r.index, r.long, r.short, r.blob()) for r in b.rows()]


# ------------------------------------------------------------------------------------------------ used
def test_two_steps_train_on_it(encoded):
    training = Training(on(encoded), training_part(on(encoded)), 0, CPU)
    losses = [row["loss"] for row in training.fit(2)]
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_encode_then_run_from_the_command_line(table, tmp_path, capsys):
    sets = [
        word
        for pair in ("scale.images=48", "scale.steps=2", "scale.batch=4", "scale.eval_n=2", "scale.eval_steps=1")
        for word in ("--set", pair)
    ]
    out = tmp_path / "out"
    assert cli.call(["encode", "baseline", "--data", str(table), "--out", str(out), *sets]) == 0
    assert f"Train on it: `prx-lab run baseline --data {out}`" in capsys.readouterr().out and is_encoded(str(out))
    assert cli.call(["run", "baseline", "--data", str(out), "--root", str(tmp_path / "results"), *sets]) == 0
    (found,) = (tmp_path / "results").glob("*/*/seed0")
    assert Record.load(found).eval["n"] == 2 and len(Record.load(found).train) == 2


def test_a_compiled_network_meets_few_lengths_of_text(encoded):
    from torch._dynamo.testing import CompileCounter

    data = training_part(on(encoded))
    assert {data.batch(np.array([i])).text.tokens.shape[1] for i in range(len(data))} <= {32, data.longest}
    data.longest = 128
    lengths = {data.length(n) for n in range(1, 129)}
    assert lengths == {32, 64, 96, 128}
    torch.compiler.reset()
    counter, model = CompileCounter(), PRX(Arch(4, 1, 12, 32, 1, 2))
    model.blocks[0].compile(backend=counter)
    for length in (*sorted(lengths), *sorted(lengths)):
        model(torch.randn(2, 4, 4, 4), torch.rand(2), torch.randn(2, length, 12), torch.ones(2, length, dtype=torch.bool))[
            0
        ].sum().backward()
    assert counter.frame_count <= 2  # one for the first length, one for all others
    torch.compiler.reset()
