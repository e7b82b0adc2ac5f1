"""TREAD and SPRINT against loops over the papers' formulas, and the identities that hold for any weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from loops import ARCH, JOINS, ROUTERS, SIDE, N, inputs, loop, network, scores
from tiny import CPU, TINY, store, tiny
from torch.utils.flop_counter import FlopCounterMode

from prx_lab.errors import LabError
from prx_lab.flow import draw
from prx_lab.model import rope_table, rotate
from prx_lab.muon import Muon
from prx_lab.optim import EMA
from prx_lab.recipes import BASE
from prx_lab.routing import TREAD, Around, take
from prx_lab.sprint import SPRINT
from prx_lab.terms import IREPA, REPA
from prx_lab.terms.contrastive import Contrastive
from prx_lab.terms.haste import AttentionAlignment
from prx_lab.train import Training


@pytest.mark.parametrize("router, join", JOINS)
@torch.no_grad()
def test_a_routed_forward_equals_the_loops(router, join):
    model, keep = network(router), router.keep(scores())
    skip = torch.tensor([False, True, False])
    out = model(*inputs(), keep, skip)[0].double().numpy()
    assert out.std() > 0.1
    for b in range(3):
        expected = loop(model, b, [] if skip[b] else keep[b].tolist(), join)
        assert np.abs(out[b] - expected).max() < 1e-4


@pytest.mark.parametrize("router, join", JOINS)
@torch.no_grad()
def test_all_tokens_and_no_tokens_equal_the_loops(router, join):
    model, none = network(router), torch.empty(3, 0, dtype=torch.long)
    for keep, kept in ((None, list(range(N))), (none, [])):
        out = model(*inputs(), keep)[0].double().numpy()
        assert np.abs(out[0] - loop(model, 0, kept, join)).max() < 1e-4


@pytest.mark.parametrize("router, join", JOINS)
@torch.no_grad()
def test_a_block_without_tokens_hands_on_no_queries_of_another(router, join):
    model, none = network(router), torch.empty(3, 0, dtype=torch.long)
    blocks, (first, last) = range(ARCH.depth), model.route.span
    feats = model(*inputs(), none, taps=blocks, heads=blocks)[1]
    for i in blocks:
        assert (feats[i].q is None) == (feats[i].k is None) == (first <= i <= last)


# ------------------------------------------------------------------------------------------------------------- kept tokens
@pytest.mark.parametrize("T", [1, 10, 16, 100, 1000])
@pytest.mark.parametrize("tenths", range(10))
def test_kept_count_is_the_papers(T, tenths):
    """K = T - floor(T g) with g the dropped share, in exact arithmetic; one token is kept at least."""
    for router in (TREAD(rate=1 - tenths / 10), SPRINT(rate=1 - tenths / 10, pattern="uniform")):
        assert router.kept(T) == max(1, T - T * tenths // 10)
        keep = router.keep(torch.rand(2, T))
        assert keep is None if router.kept(T) == T else keep.shape == (2, router.kept(T))


@pytest.mark.parametrize("router", [TREAD(0.5), SPRINT(0.25), SPRINT(0.25, pattern="uniform")])
def test_ids_are_sorted_different_and_drawn_for_each_sample_alone(router):
    score = scores(64, 8)
    keep = router.keep(score)
    assert (keep[:, 1:] > keep[:, :-1]).all() and not (keep == keep[:1]).all(1)[1:].any()
    assert torch.equal(router.keep(score[3:4]), keep[3:4])  # whatever else is in the batch


@pytest.mark.parametrize("router", [TREAD(0.5), SPRINT(0.25), SPRINT(0.375)])
def test_every_token_is_kept_equally_often(router):
    often = torch.bincount(router.keep(scores(64, 4000)).flatten(), minlength=64) / 4000
    assert (often - router.rate).abs().max() < 5 * math.sqrt(router.rate * (1 - router.rate) / 4000)


@pytest.mark.parametrize("rate, side, chosen", [(0.25, 2, 1), (0.5, 2, 2), (0.75, 2, 3), (0.375, 4, 6), (0.125, 4, 2), (1 / 64, 8, 1)])
def test_structured_keeps_the_smallest_scores_of_every_cell(rate, side, chosen):
    """The authors' cells: one of 2x2 at 0.25, two at 0.5, six of 4x4 at 0.375, two at 0.125."""
    g, score = 8, scores(64, 4)
    keep = SPRINT(rate).keep(score)
    assert keep.shape == (4, SPRINT(rate).kept(64)) == (4, round(64 * rate))
    for b in range(4):
        expected = []
        for row in range(0, g, side):
            for column in range(0, g, side):
                ids = [(row + i) * g + column + j for i in range(side) for j in range(side)]
                expected += sorted(ids, key=lambda n: score[b, n].item())[:chosen]
        assert keep[b].tolist() == sorted(expected)


