"""Folders, Parquet files and hub names become sources; bad files are named, skipped and counted."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prx_lab.data.decode import problem, square
from prx_lab.data.load import load_source
from prx_lab.errors import LabError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Converted tables go below the test's own folder, not into the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def paint(path, colour=RED, size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def photos(root, count=20, captions=True):
    for i in range(count):
        paint(root / f"photo{i:03}.png", (i, 2 * i, 255 - i))
        if captions:
            (root / f"photo{i:03}.txt").write_text(f"picture number {i}")
    return root


def encoded(colour=RED, size=(40, 30), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def table(path, cells, features, **columns):
    """A Parquet file as the hub writes it: struct images, feature types in the schema's metadata."""
    cells = [{"bytes": cell, "path": f"{i}.png"} if cell is not None else None for i, cell in enumerate(cells)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    data = pa.table({"img": pa.array(cells, kind), **columns})
    info = {"info": {"features": {"img": {"_type": "Image"}, **features}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    return path


def whole(root, **options):
    """Train and val part together: name -> caption."""
    found = {}
    for split in ("train", "val"):
        source = load_source(str(root), split, **options)
        found |= dict(zip([item.name for item in source.items], source.captions(range(len(source)))))
    return found


# Folders and their captions


def test_sidecars_pair_with_their_images(tmp_path):
    source = load_source(str(photos(tmp_path)))
    pixels = source.images(range(len(source)), 16)
    assert pixels.shape == (len(source), 16, 16, 3) and pixels.dtype == np.uint8
    for image, caption in zip(pixels, source.captions(range(len(source)))):
        i = int(caption.split()[-1])
        assert (image == (i, 2 * i, 255 - i)).all()
    assert source.captions([3, 1]) == [source.captions([3])[0], source.captions([1])[0]]
    assert source.captions([0], "short") == source.captions([0], "long")
    assert source.images([], 16).shape == (0, 16, 16, 3)


def test_train_and_val_are_disjoint_fixed_and_stable_when_files_are_added(tmp_path):
    photos(tmp_path, 60)
    parts = [{item.name for item in load_source(str(tmp_path), split).items} for split in ("train", "val")]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 60 and 1 <= len(parts[1]) <= 15
    photos(tmp_path, 80)
    more = [{item.name for item in load_source(str(tmp_path), split).items} for split in ("train", "val")]
    assert parts[0] <= more[0] and parts[1] <= more[1]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_small_folders_have_both_parts(tmp_path, count):
    for start in range(8):
        root = tmp_path / f"{start}"
        for i in range(count):
            paint(root / f"{start}-{i}.png")
        assert len(whole(root, caption="a photo")) == count


def test_one_image_trains_and_has_no_val(tmp_path):
    paint(tmp_path / "a.png")
    assert len(load_source(str(tmp_path), caption="a photo")) == 1
    with pytest.raises(LabError, match="too few"):
        load_source(str(tmp_path), "val", caption="a photo")


def test_a_hundred_photographs_without_captions_need_a_template(tmp_path):
    photos(tmp_path, 100, captions=False)
    with pytest.raises(LabError, match="have no caption.*metadata.jsonl.*DATA#column"):
        load_source(str(tmp_path))
    assert set(whole(tmp_path, caption="a photo").values()) == {"a photo"}


def test_the_template_fills_gaps_and_leaves_captions_alone(tmp_path):
    photos(tmp_path, 10)
    (tmp_path / "photo004.txt").write_text("  \n")
    with pytest.raises(LabError, match=r"1 of 10 .*photo004.png"):
        load_source(str(tmp_path))
    found = whole(tmp_path, caption="a photo")
    assert found["photo004.png"] == "a photo" and found["photo005.png"] == "picture number 5"


def test_class_folders_give_labels(tmp_path):
    for i in range(10):
        paint(tmp_path / "golden_retriever" / f"{i}.png")
        paint(tmp_path / "cat" / f"{i}.png")
    found = whole(tmp_path)
    assert found["golden_retriever/3.png"] == "a photo of a golden retriever" and found["cat/3.png"] == "a photo of a cat"
    assert whole(tmp_path, caption="{label}, blurred {x}")["cat/0.png"] == "cat, blurred {x}"


def test_uneven_folders_are_not_classes(tmp_path):
    paint(tmp_path / "2024" / "a.png")
    paint(tmp_path / "2025" / "May" / "b.png")
    with pytest.raises(LabError, match="no caption"):
        load_source(str(tmp_path))


def test_split_folders_are_honoured_and_are_no_classes(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        photos(tmp_path / split, count, captions=False)
    with pytest.raises(LabError, match="no caption"):
        load_source(str(tmp_path))
    assert len(load_source(str(tmp_path), "train", "a photo")) == 4
    assert (
        {item.name for item in load_source(str(tmp_path), "val", "a photo").items}
        == {item.name for item in load_source(str(tmp_path), "test", "a photo").items}
        == {"test/photo000.png", "test/photo001.png"}
    )
    with pytest.raises(LabError, match="no split 'tset'.*test"):
        load_source(str(tmp_path), "tset", "a photo")


def test_a_class_named_train_is_a_class(tmp_path):
    for i in range(5):
        paint(tmp_path / "train" / f"{i}.png")
        paint(tmp_path / "car" / f"{i}.png")
    assert set(whole(tmp_path).values()) == {"a photo of a train", "a photo of a car"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_metadata_as_imagefolder_reads_it(tmp_path, kind, column):
    rows = [{"file_name": f"sub/{i}.png", column: f'a "quoted", é {i}', "short": f"n{i}"} for i in range(6)]
    for row in rows:
        paint(tmp_path / row["file_name"])
    paint(tmp_path / "unlisted.png")
    if kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        import pandas

        pandas.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    assert whole(tmp_path) == {row["file_name"]: row[column] for row in rows}
    source = load_source(str(tmp_path))
    assert source.captions([0], "short")[0].startswith("n")


@pytest.mark.parametrize(
    "row, words",
    [
        ({"file_name": "../a.png", "text": "x"}, "relative path"),
        ({"file_name": "/etc/a.png", "text": "x"}, "relative path"),
        ({"file_name": "file:///a.png", "text": "x"}, "relative path"),
        ({"name": "a.png", "text": "x"}, "file_name"),
        ({"file_name": "a.png", "words": "x"}, "no caption"),
    ],
)
def test_bad_metadata_says_what_is_wrong(tmp_path, row, words):
    paint(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(LabError, match=words):
        load_source(str(tmp_path))


def test_a_broken_metadata_line_is_numbered(tmp_path):
    paint(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{"file_name": ')
    with pytest.raises(LabError, match="Line 2 of"):
        load_source(str(tmp_path))


def test_metadata_that_names_an_absent_image_skips_it(tmp_path):
    photos(tmp_path, 39, captions=False)
    rows = [{"file_name": f"photo{i:03}.png", "text": f"{i}"} for i in range(40)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match=r"photo039.png \(no such file\)"):
        sources = [load_source(str(tmp_path), split) for split in ("train", "val")]
    assert sum(map(len, sources)) == 39 and sum(source.skipped for source in sources) == 1


def test_captions_in_any_script_and_of_any_length(tmp_path):
    texts = ["שלום עולם", "صورة قطة \u200f(جميلة)", "一只猫在桌子上", "e\u0301 decomposed", "two\r\n lines\tand tab", "w " * 100_000]
    for i, text in enumerate(texts):
        paint(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-16" if i == 2 else "utf-8-sig" if i == 3 else "utf-8")
    found = whole(tmp_path)
    assert [found[f"{i}.png"] for i in range(3)] == texts[:3]
    assert found["3.png"] == "é decomposed" and found["4.png"] == "two lines and tab"
    assert len(found["5.png"]) == 199_999
    paint(tmp_path / "6.png")
    (tmp_path / "6.txt").write_bytes("café".encode("latin-1"))
    assert whole(tmp_path)["6.png"] == "café"


def test_nested_folders_hidden_files_and_equal_stems(tmp_path):
    for name in ("a.png", "a.jpg", "deep/er/a.png", "B.JPEG"):
        paint(tmp_path / name, GREEN)
        (tmp_path / name).with_suffix(".txt").write_text(f"words for {name.rsplit('.')[0]}")
    (tmp_path / "a.jpg.txt").write_text("only the JPEG")
    paint(tmp_path / ".thumbnails" / "t.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    assert whole(tmp_path) == {
        "a.png": "words for a",
        "a.jpg": "only the JPEG",
        "deep/er/a.png": "words for deep/er/a",
        "B.JPEG": "words for B",
    }
    parts = [{item.name for item in load_source(str(tmp_path), split).items} for split in ("train", "val")]
    assert any({"a.png", "a.jpg"} <= part for part in parts)  # two exports of one picture stay on one side


@pytest.mark.parametrize(
    "names, words",
    [([], "no images.*empty"), (["a.txt"], "no images.*1 .txt"), (["IMG.HEIC"], "export them as JPEG"), (["a.zip"], "unpack")],
)
def test_folders_without_images_say_so(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(LabError, match=words):
        load_source(str(tmp_path))


def test_limit_takes_the_first_of_the_same_order(tmp_path):
    photos(tmp_path)
    assert load_source(str(tmp_path), limit=5).items == load_source(str(tmp_path)).items[:5]


# Bad files among good ones


def huge_png():
    """A valid PNG header that claims 60000 x 60000 pixels, in a few hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def bad_files():
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    return {
        "empty.jpg": b"",
        "truncated.jpg": buffer.getvalue()[:-3000],
        "bomb.png": huge_png(),
        "text.png": b"this is not an image at all",
        "script.png": postscript,
        "header.png": encoded()[:30],
    }


def test_unreadable_images_are_named_once_skipped_and_counted(tmp_path):
    photos(tmp_path, 12, captions=False)
    for name, data in bad_files().items():
        (tmp_path / name).write_bytes(data)
        assert problem(tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sources = [load_source(str(tmp_path), split, "a photo") for split in ("train", "val")]
    assert sum(map(len, sources)) == 12
    assert sum(source.skipped for source in sources) == len(bad_files())
    assert {name for source in sources for name in source.unreadable} == set(bad_files())
    told = " ".join(str(warning.message) for warning in caught)
    assert all(told.count(name) == 1 for name in bad_files()) and len(caught) <= 2
    assert all(warning.filename == __file__ for warning in caught)
    for source in sources:
        assert source.images(range(len(source)), 8).shape[0] == len(source)


def test_only_unreadable_images_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(LabError, match="None of the 1 images"):
        load_source(str(tmp_path), caption="a photo")


def test_an_image_lost_after_opening_is_named(tmp_path):
    source = load_source(str(photos(tmp_path)))
    (tmp_path / source.items[2].name).unlink()
    with pytest.raises(LabError, match=source.items[2].name):
        source.images([1, 2], 8)


# Pixels


def close(path, colour, tolerance=3):
    found = square(path, 16).astype(int)
    assert found.shape == (16, 16, 3)
    return np.abs(found - np.array(colour)).max() <= tolerance


@pytest.mark.parametrize(
    "mode, suffix",
    [("RGB", "jpg"), ("P", "png"), ("P", "gif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("RGBA", "webp"), ("YCbCr", "tif"), ("RGB", "bmp")],
)
def test_every_mode_becomes_the_same_red(tmp_path, mode, suffix):
    assert close(paint(tmp_path / f"a.{suffix}", mode=mode), RED)


def test_grey_one_bit_and_sixteen_bit(tmp_path):
    Image.new("L", (9, 9), 100).save(tmp_path / "l.png")
    Image.new("1", (9, 9), 1).save(tmp_path / "one.png")
    Image.fromarray(np.full((9, 9), 100 * 257, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((9, 9), 100 / 255, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((9, 9), 100 * 257, np.int32)).save(tmp_path / "int.tif")
    assert close(tmp_path / "one.png", WHITE, 0)
    assert all(close(tmp_path / name, (100,) * 3, 0) for name in ("l.png", "deep.png", "float.tif", "int.tif"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(tmp_path, mode):
    clear = Image.new(mode, (20, 20), (0,) * len(mode))
    clear.save(tmp_path / "clear.png")
    half = Image.new("RGBA", (20, 20), (255, 0, 0, 128))
    half.save(tmp_path / "half.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert close(tmp_path / "clear.png", WHITE, 0) and close(tmp_path / "palette.png", WHITE, 0)
    assert close(tmp_path / "half.png", (255, 127, 127), 2)


def test_exif_orientation_is_respected(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255  # white above black
    upright = Image.fromarray(pixels)
    for tag, turn in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)):
        exif = Image.Exif()
        exif[0x0112] = tag
        upright.transpose(turn).save(tmp_path / "turned.jpg", exif=exif, quality=95)
        found = square(tmp_path / "turned.jpg", 20).astype(int)
        assert found[:8].min() > 240 and found[12:].max() < 15
    (tmp_path / "bad.jpg").write_bytes(encoded(kind="JPEG").replace(b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x12Exif\0\0nonsense!!", 1))
    assert close(tmp_path / "bad.jpg", RED)


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (31, 30), (2000, 1), (1, 1), (7, 5)])
def test_any_aspect_gives_the_centre_square(tmp_path, size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    side = min(size)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    pixels[top : top + side, left : left + side] = BLUE
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = square(tmp_path / "a.png", 16).astype(int)
    assert found.shape == (16, 16, 3)
    if side > 1:  # enlarging one pixel is mostly the filter's blend with what lies beside it
        assert (np.abs(found - BLUE).max(-1) < 140).mean() > 0.85 and np.abs(found[7:9, 7:9] - BLUE).max() < 3


def test_shrinking_is_antialiased(tmp_path):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    inside = square(tmp_path / "a.png", 16)[2:-2, 2:-2].astype(int)
    assert np.abs(inside - 127).max() < 6


def test_profiles_are_converted_to_srgb(tmp_path):
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert close(paint(tmp_path / "same.png", (10, 200, 90), icc_profile=lab), (10, 200, 90))
    assert close(paint(tmp_path / "broken.png", (10, 200, 90), icc_profile=b"nonsense"), (10, 200, 90))


# Tables


def named(*names):
    return {"label": {"names": list(names), "_type": "ClassLabel"}}


def test_parquet_with_class_labels_in_hub_layout(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        cells = [encoded((i, 0, 0)) for i in range(count)]
        table(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet", cells, named("cat", "dog"), label=pa.array([i % 2 for i in range(count)])
        )
    source = load_source(str(tmp_path))
    assert len(source) == 6 and len(load_source(str(tmp_path), "val")) == len(load_source(str(tmp_path), "test")) == 3
    for image, caption in zip(source.images(range(6), 8), source.captions(range(6))):
        assert caption == f"a photo of a {('cat', 'dog')[image[0, 0, 0] % 2]}"


def test_parquet_with_captions_is_divided_by_row(tmp_path):
    count = 40
    path = table(
        tmp_path / "all.parquet", [encoded((i, 0, 0)) for i in range(count)], {}, text=pa.array([f"number {i}" for i in range(count)])
    )
    sources = [load_source(str(path), split) for split in ("train", "val")]
    assert sum(map(len, sources)) == count and all(map(len, sources))
    for source in sources:
        reds = source.images(range(len(source)), 4)[:, 0, 0, 0]
        assert [f"number {red}" for red in reds] == source.captions(range(len(source)))


def test_bad_rows_are_skipped(tmp_path):
    cells = [encoded() for _ in range(20)]
    cells[3], cells[11] = b"", cells[11][:40]
    path = table(tmp_path / "train.parquet", cells, {}, text=pa.array(["words"] * 20))
    with pytest.warns(UserWarning, match="row 3|row 11"):
        sources = [load_source(str(path), split) for split in ("train", "val")]
    assert sum(map(len, sources)) == 18 and sum(source.skipped for source in sources) == 2


def test_a_table_does_not_open_files_outside_its_folder(tmp_path):
    outside = paint(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train.parquet"
    cells = pa.array(
        [{"bytes": None, "path": str(outside)}, {"bytes": encoded(), "path": ""}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    info = {"info": {"features": {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}}
    data = pa.table({"image": cells, "text": ["a", "b"]})
    pq.write_table(data.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    sources = []
    for split in ("train", "val"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sources.append(load_source(str(path), split))
        except LabError as error:
            assert "None of the 1 images" in str(error)
    assert sum(map(len, sources)) == 1


@pytest.mark.parametrize("columns, words", [({"label": [0, 1]}, "no caption"), ({"text": ["", "x"]}, "1 of 2 images.*no caption")])
def test_tables_without_captions_say_so(tmp_path, columns, words):
    path = table(tmp_path / "train.parquet", [encoded(), encoded()], {}, **{name: pa.array(values) for name, values in columns.items()})
    with pytest.raises(LabError, match=words):
        load_source(str(path))


def test_other_tables_are_refused(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(LabError, match="no image column"):
        load_source(str(tmp_path))
    (tmp_path / "numbers.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(LabError, match="cannot be read"):
        load_source(str(tmp_path))


# Names


def test_mistyped_paths_suggest_a_neighbour(tmp_path):
    photos(tmp_path / "holiday", 2)
    with pytest.raises(LabError, match="no folder or file.*Did you mean 'holiday'"):
        load_source(str(tmp_path / "holidya"))
    with pytest.raises(LabError, match="no data is named"):
        load_source(" ")
    with pytest.raises(LabError, match="is one file"):
        load_source(str(tmp_path / "holiday" / "photo000.png"))


def test_a_hub_name_without_network_or_copy_is_one_sentence(tmp_path):
    code = (
        "from prx_lab.data.load import load_source\nfrom prx_lab.errors import LabError\n"
        "try: load_source('someone/pictures')\nexcept LabError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    )
    assert "'someone/pictures'" in done.stdout and "without a network" in done.stdout and done.stdout.count("\n") == 1
