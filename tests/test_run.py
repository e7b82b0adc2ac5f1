"""One experiment end to end on the embedded world: its record, its continuation after an interruption, and sampling from it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from prx_lab import evaluate
from prx_lab.errors import LabError
from prx_lab.metrics.throughput import Memory
from prx_lab.recipes import recipe
from prx_lab.record import Record, run_folder, write_json
from prx_lab.report.comparable import machine
from prx_lab.run import milestones, run
from prx_lab.sample import from_run


@pytest.fixture(scope="module")
def short():
    one = recipe("repa", "smoke")
    return one.but(scale=replace(one.scale, steps=8, images=64, eval_n=8, eval_steps=2, evals=2, batch=8))


@pytest.fixture(scope="module")
def recorded(short, tmp_path_factory):
    return run(short, 0, tmp_path_factory.mktemp("results"))


def test_the_record_is_complete(short, recorded):
    record = Record.load(recorded)
    assert record.recipe == json.loads(json.dumps(short.to_json()))
    assert [row["step"] for row in record.curve] == [4, 8]
    for name in ("fid", "cmmd", "dino_mmd", "composition", "shape"):
        assert record.eval["metrics"][name]["n"] == 8
    assert record.env["dtypes"]["weights"].keys() == {short.precision.store}
    assert {row["step"] for row in record.train} == set(range(8))
    assert (recorded / "samples.png").stat().st_size > 1000
    assert str(recorded) not in "".join(p.read_text() for p in recorded.glob("*.json"))


def test_a_finished_run_is_not_repeated(short, recorded):
    before = (recorded / "eval.json").stat().st_mtime_ns
    assert run(short, 0, recorded.parents[2]) == recorded
    assert (recorded / "eval.json").stat().st_mtime_ns == before


def test_an_interrupted_run_continues_to_the_same_numbers(short, recorded, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prx_lab.run.scores", stop)  # killed in the first evaluation, after four steps
        with pytest.raises(KeyboardInterrupt):
            run(short, 0, tmp_path)
    env = run_folder(tmp_path, short, 0) / "env.json"
    log = env.with_name("train.jsonl")
    log.rename(log.with_suffix(".away"))
    with pytest.raises(LabError, match="checkpoint of step 4 and no log of the steps before it: put train.jsonl back"):
        run(short, 0, tmp_path)
    log.with_suffix(".away").rename(log)
    write_json(env, json.loads(env.read_text()) | {"device_name": "another processor"})
    again, whole = Record.load(run(short, 0, tmp_path)), Record.load(recorded)
    assert again.eval["metrics"] == whole.eval["metrics"]
    assert [r["loss"] for r in again.train] == [r["loss"] for r in whole.train]
    here = whole.env["device_name"]
    assert (again.env["device_name"], machine(again)[0], machine(whole)[0]) == (here, f"another processor and {here}", here)


def test_the_peak_of_a_device_is_that_of_training_and_none_where_nothing_was_trained(short, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    def peaks(*found):
        seen = iter(found)
        monkeypatch.setattr("prx_lab.run.peak_memory", lambda: Memory(next(seen), "cuda"))
        return Record.load(run(short, 0, tmp_path)).eval["throughput"]["peak_memory_mb"]

    with monkeypatch.context() as patch:
        patch.setattr("prx_lab.run.judged", stop)  # killed in the last evaluation
        with pytest.raises(KeyboardInterrupt):
            peaks(100.0, 300.0)
    assert peaks(900.0) is None
    shutil.rmtree(tmp_path)
    assert peaks(100.0, 300.0, 900.0) == 300.0  # two stretches of training, then what evaluation took


def test_too_few_images_to_judge_are_refused_before_training(short):
    from prx_lab.run import pick_device

    with pytest.raises(LabError, match="needs two"):
        evaluate.bench(short, pick_device(), n=1)


def test_samples_are_keyed_by_seed_and_place(recorded):
    sampler = from_run(recorded)
    a, b, c = (sampler(["a red cube", "a blue sphere"], seed, steps=2) for seed in (0, 0, 1))
    assert a.shape == (2, 3, 32, 32) and a.abs().max() <= 1
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    with pytest.raises(LabError, match="at least one"):
        sampler([])


def test_a_record_without_weights_says_so(tmp_path):
    with pytest.raises(LabError, match="no checkpoint"):
        from_run(tmp_path)


def test_real_images_score_better_than_noise(short):
    """The judges can tell: real validation images beat random pictures on every metric."""
    from prx_lab.run import pick_device

    judge = evaluate.bench(short, pick_device(), n=32)
    real = judge.source.images(range(32), 32)
    noisy = np.random.default_rng(0).integers(0, 256, real.shape, np.uint8)
    good, bad = evaluate.scores(real, judge), evaluate.scores(noisy, judge)
    for name in ("fid", "cmmd", "dino_mmd"):
        assert good[name]["value"] < bad[name]["value"]
    assert good["composition"]["value"] > 0.8 > bad["composition"]["value"]


@pytest.mark.parametrize("steps, evals, expected", [(10, 2, [5, 10]), (7, 3, [2, 5, 7]), (5, 0, [5]), (4, 4, [1, 2, 3, 4])])
def test_milestones_end_at_the_last_step(steps, evals, expected):
    assert milestones(steps, evals) == expected