def test_spans_leave_the_ends_dense():
    assert TREAD().span(16) == (2, 12) and SPRINT().span(28) == (2, 25)  # PRX's and SPRINT's own
    assert SPRINT(start=2 / 12, end=10 / 12).span(12) == (2, 9)  # SR-DiT's 2 + 8 + 2
    for depth in range(4, 40):
        for router in (TREAD(), SPRINT()):
            first, last = router.span(depth)
            assert 1 <= first <= last < depth - 1
    assert SPRINT().span(3) == (1, 1)


@pytest.mark.parametrize(
    "router, word",
    [
        (TREAD(start=0.5, end=0.5), "start < end"), (SPRINT(start=0.9, end=0.1), "start < end"), (SPRINT(rate=0.0), "(0, 1]"),
        (SPRINT(rate=0.3), "multiple of"), (SPRINT(rate=1 / 64), "cells of 8"), (SPRINT(pattern="grid"), "structured, uniform"),
        (TREAD(start=0.95, end=1.0), "lower router.start"), (SPRINT(start=0.9, end=1.0), "lower router.start"),
        (SPRINT(path_drop=1.0), "[0, 1)"), ((TREAD(), SPRINT()), "must be Router"),
    ],
)  # fmt: skip
def test_contradictory_routes_are_refused(router, word):
    with pytest.raises(LabError) as error:
        BASE.but(scale=TINY, router=router)
    assert word in str(error.value) and "\n" not in str(error.value)


def test_sprint_needs_three_blocks():
    with pytest.raises(LabError, match="scale.depth"):
        BASE.but(scale=replace(TINY, depth=2), router=SPRINT())


# -------------------------------------------------------------------------------------------------------------- identities
@torch.no_grad()
def test_routed_rows_pass_bit_for_bit():
    model, keep, seen = network(ROUTERS[0]), ROUTERS[0].keep(scores()), {}
    model.route.register_forward_hook(lambda _, args, out: seen.update(dense=args[0], out=out))
    model(*inputs(), keep)
    kept = torch.zeros(3, N, dtype=torch.bool).scatter(1, keep, True)
    assert torch.equal(seen["out"][~kept], seen["dense"][~kept])
    assert (seen["out"][kept] != seen["dense"][kept]).any(-1).all()


def test_the_gradient_around_the_route_is_the_identity():
    dense, keep = torch.randn(3, N, 4, requires_grad=True), ROUTERS[0].keep(scores())
    up, kept = torch.randn(3, N, 4), torch.zeros(3, N, dtype=torch.bool).scatter(1, keep, True)
    Around((0, 0))(dense, 3 * take(dense, keep), keep, None).backward(up)
    assert torch.equal(dense.grad[~kept], up[~kept]) and torch.allclose(dense.grad[kept], 3 * up[kept])


@torch.no_grad()
def test_a_network_judged_with_all_tokens_does_not_depend_on_the_rate():
    outs = [network(TREAD(rate, 0.25, 0.75))(*inputs())[0] for rate in (0.1, 0.5, 1.0)]
    outs.append(network(TREAD(0.5, 0.0, 1.0))(*inputs())[0])
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_rotating_and_choosing_tokens_commute():
    q, keep = torch.randn(3, 2, N, 8), ROUTERS[0].keep(scores())
    cos, sin = rope_table(SIDE, SIDE, 8, CPU)
    ids = keep[:, None, :, None].expand(-1, 2, -1, 8)
    assert torch.equal(rotate(q, cos, sin).gather(2, ids), rotate(q.gather(2, ids), take(cos, keep), take(sin, keep)))


