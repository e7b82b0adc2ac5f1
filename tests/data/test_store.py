"""The encoded data set: caches that are whole or absent, order as a function of (seed, step), batches by index."""

import resource

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import store

from prx_lab.data.batch import Text
from prx_lab.data.load import load_source
from prx_lab.data.store import cached, images_of, order, to_float, to_uint8, visiting
from prx_lab.errors import LabError
from prx_lab.flow import stream


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRX_LAB_CACHE", str(tmp_path))
    return tmp_path


def parts(n=10, stop=10):
    for i in range(0, n, 4):
        if i >= stop:
            raise KeyboardInterrupt
        yield {"a": np.arange(i, min(i + 4, n))}


def test_a_cache_is_written_once_and_read_back():
    calls = []

    def count():
        calls.append(1)
        return parts()

    for _ in range(2):
        assert np.array_equal(cached("numbers", ["k"], 10, count)["a"], np.arange(10))
    assert len(calls) == 1


def test_an_interrupted_cache_leaves_nothing(own_cache):
    with pytest.raises(KeyboardInterrupt):
        cached("numbers", ["k"], 10, lambda: parts(stop=8))
    assert [p for p in own_cache.iterdir() if p.suffix != ".lock"] == []
    assert len(cached("numbers", ["k"], 10, parts)["a"]) == 10


def test_a_full_disk_is_one_sentence(own_cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))  # the header of an array fits
    try:
        with pytest.raises(LabError, match="File too large.; free some space or set PRX_LAB_CACHE"):
            cached("numbers", ["k"], 10, parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p for p in own_cache.iterdir() if p.suffix != ".lock"] == []


def test_an_error_of_what_makes_the_data_is_not_the_disks(own_cache):
    def unreachable():
        yield {"a": np.arange(4)}
        raise TimeoutError("the hub does not answer")

    with pytest.raises(TimeoutError, match="the hub"):
        cached("numbers", ["k"], 10, unreachable)
    assert [p for p in own_cache.iterdir() if p.suffix != ".lock"] == []


def test_a_network_visits_a_device_and_goes_back_also_after_an_error():
    network, there = torch.nn.Linear(2, 2), torch.device("meta")
    moved = []
    network.to = lambda device: moved.append(torch.device(device).type)
    with pytest.raises(ValueError), visiting(network, there):
        raise ValueError
    assert moved == ["meta", "cpu"]


def test_every_epoch_is_a_fresh_permutation_that_depends_on_the_seed():
    rows = np.concatenate([order(0, step, 8, 32) for step in range(8)])
    assert sorted(rows[:32]) == sorted(rows[32:]) == list(range(32))
    assert not np.array_equal(rows[:32], rows[32:])
    assert not np.array_equal(order(0, 0, 8, 32), order(1, 0, 8, 32))
    assert len(order(0, 3, 20, 7)) == 20  # batches may be larger than the data


@pytest.mark.parametrize("batch, n", [(8, 32), (5, 7), (20, 7)])
def test_the_order_is_that_of_a_fresh_permutation_at_every_step(batch, n):
    for step in (0, 1, 2, 5, 1):
        place = np.arange(step * batch, (step + 1) * batch)
        epochs = {e: torch.randperm(n, generator=stream(3, 1 << 41, int(e))).numpy() for e in np.unique(place // n)}
        expected, found = np.array([epochs[p // n][p % n] for p in place]), order(3, step, batch, n)
        assert np.array_equal(found, expected) and found.dtype == expected.dtype


def test_batches_gather_by_index():
    data, index = store(), np.array([5, 5, 2])
    batch = data.batch(index)
    assert torch.equal(batch.x[0], batch.x[1]) and torch.equal(batch.x[2], torch.from_numpy(data.x[2]).float())
    assert batch.teachers["lab-dino"].shape == (3, 16, 10)
    assert torch.equal(batch.text.null[0], torch.from_numpy(data.text["tokens"][-1]).float())


def test_dropped_captions_become_the_empty_one_and_the_others_stay():
    text = Text(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(1, 3, 4), torch.tensor([[True, False, False]]))
    tokens, mask = text.dropped(torch.tensor([True, False]))
    assert tokens[0].sum() == 0 and mask[0].tolist() == [True, False, False]
    assert torch.equal(tokens[1], text.tokens[1]) and mask[1].all()
    assert text.tokens.sum() == 24  # nothing is written in place


def test_bytes_survive_the_round_trip():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_float(images)), images)


def test_folders_of_one_name_and_the_splits_of_one_do_not_share_their_images(tmp_path):
    colours = {"a": (255, 0, 0), "b": (0, 0, 255)}
    for place, colour in colours.items():
        for split, shade in (("train", 1.0), ("val", 0.5)):
            folder = tmp_path / place / "pictures" / split
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), tuple(int(shade * c) for c in colour)).save(folder / f"{i}.png")
                (folder / f"{i}.txt").write_text("a plain picture")
    seen = {
        (place, split): images_of(load_source(str(tmp_path / place / "pictures"), split), 3, 8)[0, 0, 0].tolist()
        for place in colours
        for split in ("train", "val")
    }
    assert seen == {("a", "train"): [255, 0, 0], ("a", "val"): [127, 0, 0], ("b", "train"): [0, 0, 255], ("b", "val"): [0, 0, 127]}
