"""The benchmarks measure what they say: arms compute the same, statistics are honest, records return as written; no time is asserted."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CPU
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import breakdown, cases, harness, loader, newton, roofline, sampling
from benchmarks.__main__ import NAMES
from prx_lab.muon import Muon, newton_schulz
from prx_lab.precision import Precision

ONE = cases.recipe(16, 4).but(precision=Precision("fp32", "fp32"))


# ------------------------------------------------------------------------------------------------- the harness
def test_arms_take_turns_and_each_round_starts_with_another():
    calls = []
    found = harness.interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 4, warm=1)
    assert calls[:15] == [*"abc", *"abc", *"bca", *"cab", *"abc"]  # more rounds follow where other work disturbs
    assert len(calls) % 3 == 0 and len(calls) <= 3 + 3 * 8
    assert all(len(t.wall) == len(t.cpu) == 4 for t in found.values())


def test_every_benchmark_can_be_named():
    files = {path.stem for path in Path(cases.__file__).parent.glob("*.py") if "command(__doc__" in path.read_text()}
    assert files == set(NAMES)
    for name in NAMES:
        module = __import__(f"benchmarks.{name}", fromlist=["measure"])
        assert module.measure and f"python -m benchmarks.{name}" in module.__doc__


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


def test_traffic_is_what_operations_read_and_write():
    a, b = torch.zeros(8, 4), torch.zeros(4, 2)
    assert roofline.traffic(lambda: (a @ b, a.view(4, 8), a.T)) == 4 * (32 + 8 + 16)
    assert roofline.traffic(lambda: torch._foreach_add_([a, b], 1.0)) == 4 * (32 + 8)
    one = cases.recipe(16, 4)
    run = cases.ours(one, cases.store(one), CPU)
    weights = sum(p.numel() for p in run.learner.parameters())
    moved = roofline.traffic(run.step)
    assert moved > 4 * (2 + 2 + 2 + 1) * weights  # AdamW alone reads and writes weights and moments, and reads gradients


def test_parts_of_a_step_say_what_they_compute_and_move():
    for name, (run, operations, n) in roofline.parts(cases.recipe(16, 4)).items():
        with FlopCounterMode(display=False) as counter, roofline.Traffic() as seen:
            run()
        products = counter.get_total_flops()
        assert products in (0, operations), name
        assert n <= seen.bytes < 8 * n, name


def test_the_quietest_rounds_are_kept_whole():
    """Turns that claim more processor time than they took leave none to others, and so count as quiet."""
    calls = []

    def turn(name: str) -> harness.Turn:
        calls.append(name)
        i = (len(calls) + 1) // 2  # the round, from 1
        end = time.perf_counter() + 0.03
        while time.perf_counter() < end:  # as work of others would be
            pass
        return harness.Turn(float(i), 0.03, 1.0 if i % 2 else 0.0)

    found = harness.rounds({name: lambda name=name: turn(name) for name in "ab"}, 3)
    assert found["a"].wall == found["b"].wall == [1.0, 3.0, 5.0] and found["a"].others == 0
    assert "".join(calls) == "abbaabbaab"
