"""Run folders: what is written is what is read, whole or not at all."""

import getpass
import json
import math
import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prx_lab import machine
from prx_lab.errors import LabError
from prx_lab.record import CHECKOUT, ERROR, Record, append_json, env, find_root, plain, records, write_json, write_text
from prx_lab.report.comparable import repeated
from prx_lab.report.pairs import noises
from prx_lab.report.posts import counterpart, published
from tests.made_up import write_run

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=12)
OBJECT = st.dictionaries(st.text(), JSON, max_size=4)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(recipe=OBJECT, environment=OBJECT, train=st.lists(OBJECT, max_size=3), metrics=OBJECT, seed=st.integers(0, 99999))
def test_a_record_is_what_was_written(tmp_path_factory, recipe, environment, train, metrics, seed):
    folder = tmp_path_factory.mktemp("results") / "cpu" / "repa-dense-01234567" / f"seed{seed}"
    write_json(folder / "recipe.json", recipe)
    write_json(folder / "env.json", environment)
    (folder / "train.jsonl").touch()
    for row in train:
        append_json(folder / "train.jsonl", row)
    write_json(folder / "eval.json", {"metrics": metrics})
    record = Record.load(folder)
    assert (record.scale, record.name, record.id, record.seed) == ("cpu", "repa-dense", "01234567", seed)
    assert (record.recipe, record.env, list(record.train), record.eval["metrics"]) == (recipe, environment, train, metrics)


def test_numbers_that_json_lacks_become_null_and_read_as_nan(tmp_path):
    folder = write_run(tmp_path, "baseline", 0, fid=10.0)
    write_json(folder / "eval.json", {"metrics": {"fid": {"value": math.nan}, "cmmd": np.float32(0.5)}})
    assert "NaN" not in (folder / "eval.json").read_text()
    record = Record.load(folder)
    assert math.isnan(record.metric("fid")) and math.isnan(record.metric("absent"))
    assert record.metric("cmmd") == 0.5


def test_what_is_no_json_is_refused():
    with pytest.raises(AttributeError):
        plain({"model": object()})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(AttributeError):
        write_json(tmp_path / "a.json", {"new": object()})
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path / "a.json", {"new": "\ud800"})  # fails while the temporary file is open
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, stop = tmp_path / "a.json", threading.Event()
    write_json(path, list(range(3000)))

    def rewrite() -> None:
        while not stop.is_set():
            write_json(path, list(range(3000)))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert all(json.loads(path.read_text())[-1] == 2999 for _ in range(100))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("file", ["recipe.json", "env.json", "train.jsonl", "eval.json"])
@pytest.mark.parametrize("damage", ["missing", "torn", "list", "deep"])
def test_half_written_folders_are_skipped_and_listed(tmp_path, file, damage):
    write_run(tmp_path, "baseline", 0, fid=10.0)
    folder = write_run(tmp_path, "baseline", 1, fid=10.0)
    text = (folder / file).read_text()
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_text({"torn": text.rstrip()[:-1], "list": "[1]\n", "deep": "[" * 200_000}[damage])
    found = records(tmp_path, "cpu")
    assert [r.seed for r in found] == [0]
    ((where, why),) = found.skipped
    assert where == "cpu/baseline-0123abcd/seed1" and file in why and str(tmp_path) not in why
    assert "1 recorded runs, 1 skipped" in repr(found)


def test_records_are_ordered_and_filtered(tmp_path):
    for name, seed in (("repa", 10), ("repa", 9), ("baseline", 2)):
        write_run(tmp_path, name, seed, fid=10.0)
    write_run(tmp_path, "baseline", 0, fid=1.0, scale="gpu")
    (tmp_path / "cpu" / "baseline-0123abcd" / "seed7").mkdir()  # begun, nothing written
    write_text(tmp_path / "cpu" / "baseline-0123abcd" / "seed8" / ERROR, "Traceback")  # broke before it wrote anything else
    assert not records(tmp_path, "cpu").skipped
    (tmp_path / "published.csv").write_text("x")
    assert [(r.name, r.seed) for r in records(tmp_path, "cpu")] == [("baseline", 2), ("repa", 9), ("repa", 10)]
    assert [(r.name, r.seed) for r in records(tmp_path, recipe="baseline")] == [("baseline", 2), ("baseline", 0)]
    assert len(records(tmp_path / "nothing")) == 0
    assert str(tmp_path) not in repr(records(tmp_path)) + records(tmp_path)._repr_html_() + repr(records(tmp_path)[0])


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(LabError, match="not a run folder"):
        Record.load(tmp_path / "cpu" / "baseline" / "seed0")


def test_results_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (find_root("results") / "published.csv").is_file()
    (tmp_path / "results").mkdir()
    assert find_root("results") == Path("results")


def test_env_names_no_person_host_or_folder():
    found = env({"weights": {"fp32": 12}})
    text = json.dumps(plain(found))
    for private in (socket.gethostname(), os.getcwd(), str(Path.home()), str(Path(machine.__file__).parent)):
        assert len(private) < 4 or private not in text
    assert getpass.getuser() not in text.replace("root", "") or getpass.getuser() == "root"
    assert found["dtypes"] == {"weights": {"fp32": 12}}
    assert found["cores"] >= 1 and found["packages"]["torch"] and found["device_name"] == found["cpu"]


def test_published_rows_are_the_posts():
    rows = published()
    base = {(row.values["fid"], row.values["cmmd"]) for row in rows if row.recipe == "baseline"}
    assert base == {(18.2, 0.41)}
    repa, its_base = counterpart("repa-dense", "baseline", rows)
    assert (repa.values["fid"], its_base.values["fid"]) == (14.64, 18.2)
    tread = next(row for row in rows if row.table == "token routing at 1024 px" and row.row == "TREAD")
    assert (tread.values["fid"], tread.values["batches_per_s"], tread.tokens) == (14.10, 1.64, "1024")
    assert tread.label == "post, 1024 tokens: TREAD" and repa.label == "post: REPA-Dinov3"
    assert "https" not in "".join(row.source for row in rows)
    assert len({(row.table, row.row) for row in rows}) == len(rows)


def test_the_posts_rows_are_found_here_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(published()) > 1
    (tmp_path / "results").mkdir()
    lines = (CHECKOUT / "results/published.csv").read_text().splitlines()
    (tmp_path / "results/published.csv").write_text("\n".join(lines[:2]))
    assert len(published()) == 1 and published(Path("nowhere.csv")) == ()


def test_a_training_recorded_twice_is_one_piece_of_luck(tmp_path):
    for seed in (0, 1):
        for name, fid in (("baseline", 20.0), ("eight-steps", 25.0), ("muon", 10.0)):
            write_run(tmp_path, name, seed, fid + seed)
        (tmp_path / f"cpu/eight-steps-0123abcd/seed{seed}/train.jsonl").write_text(
            (tmp_path / f"cpu/baseline-0123abcd/seed{seed}/train.jsonl").read_text()
        )
    write_run(tmp_path, "baseline", 2, 22.0)
    assert {folder.parent.name for folder in repeated(records(tmp_path, "cpu"))} == {"eight-steps-0123abcd"}
    before = noises(records(tmp_path, "cpu").found, "cpu", "fid").between("muon-0123abcd", "baseline-0123abcd")
    for seed in (0, 1):
        shutil.copytree(tmp_path / f"cpu/eight-steps-0123abcd/seed{seed}", tmp_path / f"cpu/sampled-0123abcd/seed{seed}")
    assert noises(records(tmp_path, "cpu").found, "cpu", "fid").between("muon-0123abcd", "baseline-0123abcd") == before
