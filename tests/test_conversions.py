"""Known answers of the conversions between v, x and eps, of x-prediction's loss and sampler, and of time, in float64."""

import math
from contextlib import nullcontext

import pytest
import torch
from tiny import CPU, store, tiny
from torch import Tensor

from prx_lab.data.store import order
from prx_lab.flow import T_MIN, LogitNormal, Point, corrupt, draw, eps_from_v, euler, heun, shift_time, times, v_from_x, x_from_v
from prx_lab.recipes import RECIPES
from prx_lab.sample import Network
from prx_lab.train import Training

TIMES = torch.tensor([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0], dtype=torch.float64)


def point(times: Tensor = TIMES) -> Point:
    g = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(len(times), 3, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    return corrupt(x, eps, times)


def column(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


# ------------------------------------------------------------------------------------------------ T1: conversions
def test_each_of_v_x_and_eps_gives_the_other_two():
    p = point()
    assert torch.allclose(x_from_v(v_from_x(p.x, p.x_t, p.t), p.x_t, p.t), p.x, atol=1e-12)
    assert torch.allclose(eps_from_v(v_from_x(p.x, p.x_t, p.t), p.x_t, p.t), p.eps, atol=1e-12)
    inner = p.t < 1  # at t = 1 the noise says nothing about x
    from_eps = (p.x_t - column(p.t) * p.eps) / (1 - column(p.t))
    assert torch.allclose(from_eps[inner], p.x[inner], atol=1e-12)
    v = torch.randn(p.x.shape, dtype=torch.float64)  # any prediction, not only the true one
    x, eps = x_from_v(v, p.x_t, p.t), eps_from_v(v, p.x_t, p.t)
    assert torch.allclose(corrupt(x, eps, p.t).x_t, p.x_t, atol=1e-12) and torch.allclose(eps - x, v, atol=1e-12)
    assert torch.allclose(v_from_x(x, p.x_t, p.t), v, atol=1e-12)


def test_in_clean_time_the_velocity_changes_its_sign_and_x_and_eps_do_not():
    """JiT's formulas: z = t x + (1-t) e, v = x - e, x = z + (1-t) v, at t_clean = 1 - t_noise."""
    p, clean = point(), column(1 - TIMES)
    z, v_clean = clean * p.x + (1 - clean) * p.eps, p.x - p.eps
    assert torch.allclose(z, p.x_t, atol=1e-12) and torch.equal(v_clean, -p.v)
    assert torch.allclose(z + (1 - clean) * v_clean, x_from_v(p.v, p.x_t, p.t), atol=1e-12)
    assert torch.allclose(z - clean * v_clean, eps_from_v(p.v, p.x_t, p.t), atol=1e-12)
    assert torch.allclose(-(p.x - z) / (1 - clean), v_from_x(p.x, p.x_t, p.t), atol=1e-12)


def test_a_step_towards_data_is_the_same_in_both_time_directions():
    p, v = point(), torch.randn(7, 3, 2, 2, dtype=torch.float64)
    ahead = p.x_t + (0.3 - 0.4) * v  # noise time falls from 0.4 to 0.3
    assert torch.allclose(ahead, p.x_t + (0.7 - 0.6) * -v)  # clean time rises from 0.6 to 0.7


# --------------------------------------------------------------------------------------------- T2: JiT's loss
def test_the_velocity_loss_of_an_x_prediction_is_the_x_loss_over_c_squared():
    t = torch.tensor([0.0, 0.01, 0.049, 0.05, 0.051, 0.3, 1.0], dtype=torch.float64)
    p, guess = point(t), torch.randn(7, 3, 2, 2, dtype=torch.float64)
    loss = (v_from_x(guess, p.x_t, p.t) - v_from_x(p.x, p.x_t, p.t)).square().mean((1, 2, 3))
    c = torch.tensor([max(float(s), 0.05) for s in t], dtype=torch.float64)
    assert torch.allclose(loss, (guess - p.x).square().mean((1, 2, 3)) / c**2, rtol=1e-9)
    assert (1 / c**2).max() == pytest.approx(400)
    above = t >= T_MIN
    assert torch.allclose(v_from_x(p.x, p.x_t, p.t)[above], p.v[above], atol=1e-12)  # the clamp is inert there


def test_the_learner_computes_jits_loss():
    """Against the paper's formula written in clean time: z = t x + (1-t) e, c = max(1-t, 0.05), loss |(x' - z)/c - (x - z)/c|^2."""
    training = Training(tiny(RECIPES["x-pred"]), store(), 0, CPU)
    list(training.fit(3))
    batch = training.store.batch(order(0, 3, 8, 32))
    variates = draw((0, 3, 0, 0), (8, 16, 4, 4), 16, training.recipe.time, 0.1)
    with torch.no_grad():
        loss, _ = training.learner(batch, variates)
        total = 0.0
        for i in range(8):
            clean, x, e = 1 - variates.t[i].double(), batch.x[i].double(), variates.eps[i].double()
            z = clean * x + (1 - clean) * e
            tokens = batch.text.null[0] if variates.drop[i] else batch.text.tokens[i]
            mask = batch.text.null_mask[0] if variates.drop[i] else batch.text.mask[i]
            guess = training.learner.model(z[None].float(), variates.t[i : i + 1], tokens[None], mask[None])[0][0].double()
            c = max(float(1 - clean), 0.05)
            total += float(((guess - z) / c - (x - z) / c).square().mean()) / 8
    assert loss.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("mean, std, expected", [(0.0, 1.0, 11.0), (0.8, 0.8, 3.0)])
def test_the_mean_weight_of_the_x_error(mean, std, expected):
    """E[1/max(t, 0.05)^2] is 11.0 for the plain logit-normal and 3.0 for JiT's (mean -0.8 in clean time)."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = LogitNormal(mean, std, uniform=0.0)(torch.special.ndtri(u), u, u)
    assert t.clamp(min=T_MIN).pow(-2).mean().item() == pytest.approx(expected, abs=0.06)


def test_guidance_commutes_with_the_conversion_and_not_with_a_threshold():
    p, (c, u) = point(), torch.randn(2, 7, 3, 2, 2, dtype=torch.float64)

    def guide(a, b):
        return b + 3.0 * (a - b)

    one, two = guide(v_from_x(c, p.x_t, p.t), v_from_x(u, p.x_t, p.t)), v_from_x(guide(c, u), p.x_t, p.t)
    assert torch.allclose(one, two, atol=1e-9)
    three = guide(v_from_x(c.clamp(-1, 1), p.x_t, p.t), v_from_x(u.clamp(-1, 1), p.x_t, p.t))
    assert not torch.allclose(three, v_from_x(guide(c, u).clamp(-1, 1), p.x_t, p.t), atol=1e-2)


# --------------------------------------------------------------------------------------- T3: closed-form Gaussian
EPS = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)


def best_x(x_t: Tensor, t: float, mu: float = 0.7, s: float = 0.5) -> Tensor:
    """E[x | x_t] for x ~ N(mu, s^2)."""
    return mu + (1 - t) * s * s / ((1 - t) ** 2 * s * s + t * t) * (x_t - (1 - t) * mu)


def clamped(x_t: Tensor, t: float) -> Tensor:
    return v_from_x(best_x(x_t, t), x_t, x_t.new_full(x_t.shape, t))


def plain(x_t: Tensor, t: float) -> Tensor:
    return (x_t - best_x(x_t, t)) / t


def error(solver, v, steps: int) -> float:
    return (solver(v, EPS, times(steps)) - (0.7 + 0.5 * EPS)).abs().max().item()


@pytest.mark.parametrize(
    "solver, v, expected",
    [
        (euler, plain, [0.0432, 0.0219, 0.0110, 0.0055]),
        (heun, plain, [0.00199, 0.000479, 0.000117, 0.000029]),
        (heun, clamped, [0.0180, 0.0309, 0.0337, 0.0347]),
    ],
)
def test_the_gaussian_table(solver, v, expected):
    assert [error(solver, v, steps) for steps in (25, 50, 100, 200)] == pytest.approx(expected, rel=0.02)


def test_one_known_end_point():
    start = torch.tensor([1.5], dtype=torch.float64)
    assert heun(plain, start, times(50)).item() == pytest.approx(1.44952, abs=1e-5)
    assert heun(clamped, start, times(50)).item() == pytest.approx(1.41909, abs=1e-5)


@pytest.mark.parametrize(
    "solver, steps, expected", [(heun, 25, 0.0088), (heun, 50, 0.0171), (heun, 100, 0.0181), (heun, 250, 0.0184), (euler, 50, 0.0144)]
)
def test_the_clamp_leaves_noise_even_with_a_perfect_predictor(solver, steps, expected):
    x, eps = torch.tensor([0.3], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    end = solver(lambda x_t, t: v_from_x(x, x_t, x_t.new_full((1,), t)), eps, times(steps))
    left = ((end - x) / (eps - x)).item()  # the path's coefficient of eps - x
    assert left == pytest.approx(expected, abs=6e-5) and left < T_MIN / math.e + 1e-4


@pytest.mark.parametrize("steps", [4, 8, 16, 20])
def test_few_euler_steps_end_on_the_prediction_itself(steps):
    """The last step starts at t = 1/steps, where the clamp does not bind, and lands on the network's x."""
    x, eps = torch.tensor([0.3], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    end = euler(lambda x_t, t: v_from_x(x, x_t, x_t.new_full((1,), t)), eps, times(steps))
    assert end.item() == pytest.approx(0.3, abs=1e-12)


def test_the_sampler_uses_the_same_clamp():
    """`Network` turns a network's x into a velocity; below T_MIN it divides by T_MIN."""

    class Constant(torch.nn.Module):
        def forward(self, x_t, t, text, mask, keep):
            return torch.full_like(x_t, 0.3), {}

    v, x_t = Network(Constant(), "x", nullcontext), torch.ones(2, 3, 4, 4)
    for t, floor in ((0.01, 0.05), (0.05, 0.05), (0.5, 0.5)):
        assert torch.allclose(v(x_t, t, x_t, x_t), torch.full_like(x_t, 0.7 / floor), rtol=1e-6)


# ------------------------------------------------------------------------------------------ T4: time
QUANTILES = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)


@pytest.mark.parametrize(
    "clean_mean, std, expected",
    [
        (-0.8, 0.8, [0.108, 0.208, 0.310, 0.435, 0.626]),
        (0.0, 1.0, [0.162, 0.338, 0.5, 0.663, 0.838]),
        (-0.4, 0.8, [0.152, 0.281, 0.401, 0.535, 0.714]),
    ],
)
def test_logit_normal_quantiles_in_clean_time(clean_mean, std, expected):
    """The logit changes its sign with the direction of time: mean m there is mean -m here."""
    z = torch.special.ndtri(1 - QUANTILES)
    clean = 1 - LogitNormal(-clean_mean, std, uniform=0.0)(z, z, torch.ones(5))
    assert clean.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_mean_of_jits_time():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert (1 - LogitNormal(0.8, 0.8, uniform=0.0)(torch.special.ndtri(u), u, u)).mean().item() == pytest.approx(0.331, abs=1e-3)


def test_a_shift_adds_its_logarithm_to_the_logit():
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    one = torch.ones(13)
    for k in (0.5, 2.0, 3.0):
        assert torch.allclose(
            LogitNormal(0.2, 0.9, shift=k, uniform=0.0)(z, z, one), LogitNormal(0.2 + math.log(k), 0.9, uniform=0.0)(z, z, one)
        )
    jit = LogitNormal(0.0, 0.8, shift=2.2255, uniform=0.0)(z, z, one)  # JiT's mean -0.8 is this shift
    assert torch.allclose(jit, LogitNormal(0.8, 0.8, uniform=0.0)(z, z, one), atol=1e-5)


def test_edms_noise_levels_are_a_logit_normal():
    """ln sigma ~ N(-1.2, 1.2^2) on x + sigma n is t = sigma / (1 + sigma) on the straight path."""
    z = torch.linspace(-3, 3, 13, dtype=torch.float64)
    sigma = torch.exp(-1.2 + 1.2 * z)
    assert torch.allclose(LogitNormal(-1.2, 1.2, uniform=0.0)(z, z, torch.ones(13)), sigma / (1 + sigma))


def test_the_shift_in_clean_time_is_the_same_map():
    """PixelGen writes t / (t + 2 (1-t)) for clean time: k = 2 on 1 - t."""
    clean = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(clean / (clean + 2 * (1 - clean)), 1 - shift_time(1 - clean, 2.0))


def test_the_shifted_grid_ends_where_prx_says():
    """PRX, 28 steps, shift 3: the last time above zero is 0.1."""
    grid = times(28, 3.0)
    assert grid[0] == 1 and grid[-1] == 0 and grid[-2].item() == pytest.approx(0.1) and bool((grid.diff() < 0).all())


# ------------------------------------------------------------------------------------------ T5: Min-SNR
@pytest.mark.parametrize("t, expected", [(0.1, 0.05), (0.25, 0.3125), (0.309, 0.4775), (0.5, 0.25), (0.75, 0.0625), (0.9, 0.01)])
def test_min_snr_as_a_weight_of_the_velocity_loss(t, expected):
    """One weight, t^2 min(SNR, 5), says the same of v, x and eps: min(SNR, 5) on x and min(SNR, 5) / SNR on eps."""
    p, snr = point(torch.tensor([t], dtype=torch.float64)), ((1 - t) / t) ** 2
    weight = t * t * min(snr, 5.0)
    assert weight == pytest.approx(expected, abs=6e-4 if t == 0.309 else 1e-9)
    wrong = p.v + torch.randn(p.v.shape, dtype=torch.float64)
    losses = {
        "v": (wrong - p.v).square().mean() * weight,
        "x": (x_from_v(wrong, p.x_t, p.t) - p.x).square().mean() * min(snr, 5.0),
        "eps": (eps_from_v(wrong, p.x_t, p.t) - p.eps).square().mean() * min(snr, 5.0) / snr,
    }
    assert losses["x"].item() == pytest.approx(losses["v"].item()) and losses["eps"].item() == pytest.approx(losses["v"].item())
