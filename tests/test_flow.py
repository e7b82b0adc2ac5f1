"""The algebra of the path: conversions, time samplers, shift, solvers against the closed-form Gaussian flow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prx_lab.flow import (
    T_MIN,
    LogitNormal,
    corrupt,
    draw,
    eps_from_v,
    euler,
    heun,
    noise,
    shift_time,
    stream,
    times,
    v_from_x,
    x_from_v,
)  # fmt: skip


def point(t: float = 0.3):
    g = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(4, 3, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    return corrupt(x, eps, torch.full((4,), t, dtype=torch.float64))


@pytest.mark.parametrize("t", [T_MIN, 0.3, 0.7, 1.0])
def test_v_x_and_eps_round_trip(t):
    p = point(t)
    assert torch.allclose(x_from_v(p.v, p.x_t, p.t), p.x)
    assert torch.allclose(eps_from_v(p.v, p.x_t, p.t), p.eps)
    assert torch.allclose(v_from_x(p.x, p.x_t, p.t), p.v)


def test_the_clamp_bounds_v_from_x():
    p = point(0.01)
    assert torch.allclose(v_from_x(p.x, p.x_t, p.t) * T_MIN, p.x_t - p.x)


def test_clean_time_is_noise_time_reversed():
    p, t = point(0.3), 0.7  # JiT: z = t x + (1-t) e, v = x - e
    assert torch.allclose(t * p.x + (1 - t) * p.eps, p.x_t)
    assert torch.allclose((p.x - p.x_t) / (1 - t), -p.v)


@pytest.mark.parametrize(
    "k, expected",
    [
        (3.0, [0.25, 0.5, 0.75, 0.9, 0.964286]),
        (math.sqrt(2), [0.135796, 0.320377, 0.585786, 0.809256, 0.927156]),
        (2.0, [0.181818, 0.4, 0.666667, 0.857143, 0.947368]),
    ],
)
def test_shift_known_answers(k, expected):
    t = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    assert torch.allclose(shift_time(t, k), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


@given(st.floats(0.05, 20), st.floats(0.05, 20), st.floats(0, 1))
def test_shift_composes_inverts_and_fixes_the_ends(a, b, t):
    t = torch.tensor(t, dtype=torch.float64)
    assert torch.allclose(shift_time(shift_time(t, a), b), shift_time(t, a * b))
    assert torch.allclose(shift_time(shift_time(t, a), 1 / a), t)
    assert shift_time(t, 1.0) == t
    assert shift_time(torch.tensor(0.0), a) == 0 and shift_time(torch.tensor(1.0), a).item() == pytest.approx(1)


def test_logit_normal_quantiles():
    g = torch.Generator().manual_seed(0)
    z, u = torch.randn(200_000, generator=g), torch.rand(200_000, generator=g)
    q = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    jit = 1 - LogitNormal(mean=0.8, std=0.8, uniform=0.0)(z, u, u)  # in clean time
    assert torch.allclose(jit.quantile(q), torch.tensor([0.108, 0.208, 0.310, 0.435, 0.626]), atol=4e-3)
    plain = LogitNormal(uniform=0.0)(z, u, u)
    assert torch.allclose(plain.quantile(q), torch.tensor([0.162, 0.338, 0.5, 0.663, 0.838]), atol=4e-3)


def test_the_uniform_share_replaces_draws():
    z, u = torch.zeros(4), torch.tensor([0.1, 0.2, 0.3, 0.4])
    t = LogitNormal(uniform=0.5)(z, u, torch.tensor([0.0, 0.49, 0.5, 0.9]))
    assert torch.equal(t, torch.tensor([0.1, 0.2, 0.5, 0.5]))


def gaussian_v(mu: float, s: float):
    def v(x, t):
        variance = (1 - t) ** 2 * s * s + t * t
        return -mu + (t - (1 - t) * s * s) / variance * (x - (1 - t) * mu)

    return v


@pytest.mark.parametrize("solver, errors", [(euler, [0.0432, 0.0219, 0.0110, 0.0055]), (heun, [0.00199, 0.000479, 0.000117, 0.000029])])
def test_solvers_on_the_closed_form_gaussian(solver, errors):
    eps = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    for steps, expected in zip([25, 50, 100, 200], errors):
        error = (solver(gaussian_v(0.7, 0.5), eps, times(steps)) - (0.7 + 0.5 * eps)).abs().max().item()
        assert error == pytest.approx(expected, rel=0.03)


def test_draws_are_a_function_of_their_key_and_paired_across_shapes():
    a = draw((0, 5, 0, 0), (8, 4, 4, 4), 16, LogitNormal(), 0.1)
    b = draw((0, 5, 0, 0), (8, 4, 4, 4), 16, LogitNormal(), 0.1)
    c = draw((0, 5, 0, 0), (8, 2, 8, 8), 16, LogitNormal(shift=3.0), 0.5)
    assert torch.equal(a.eps, b.eps) and torch.equal(a.t, b.t)
    assert torch.equal(a.score, c.score)
    assert bool((c.drop | ~a.drop).all())  # the same uniforms decide: a larger dropout drops a superset


@pytest.mark.parametrize("other", [(1, 5, 0, 0), (0, 6, 0, 0), (0, 5, 1, 0), (0, 5, 0, 1)])
def test_another_seed_step_rank_or_micro_batch_draws_anew(other):
    a, b = (draw(k, (4, 1, 2, 2), 4, LogitNormal(), 0.1) for k in ((0, 5, 0, 0), other))
    assert not torch.equal(a.eps, b.eps) and not torch.equal(a.score, b.score)


def test_evaluation_noise_is_keyed_by_image():
    together, alone = noise(7, [3, 4], (2, 2)), noise(7, [4], (2, 2))
    assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])


def test_streams_of_neighbouring_keys_are_unrelated():
    rows = torch.stack([torch.randn(2000, generator=stream(0, i)) for i in range(20)])
    correlation = torch.corrcoef(rows) - torch.eye(20)
    assert correlation.abs().max() < 0.12
