"""Optimisers: Muon against its formula, torch and muon-optimizer; the partition; bf16 weights and their audit; the average."""

import sys
from dataclasses import replace

import pytest
import torch
from tiny import CPU, TINY, store, tiny
from torch import nn

from prx_lab import checkpoint
from prx_lab.errors import LabError
from prx_lab.model import PRX, PUBLISHED
from prx_lab.muon import ADALN, CHOICES, MATRICES, SCALES, Muon, MuonAdamW, newton_schulz
from prx_lab.optim import EMA, AdamW
from prx_lab.precision import Precision, audit
from prx_lab.recipes import BASE, RECIPES
from prx_lab.terms import REPA
from prx_lab.train import Training

NS = newton_schulz()
BF16 = 0.03  # what bf16 products cost in an orthogonalised matrix, whose entries are at most about 1


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(G: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz in float64 through singular values: each is mapped by p(s) = a s + b s^3 + c s^5, `steps` times."""
    u, s, v = torch.linalg.svd(G.double(), full_matrices=False)
    s = s / (G.double().norm() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


# ------------------------------------------------------------------------------------------- the iteration
@pytest.mark.parametrize(
    "G, X",
    [
        ([[3, 0], [4, 5]], [[0.9289, -0.5921], [0.2516, 0.7587]]),
        ([[1, 0], [0, 1]], [[1.1081, 0], [0, 1.1081]]),
        ([[1, 0], [0, 0.1]], [[0.7020, 0], [0, 0.7087]]),
        ([[3, 4]], [[0.4179, 0.5571]]),
    ],
)
def test_known_answers(G, X):
    G, X = torch.tensor(G, dtype=torch.float64), torch.tensor(X, dtype=torch.float64)
    assert torch.allclose(oracle(G), X, atol=1e-4)
    assert torch.allclose(NS(G, 5).double(), X, atol=3 * BF16)  # near s = 1 the map is steep, and bf16 errors grow


def test_singular_values_oscillate_around_one_within_a_band():
    s, found = torch.linspace(0.01, 1, 2000, dtype=torch.float64), []
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        found.append(s[-1].item())
    assert found == pytest.approx([0.701, 1.11362, 0.720706, 1.089974, 0.696436], abs=1e-5)
    assert 0.6817 < s.min() < 0.6820 and 1.1342 < s.max() < 1.1346


@pytest.mark.parametrize("shape", [(96, 384), (384, 96), (3, 64, 200)])
def test_a_rectangular_gaussian_lands_in_the_band(shape):
    values = torch.linalg.svdvals(NS(gaussian(*shape), 5).float())
    assert values.min() > 0.66 and values.max() < 1.17


def test_invariances():
    G, Q = gaussian(24, 40), torch.linalg.qr(gaussian(24, 24, seed=1))[0]
    X = oracle(G)
    for other, expected in [(1e-3 * G, X), (1e3 * G, X), (G.T, X.T), (Q @ G, Q.double() @ X)]:
        assert torch.allclose(oracle(other), expected, atol=1e-4)
        assert torch.allclose(NS(other, 5).double(), expected, atol=BF16)
    assert torch.equal(NS(torch.zeros(4, 6), 5), torch.zeros(4, 6, dtype=torch.bfloat16))


# ------------------------------------------------------------------------------------------------ the step
def matrices(*shapes: tuple[int, int]) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i)) for i, shape in enumerate(shapes)]


def optimiser(weights: list[nn.Parameter], maps: list[int], rest: list[nn.Parameter] = (), lr: float = 0.01, **changes) -> MuonAdamW:
    group = {"params": weights, "maps": maps, "lr": lr, "momentum": 0.95, "ns_steps": 5, "weight_decay": 0.0, "scale": "original"}
    return MuonAdamW(group | changes, AdamW().over(list(rest) or [nn.Parameter(torch.zeros(1))], lr))


def descend(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: int = 4) -> list[torch.Tensor]:
    for step in range(steps):
        for i, W in enumerate(weights):
            W.grad = gaussian(*W.shape, seed=100 * step + i)
        optimizer.step()
    return [W.detach().clone() for W in weights]


SHAPES = ((16, 16), (48, 16), (16, 48), (16, 16))


@pytest.mark.parametrize(
    "scale, theirs", [("original", "original"), ("match_rms_adamw", "match_rms_adamw"), ("spectral", "spectral_unclamped")]
)
def test_equals_torch(scale, theirs):
    mine, other = matrices(*SHAPES), matrices(*SHAPES)
    a = descend(optimiser(mine, [1] * 4, scale=scale, weight_decay=0.1), mine)
    b = descend(torch.optim.Muon(other, lr=0.01, weight_decay=0.1, adjust_lr_fn=theirs), other)
    for x, y in zip(a, b):
        assert (x - y).abs().max() < 4 * 0.01 * SCALES[scale](*x.shape) * BF16


def test_equals_muon_optimizer_in_both_groups():
    from muon import SingleDeviceMuonWithAuxAdam

    mine, other = matrices(*SHAPES, (5, 3)), matrices(*SHAPES, (5, 3))
    a = descend(optimiser(mine[:4], [1] * 4, mine[4:]), mine)
    adam = dict(params=other[4:], lr=0.01, betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0, use_muon=False)
    b = descend(SingleDeviceMuonWithAuxAdam([dict(params=other[:4], lr=0.01, use_muon=True), adam]), other)
    for x, y in zip(a[:4], b[:4]):
        assert (x - y).abs().max() < 4 * 0.01 * 3**0.5 * BF16
    assert torch.allclose(a[4], b[4], atol=1e-6)


def test_split_equals_separate_matrices_and_fused_does_not():
    apart = matrices((16, 16), (16, 16), (16, 16))
    stacked, fused = (nn.Parameter(torch.cat([W.detach() for W in apart])) for _ in range(2))
    grads = torch.cat([gaussian(16, 16, seed=i) * 10**i for i in range(3)])  # of very different lengths
    optimizers = [optimiser(apart, [1, 1, 1]), optimiser([stacked], [3]), optimiser([fused], [1])]
    for _ in range(3):
        for W, g in zip(apart, grads.chunk(3)):
            W.grad = g.clone()
        stacked.grad, fused.grad = grads.clone(), grads.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.cat([W.detach() for W in apart]), stacked.detach())
    assert not torch.allclose(stacked, fused, atol=1e-3)


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 224)])
def test_match_rms_takes_steps_of_one_size_for_every_shape(shape):
    (W,) = weights = matrices(shape)
    before = W.detach().clone()
    descend(optimiser(weights, [1], lr=1e-3, scale="match_rms_adamw"), weights, steps=1)
    assert (W.detach() - before).square().mean().sqrt().item() == pytest.approx(0.93 * 0.2 * 1e-3, rel=0.12)


@pytest.mark.parametrize(
    "scale, m, lr, rms", [("original", 768, 0.02, 6.7e-4), ("match_rms_adamw", 768, 1e-4, 1.9e-5), ("spectral", 1024, 4e-3, 1.2e-4)]
)
def test_published_rates_mean_these_steps(scale, m, lr, rms):
    assert lr * SCALES[scale](m, m) * 0.93 / m**0.5 == pytest.approx(rms, rel=0.05)


def test_weight_decay_is_decoupled_and_the_step_descends():
    (W,) = weights = matrices((8, 12))
    before = W.detach().clone()
    W.grad = torch.zeros_like(W)
    optimiser(weights, [1], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(W.detach(), before * (1 - 0.1 * 0.5))
    before = W.detach().clone()
    W.grad = gaussian(8, 12, seed=3)
    optimiser(weights, [1]).step()
    assert ((W.detach() - before) * gaussian(8, 12, seed=3)).sum() < 0


def test_gradients_are_left_as_they_are_and_absent_ones_skipped():
    W, idle = weights = matrices((8, 12), (8, 12))
    W.grad = gaussian(8, 12, seed=3)
    before = idle.detach().clone()
    optimizer = optimiser(weights, [1, 1])
    optimizer.step()
    assert torch.equal(W.grad, gaussian(8, 12, seed=3)) and torch.equal(idle.detach(), before) and idle not in optimizer.state


# ------------------------------------------------------------------------------------------- the partition
class Holder(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


def check_partition(learner: nn.Module, optim: Muon) -> float:
    """Every parameter once, matrices of the trunk and no other under Muon; the share of numbers under Muon."""
    muon, adam = optim.partition(learner)
    sizes = {name: p.numel() for name, p in learner.named_parameters()}
    assert sorted([*muon, *adam]) == sorted(sizes)
    tags = {*MATRICES, ADALN} if optim.adaln == "muon" else {*MATRICES}
    assert {name.split(".", 3)[3] for name in muon} == tags
    assert all(name.startswith("model.blocks.") for name in muon)
    optimizer = optim.build(learner, 1.0)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(sizes)
    return sum(sizes[name] for name in muon) / sum(sizes.values())


HEADS = {  # one recipe for each kind of learner; perceptual terms train nothing and take long to load
    (type(r.router), r.bottleneck, *map(type, r.terms)): name
    for name, r in RECIPES.items()
    if not {type(term).__name__ for term in r.terms} & {"LPIPS", "PerceptualDINO"}
}


@pytest.mark.parametrize("name", HEADS.values())
def test_partition_is_exact_for_every_learner(name):
    recipe = tiny(RECIPES[name])
    learner = Training(recipe, store(recipe), 0, CPU).learner
    for optim in (Muon(), Muon(qkv="fused", adaln="muon")):
        check_partition(learner, optim)


@pytest.mark.parametrize("name", PUBLISHED)
def test_partition_of_published_sizes(name):
    with torch.device("meta"):
        learner = Holder(PRX(PUBLISHED[name]))
    assert 0.97 < check_partition(learner, Muon(adaln="muon")) < 0.995  # PRX's own rule
    assert check_partition(learner, Muon()) < 0.75  # a quarter of PRX is modulation


def test_projectors_and_routes_are_under_adamw():
    learner = Training(tiny(RECIPES["sprint"].plus(REPA())), store(), 0, CPU).learner
    adam = Muon().partition(learner)[1]
    assert {name for name, _ in learner.named_parameters() if "route" in name or name.startswith("terms.")} <= set(adam)
    assert any("route" in name for name in adam) and any(name.startswith("terms.") for name in adam)


def test_a_matrix_that_no_table_names_is_refused():
    learner = Training(tiny(BASE), store(), 0, CPU).learner
    learner.model.blocks[1].bias = nn.Parameter(torch.zeros(4))  # a vector is AdamW's
    check_partition(learner, Muon())
    learner.model.blocks[1].extra = nn.Linear(4, 4)
    with pytest.raises(LabError, match=r"model.blocks.1.extra.weight"):
        Muon().partition(learner)
    with pytest.raises(LabError, match="does not fit"):
        Muon().partition(nn.Linear(2, 2))


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_settings_are_refused(field):
    with pytest.raises(LabError, match=CHOICES[field][0]):
        BASE.but(optim=replace(Muon(), **{field: "other"}))


IMPOSSIBLE = [Muon(momentum=1.0), Muon(ns_steps=0), Muon(weight_decay=-1.0), AdamW(betas=(1.0, 2.0)), Muon(aux=AdamW(betas=(0.9, -0.1)))]


@pytest.mark.parametrize("optim", IMPOSSIBLE, ids=repr)
def test_impossible_settings_are_refused(optim):
    with pytest.raises(LabError, match="optim"):
        BASE.but(optim=optim)


def test_without_the_package_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "muon", None)
    with pytest.raises(LabError, match="pip install muon-optimizer"):
        Training(tiny(BASE.but(optim=Muon())), store(), 0, CPU)


# -------------------------------------------------------------------------------------------------- in training
def train(recipe, steps: int) -> Training:
    training = Training(recipe, store(recipe), 0, CPU)
    list(training.fit(steps))
    return training


def test_the_rest_is_the_baselines_adamw_bit_for_bit():
    optim = Muon()
    a, b = train(tiny(BASE), 1), train(tiny(BASE.but(optim=optim)), 1)
    plain, other = a.learner.state_dict(), b.learner.state_dict()
    muon, adam = optim.partition(b.learner)
    assert all(torch.equal(plain[name], other[name]) for name in adam)
    assert {k.split("/")[1] for k in checkpoint.optimizer_tensors(b.optimizer, b.learner)} == {*muon, *adam}


def test_a_phase_under_another_optimiser_starts_without_a_history():
    for first, second in [(Muon(), AdamW()), (AdamW(), Muon()), (Muon(), Muon(adaln="muon")), (Muon(), Muon(lr_scale=0.5))]:
        training = train(tiny(BASE.but(optim=first).then(0.5, BASE.but(optim=second))), 3)
        momentum = "optim/model.blocks.0.down_proj.weight/momentum"
        before = checkpoint.optimizer_tensors(training.optimizer, training.learner).get(momentum)
        training.step_index = 3
        training.enter(1, {k: v for k, v in training.tensors().items() if second.continues(first) or not k.startswith("optim/")})
        after = checkpoint.optimizer_tensors(training.optimizer, training.learner).get(momentum)
        assert second.continues(first) == (after is not None) and (after is None or torch.equal(before, after))
        training = train(tiny(BASE.but(optim=first).then(0.5, BASE.but(optim=second))), 6)
        assert all(torch.isfinite(v).all() for v in training.learner.state_dict().values())


# -------------------------------------------------------------------------------------------------------- bf16
def half_ulp(w: torch.Tensor) -> torch.Tensor:
    """Half the distance of bf16 numbers at w: eight bits of significand, one of them implicit."""
    return torch.ldexp(torch.ones_like(w), torch.frexp(w.float())[1] - 9)


def test_an_update_below_half_an_ulp_is_lost():
    w = gaussian(1000).bfloat16().float()
    w = w[torch.frexp(w)[0].abs() != 0.5]  # powers of two: the spacing below them is half of that above
    ulp = half_ulp(w)
    assert torch.equal((w + 0.99 * ulp).bfloat16().float(), w) and not ((w + 1.01 * ulp).bfloat16().float() == w).any()


@pytest.mark.parametrize("dtype, moved", [(torch.bfloat16, 0.0), (torch.float32, 0.1)])
def test_adamw_in_bf16_stands_still_where_float32_walks(dtype, moved):
    p = nn.Parameter(torch.ones(8, dtype=dtype))
    optimizer = AdamW().over([p], 1e-3)  # steps of 1e-3, and half an ulp at 1 is 2e-3 below it and 4e-3 above
    for _ in range(100):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert (1 - p).float().mean().item() == pytest.approx(moved, abs=1e-3)


@pytest.mark.parametrize("name", ["baseline", "bf16", "fp32", "muon"])
def test_audit_proves_what_the_recipe_claims(name):
    recipe = RECIPES[name].but(scale=TINY)
    training = train(recipe, 2)
    found = audit(training.learner, training.optimizer, recipe.precision, CPU)
    assert list(found["weights"]) == list(found["optimizer"]) == [recipe.precision.store]
    assert found["matmul"] == recipe.precision.compute


def test_bf16_weights_that_compute_in_float32_are_refused():
    with pytest.raises(LabError, match="precision.compute"):
        BASE.but(precision=Precision("bf16", "fp32"))


# --------------------------------------------------------------------------------------------------------- EMA
ROUTERS = tuple(dict.fromkeys(one.router for one in RECIPES.values()))  # in the same order in every process


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: type(router).__name__)
def test_the_average_covers_every_weight_and_is_what_is_sampled(router):
    training = Training(tiny(BASE.but(router=router, ema=EMA(0.9))), store(), 0, CPU)
    start = {k: v.clone() for k, v in training.ema.items()}
    list(training.fit(6))
    weights = training.learner.model.state_dict()
    assert training.ema.keys() == weights.keys() and all(v.dtype == torch.float32 for v in training.ema.values())
    for name, value in training.sampler_model().state_dict().items():
        assert torch.equal(value, training.ema[name])
        if not torch.equal(weights[name], start[name]):
            assert not torch.equal(value, start[name]) and not torch.equal(value, weights[name]), name


def test_the_average_of_bf16_weights_is_float32():
    training = train(tiny(RECIPES["bf16"].but(ema=EMA(0.9))), 4)
    assert {v.dtype for v in training.ema.values()} == {torch.float32}
    assert training.sampler_model().img_in.weight.dtype == torch.float32


def test_warm_up_is_an_average_over_a_fixed_share_of_the_run():
    ema, n = EMA(0.999), 600
    rates = torch.tensor([ema.rate(i) for i in range(n)], dtype=torch.float64)
    weight = (1 - rates) * torch.cat([rates.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])  # of the weights after each step
    assert weight.sum().item() == pytest.approx(1, abs=1e-6)
    half = 2 ** (-1 / 9)  # (k / n)^9 of the weight is older than step k
    assert weight[: round(half * n)].sum().item() == pytest.approx(0.5, abs=0.03)
    assert all(EMA(0.99).rate(i) == ema.rate(i) for i in range(890)) and EMA(0.99).rate(900) == 0.99