def test_cost_of_the_route_is_linear_in_projections_and_quadratic_in_attention():
    """FLOPs from shapes: of blocks 1 and 2 the projections scale with K, the attention with K (K + L)."""
    L, D = 3, ARCH.width
    hidden, model = int(3.5 * D), network(ROUTERS[0])

    def flops(keep: torch.Tensor | None) -> int:
        with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model(*inputs(), keep)
        return counter.get_total_flops()

    for K in (4, 8):
        saved = flops(None) - flops(TREAD(K / N, 0.25, 0.75).keep(scores()))
        linear, quadratic = (N - K) * D * (4 * D + 3 * hidden), 2 * (N * (N + L) - K * (K + L)) * D
        assert saved == 2 * 3 * 2 * (linear + quadratic)


# ---------------------------------------------------------------------------------------- through training, and with others
@pytest.mark.parametrize("router", [TREAD(), SPRINT()])
@pytest.mark.parametrize("depth, inside", [(0.125, False), (0.5, True), (0.75, True), (1.0, False)])
def test_repa_reads_kept_tokens_inside_a_route_and_all_outside(router, depth, inside):
    recipe = tiny(BASE.but(router=router).plus(REPA(depth=depth)))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(2))  # away from the zero gates of the start
    learner, batch = training.learner, training.store.batch(torch.arange(8).numpy())
    variates = draw((0, 9, 0, 0), (8, 16, 4, 4), N, recipe.time, 0.0)
    seen = {}
    learner.terms[1].projector.register_forward_hook(lambda _, args, out: seen.update(h=args[0], p=out))
    _, losses = learner(batch, variates)
    keep, y = router.keep(variates.score), batch.teachers["lab-dino"].float()
    assert seen["h"].shape[1] == (router.kept(N) if inside else N)
    total = []
    for b in range(8):
        ids = keep[b].tolist() if inside else range(N)
        for place, n in enumerate(ids):
            p = seen["p"][b, place].detach()
            total.append((p @ y[b, n] / p.norm() / y[b, n].norm()).item())
    assert losses[1].item() == pytest.approx(-sum(total) / len(total), abs=1e-5)
    losses[1].backward()
    for i, b in enumerate(learner.model.blocks):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in b.parameters()) == (i <= learner.taps[0])


@pytest.mark.parametrize("router", [TREAD(), SPRINT()])
@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.plus(Contrastive()),
        lambda r: r.plus(IREPA(depth=0.125)),
        lambda r: r.but(optim=Muon()),
        lambda r: r.but(predict="x"),
    ],
)
def test_routes_work_with(change, router):
    training = Training(tiny(change(BASE.but(router=router))), store(), 0, CPU)
    assert all(math.isfinite(row["loss"]) for row in training.fit(2))


@pytest.mark.parametrize("router", [TREAD(), SPRINT()])
@pytest.mark.parametrize("term", [IREPA(), AttentionAlignment()])
def test_terms_that_need_every_token_are_refused_inside_a_route(term, router):
    with pytest.raises(LabError, match="every token"):
        BASE.but(router=router).plus(term)


@pytest.mark.parametrize("router", [TREAD(), SPRINT()])
def test_the_average_runs_all_tokens_and_keeps_the_fusion(router):
    training = Training(tiny(BASE.but(router=router, ema=EMA(0.9))), store(), 0, CPU)
    list(training.fit(3))
    averaged = training.sampler_model()
    assert all(torch.equal(averaged.state_dict()[k], v) for k, v in training.ema.items())
    names = {"route.fuse.weight", "route.fuse.bias", "route.mask"} if isinstance(router, SPRINT) else set()
    assert {k for k in training.ema if k.startswith("route")} == names
