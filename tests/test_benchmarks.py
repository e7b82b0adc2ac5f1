"""The benchmarks measure what they say: arms compute the same, statistics are honest, records return as written; no time is asserted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CPU

from benchmarks import breakdown, cases, harness, loader, newton, sampling
from benchmarks.__main__ import NAMES
from prx_lab.muon import Muon, newton_schulz
from prx_lab.precision import Precision

ONE = cases.recipe(16, 4).but(precision=Precision("fp32", "fp32"))


# ------------------------------------------------------------------------------------------------- the harness
def test_arms_take_turns_and_each_round_starts_with_another():
    calls = []
    found = harness.interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 4, warm=1)
    assert calls == [*"abc", *"abc", *"bca", *"cab", *"abc"]
    assert all(len(t.wall) == len(t.cpu) == 4 for t in found.values())


def test_a_ratio_is_that_of_medians_with_an_interval_over_rounds():
    g = np.random.default_rng(0)
    drift = np.repeat([1.0, 5.0], 20)  # the machine slows down half-way, for both arms
    fast = drift * g.uniform(0.99, 1.01, 40)
    value, lo, hi = harness.ratio(3 * fast * g.uniform(0.99, 1.01, 40), fast)
    assert lo < 3 < hi and 2.9 < lo <= value <= hi < 3.1
    assert harness.ratio([2.0, 8.0, 4.0], [1.0, 2.0, 9.0])[0] == 2.0
    assert harness.ratio([4.0] * 5, [2.0] * 5) == (2.0, 2.0, 2.0)


def test_an_interval_covers_the_ratio_about_as_often_as_it_says():
    g, covered = np.random.default_rng(1), 0
    for _ in range(200):
        lo, hi = harness.ratio(2 * g.lognormal(0, 0.1, 15), g.lognormal(0, 0.1, 15), 400)[1:]
        covered += lo < 2 < hi
    assert 180 <= covered <= 200


def test_a_record_comes_back_as_written_and_shows_its_goals(tmp_path, capsys):
    record = harness.Record("step", "A title", facts={"case": {"share": 0.25}})
    times = {"fast": harness.Times([0.1, 0.2, 0.3], [0.1] * 3), "slow": harness.Times([0.3, 0.4, 0.5], [0.2] * 3)}
    record.compare("64 tokens", times, [("fast", "slow", 1.5), ("slow", "fast", 1.5)])
    path = record.save(tmp_path)
    (found,) = harness.load(tmp_path, path.parent.name).values()
    assert found == record and found.machine["packages"]["torch"] == torch.__version__
    assert [one.value for one in found.ratios] == pytest.approx([2.0, 0.5])
    harness.show({"step": found})
    said = capsys.readouterr().out
    assert "reached" in said and "missed" in said and "share 0.25" in said


def test_every_benchmark_can_be_named():
    assert {"step", "ceiling", "breakdown", "sampling", "newton", "loader", "repa", "routing", "startup"} == set(NAMES)
    for name in NAMES:
        module = __import__(f"benchmarks.{name}", fromlist=["measure"])
        assert module.measure and module.main and f"python -m benchmarks.{name}" in module.__doc__


# ------------------------------------------------------------------------------- arms compute the same thing
def test_the_step_around_their_network_is_our_step():
    data = cases.store(ONE)
    mine, other = cases.ours(ONE, data, CPU), cases.theirs(ONE, data, CPU)
    a, b = ([run.step() for _ in range(4)] for run in (mine, other))
    assert [row["loss"] for row in a] == pytest.approx([row["loss"] for row in b], rel=1e-5)
    assert a[0]["loss"] != a[3]["loss"] and [row["grad_norm"] for row in a] == pytest.approx([row["grad_norm"] for row in b], rel=1e-4)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_both_sampling_loops_draw_the_same(compute):
    model = sampling.network(ONE)
    theirs = cases.diffusers_transformer(model.arch, model.state_dict()).eval()
    a, b = (loop() for loop in sampling.loops(ONE, model, theirs, 3, compute).values())
    assert a.std() > 0.5 and (a - b).abs().max() < (1e-4 if compute == "fp32" else 0.15)


def test_newton_schulz_on_a_stack_is_that_on_each_matrix():
    runs = [newton.with_gradients(cases.ours(ONE.but(optim=Muon()), cases.store(ONE), CPU)) for _ in range(2)]
    runs[1].optimizer.orthogonalise = newton.one_by_one
    for run in runs:
        run.optimizer.step()
    for a, b in zip(*(run.learner.parameters() for run in runs)):
        assert torch.equal(a, b)
    G = torch.randn(5, 24, 40)
    assert torch.equal(newton_schulz()(G, 5), newton.one_by_one(G, 5))


def test_the_store_on_disk_holds_the_same_samples(tmp_path):
    data = cases.store(ONE)
    disk, index = loader.on_disk(data, 11, tmp_path), np.array([3, 0, 7])
    a, b = data.batch(index), disk.batch(index)
    assert torch.equal(a.x, b.x) and torch.equal(a.text.tokens, b.text.tokens) and len(disk) == 11


@pytest.mark.parametrize("tokens", [16, 64, 256])
def test_shapes_are_those_that_operations_are_counted_for(tokens):
    one = cases.recipe(tokens, 2)
    data = cases.store(one)
    channels, side, _ = data.shape
    dims = cases.DIMS
    assert (channels, one.scale.size // side, data.context, data.text["mask"].shape[1]) == (
        dims.channels,
        dims.stride,
        dims.context,
        dims.text,
    )
    assert replace(one.scale, grid=0, size=0, batch=0) == replace(cases.SCALES[cases.SCALE], grid=0, size=0, batch=0)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("aten::bmm", "attention"), ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mm", "matrix products"), ("aten::addmm", "matrix products"), ("## Call CompiledFxGraph abc ##", "fused by the compiler"),
        ("aten::_to_copy", "casts and copies"), ("aten::_fused_adamw_", "optimiser and clipping"), ("aten::mul", "other elementwise"),
        ("TorchDynamo Cache Lookup", "dispatch"),
    ],
)  # fmt: skip
def test_operations_are_sorted_by_kind(name, kind):
    assert breakdown.kind(name) == kind
