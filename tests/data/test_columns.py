"""Which column of a table the captions are read from: `DATA#column`, in files, in folders and in a stream, and on the command line."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from prx_lab import cli
from prx_lab.data.encode import encode
from prx_lab.data.encoded import training_part
from prx_lab.data.load import load_source, parted
from prx_lab.data.streams import hub_streams, open_streams
from prx_lab.errors import LabError
from prx_lab.recipes import BASE, recipe

ROWS = 24
TYPED, TOLD = "cube --v 6 #{}", "a long account of picture {}"


def png(i: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (24, 24), (i, 0, 0)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Columns as brivangl/midjourney-v6-llava has them: what was typed, and what LLaVA saw."""
    path = tmp_path_factory.mktemp("midjourney") / "train.parquet"
    columns = {"id": range(ROWS), "image": [png(i) for i in range(ROWS)], "prompt": [TYPED.format(i) for i in range(ROWS)]}
    pd.DataFrame(columns | {"llava": [TOLD.format(i) for i in range(ROWS)], "llava_status": "ok"}).to_parquet(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path_factory.mktemp("encoded")))


def red(source, i: int) -> int:
    return int(source.images([i], 4)[0, 0, 0, 0])


@pytest.mark.parametrize("mark, words", [("", TYPED), ("#prompt", TYPED), ("#llava", TOLD)])
def test_the_captions_are_those_of_the_column_that_is_named(table, mark, words):
    for root in (table, table.parent):
        source = load_source(f"{root}{mark}")
        assert source.captions(range(len(source))) == [words.format(red(source, i)) for i in range(len(source))]
    for streams in (open_streams(f"{table}{mark}"), hub_streams(str(table.parent), "", mark.removeprefix("#"))):
        rows = [row for stream in streams for row in stream.rows()]
        assert [row.long for row in rows] == [words.format(i) for i in range(ROWS)]


def test_one_data_set_with_another_column_is_encoded_and_trained_with_its_words(table, tmp_path):
    small = BASE.set("scale.images", "16").set("scale.eval_n", "2")
    parts = {}
    for name in ("llava", "prompt"):
        chosen = small.but(data=f"{table}#{name}")
        encode(chosen, tmp_path / name, torch.device("cpu"), lambda told: None, 8)
        parts[name] = training_part(small.but(data=str(tmp_path / name)))
    with pytest.raises(LabError, match="was begun with data .*#llava', and this is .*#prompt"):
        encode(small.but(data=f"{table}#prompt"), tmp_path / "llava", torch.device("cpu"))
    assert torch.equal(parts["llava"].clean([0, 1]), parts["prompt"].clean([0, 1]))
    assert parts["llava"].text([0, 1]).mask.sum() > parts["prompt"].text([0, 1]).mask.sum()


def test_metadata_of_a_folder_has_columns_too(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    rows = [{"file_name": f"{i}.png", "text": TYPED.format(i), "seen": TOLD.format(i)} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for mark, words in (("", TYPED), ("#seen", TOLD)):
        source = load_source(f"{tmp_path}{mark}")
        assert source.captions(range(len(source))) == [words.format(red(source, i)) for i in range(len(source))]
        assert {row.long for stream in open_streams(f"{tmp_path}{mark}") for row in stream.rows()} == {words.format(i) for i in range(4)}
    for read in (load_source, open_streams):
        with pytest.raises(LabError, match="has no column 'sen' for captions. Did you mean 'seen'. It has file_name, text, seen."):
            read(f"{tmp_path}#sen")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(table, tmp_path, capsys):
    for read in (load_source, open_streams, lambda data: hub_streams(str(table.parent), "", data.rpartition("#")[2])):
        with pytest.raises(LabError, match="has no column 'lava' for captions. Did you mean 'llava'. It has id, image, prompt, llava,"):
            read(f"{table}#lava")
    assert cli.call(["encode", "baseline", "--data", f"{table}#caption", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "has no column 'caption' for captions." in told and "It has id, image, prompt, llava" in told and told.count("\n") == 1
    assert not (tmp_path / "out" / "encoded.json").exists()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "0.png").write_bytes(png(0))
    with pytest.raises(LabError, match="has no metadata.jsonl or other metadata file, so no column 'text'; leave out #text"):
        load_source(f"{tmp_path / 'plain'}#text")


def test_a_column_without_text_is_refused(table):
    with pytest.raises(LabError, match="have no caption .* or name the column of a table as DATA#column"):
        load_source(f"{table}#id")


def test_a_path_with_a_number_sign_is_a_path(table, tmp_path):
    odd = tmp_path / "set #1"
    odd.mkdir()
    (odd / "train.parquet").write_bytes(table.read_bytes())
    assert parted(str(odd)) == (str(odd), "") and parted(f"{odd}#llava") == (str(odd), "llava")
    assert load_source(f"{odd}#llava").captions([0])[0].startswith("a long account")
    with pytest.raises(LabError, match="names no column behind the #"):
        load_source(f"{table}#")


@pytest.mark.parametrize("name", ["txt", "captions", "llava"])
def test_usual_names_need_no_mark(name, tmp_path):
    pd.DataFrame({"image": [png(i) for i in range(4)], name: [TOLD.format(i) for i in range(4)]}).to_parquet(tmp_path / "train.parquet")
    assert set(load_source(str(tmp_path)).captions(range(3))) < {TOLD.format(i) for i in range(4)}


def test_the_published_recipe_reads_the_long_captions():
    """Its data set has both: columns as public code that trains on it reads them."""
    assert parted(recipe("prx-1.2b").data) == ("brivangl/midjourney-v6-llava", "llava")
