"""A planned run: operations against hand calculations and PyTorch's counter, hours against arithmetic, no speed that nobody measured."""

import pytest
import torch
from tiny import store, tiny
from torch.utils.flop_counter import FlopCounterMode

from prx_lab import plan
from prx_lab.cost import Dims
from prx_lab.muon import Muon
from prx_lab.recipes import BASE
from prx_lab.report.speed import Record
from prx_lab.train import build


def test_a_stage_s_network_is_the_hand_calculation():
    """1024 tokens of 32 x 32 pixels, 256 words, 16 blocks of which blocks 3 to 13 see half of the tokens; backward is twice forward."""
    D, H, N, K, L, patch = 1792, 6272, 1024, 512, 256, 3 * 32 * 32
    block = lambda n: n * (4 * D * D + 3 * D * H) + 6 * D * D + 2 * n * (L + n) * D  # noqa: E731
    text = L * (2304 * D + 16 * 2 * D * D)
    ends = N * (patch * 256 + 256 * D + D * patch)
    products = 5 * block(N) + 11 * block(K) + text + ends
    assert plan.SPEEDRUN[1].network == pytest.approx(3 * 2 * products, rel=0.01)


def test_the_run_is_the_published_one():
    first, second = plan.SPEEDRUN
    assert (first.images, second.images) == (102_400_000, 10_240_000)
    assert [s.recipe.scale.tokens for s in plan.SPEEDRUN] == [256, 1024]
    assert first.recipe.teachers == ("dinov3-l",) and second.recipe.teachers == ()
    assert all(isinstance(s.recipe.optim, Muon) for s in plan.SPEEDRUN)


def test_frozen_networks_are_as_large_as_is_known():
    assert plan.forward("VGG-16", 224) == pytest.approx(2 * 15.35e9, rel=0.01)  # multiply-adds of its convolutions, as published
    n, D = 256 + 5, 768  # patches, class token and registers
    vit = 12 * (n * 12 * D * D + 2 * n * n * D) + 256 * 3 * 14 * 14 * D
    assert plan.forward("DINOv2-B", 224) == pytest.approx(2 * vit, rel=0.001)


@pytest.mark.parametrize("optim", [Muon(), Muon(qkv="fused", adaln="muon"), Muon(ns_steps=2), BASE.optim], ids=str)
def test_iterations_of_muon_are_what_pytorch_counts(optim):
    one = tiny(BASE.but(optim=optim))
    data = store(one)
    learner = build(one, data, 0, torch.device("cpu"))
    optimizer = one.optim.build(learner, 1e-3)
    for p in learner.parameters():
        p.grad = torch.randn_like(p)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert counter.get_total_flops() == plan.newton_flops(one, Dims(16, 8, data.context, 6))


def test_hours_are_operations_over_speed():
    assert plan.hours(10**18, plan.Rate(1e12, ""), gpus=10) == pytest.approx(10**5 / 3600)
    stage = plan.SPEEDRUN[1]
    assert stage.total == stage.images * (stage.network + stage.watchers) + 20_000 * stage.optimiser
    wall = sum(plan.hours(s.total, plan.Rate(plan.implied_speed(), "")) for s in plan.SPEEDRUN)
    assert wall == pytest.approx(plan.HOURS)


def record(device: str) -> Record:
    facts = {"gpu recipe's step, bf16, compiled": {"GFLOP/s": 3e5}, "gpu recipe's step, bf16, eager": {"GFLOP/s": 2e5}}
    return Record("ceiling", "", facts=facts, machine={"device": device, "device_name": "Some GPU"})


def test_only_a_gpu_s_record_is_a_measured_speed():
    assert plan.measured({}) == plan.measured({"ceiling": record("cpu")}) == ()
    (rate,) = plan.measured({"ceiling": record("cuda:0")})
    assert rate.flops == 3e14 and rate.source == "measured: a step on one Some GPU"
    assert all(rate.source.startswith("assumed") for rate in plan.assumed())


def test_the_table_puts_assumptions_beside_the_published_time():
    rates = plan.assumed((0.5, 0.25))
    fast, slow, published = plan.table(rates).rows
    assert float(slow[4]) == pytest.approx(2 * float(fast[4]), abs=0.11)
    assert float(fast[2]) + float(fast[3]) == pytest.approx(float(fast[4]), abs=0.11)
    assert published[0].startswith("published") and published[4] == "24.0" and published[-1] == "1,536"
    assert "not measured" in repr(plan.table(rates)) and "read once" in repr(plan.operations())
