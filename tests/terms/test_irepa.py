"""iREPA: the known answers of its normalisation, the convolution against a linear map, and the float64 loop of the whole term."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from tiny import CPU, store, tiny
from torch import nn

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import corrupt
from prx_lab.model import Feat
from prx_lab.recipes import BASE
from prx_lab.routing import TREAD, take
from prx_lab.sprint import SPRINT
from prx_lab.terms import IREPA, Out
from prx_lab.terms.repa import HEADS, Convolution, IREPALoss, SelfAttention, spatial_norm
from prx_lab.train import Training

B, N, D, E = 2, 16, 8, 10


def case():
    g = torch.Generator().manual_seed(0)
    return torch.randn(B, N, D, generator=g), torch.randn(B, N, E, generator=g)


def loss(term, h, y):
    x = torch.zeros(B, 1, 4, 4)
    point = corrupt(x, x, torch.zeros(B))
    out = Out(point.v, x, point.v, {2: Feat(h, None)}, torch.zeros(B, dtype=torch.bool), torch.arange(B).roll(1))
    text = Text(torch.zeros(B, 1, 1), torch.ones(B, 1, dtype=torch.bool), torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    return term(point, out, Batch(x, text, {"t": y}))


def module(gamma=0.6, kernel=3, width=D):
    torch.manual_seed(0)
    return IREPALoss("t", 2, Convolution(width, E, kernel), gamma)


@pytest.mark.parametrize(
    "gamma, expected",
    [
        (0.6, [[-0.4, -0.2], [0.6, 1.8], [1.6, 0.8]]),
        (0.8, [[-0.7, -0.6], [0.3, 1.4], [1.3, 0.4]]),
        (1.0, [[-1.0, -1.0], [0.0, 1.0], [1.0, 0.0]]),
    ],
)
def test_normalisation_known_answers(gamma, expected):
    y = torch.tensor([[[1.0, 2], [3, 6], [5, 4]]])
    assert torch.allclose(spatial_norm(y, gamma)[0], torch.tensor(expected), atol=1e-5)


def test_at_gamma_one_mean_and_deviation_over_tokens_are_zero_and_one():
    y = torch.randn(3, 16, 10) * torch.rand(10) * 5 + torch.randn(10)
    found = spatial_norm(y, 1.0)
    assert found.mean(1).abs().max() < 1e-5 and (found.std(1) - 1).abs().max() < 1e-4


def test_the_mean_token_of_layer_normed_features_is_removed():
    """A gamma that is each token's mean over channels, as in PRX's release, is 0 after a LayerNorm and removes nothing."""
    y = nn.functional.layer_norm(torch.randn(2, 16, 64) + 3 * torch.randn(2, 1, 64), (64,))
    before = y.mean(1).norm(dim=-1)
    std = y.std(1) + 1e-6
    for gamma in (0.6, 1.0):
        after = (spatial_norm(y, gamma).mean(1) * std).norm(dim=-1)
        assert torch.allclose(1 - after / before, torch.full((2,), gamma), atol=1e-4)
    wrong = y - y.mean(2, keepdim=True) * y.mean(1, keepdim=True)
    assert (1 - wrong.mean(1).norm(dim=-1) / before).abs().max() < 1e-4


def test_constant_tokens_give_finite_targets_and_half_precision_is_widened():
    y = torch.full((1, 4, 2), 3.0)
    assert torch.allclose(spatial_norm(y, 0.6), torch.full((1, 4, 2), 0.4 * 3 / 1e-6), rtol=1e-4)
    half = torch.randn(2, 16, 5).half()
    assert spatial_norm(half, 0.6).dtype == torch.float32 and torch.equal(spatial_norm(half, 0.6), spatial_norm(half.float(), 0.6))


def test_gamma_zero_moves_nothing():
    y = torch.randn(2, 16, 5)
    assert torch.allclose(spatial_norm(y, 0.0), y / y.std(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_with_its_centre_alone_is_a_linear_map(kernel):
    conv, linear = Convolution(D, E, kernel), nn.Linear(D, E)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, kernel // 2, kernel // 2] = linear.weight
        conv.bias.copy_(linear.bias)
    h = torch.randn(B, N, D)
    assert torch.allclose(conv(h, 4), linear(h), atol=1e-6)


def test_tokens_lie_in_raster_order():
    """A kernel that looks one step to the right, or down, brings token t + 1, or t + g, and zero at the border."""
    g = 4
    h = torch.arange(N, dtype=torch.float32).view(1, N, 1).expand(1, N, D) + 1
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        conv = Convolution(D, E, 3)
        with torch.no_grad():
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[0, 0, 1 + dy, 1 + dx] = 1
        for t in range(N):
            row, col = t // g + dy, t % g + dx
            expected = row * g + col + 1 if 0 <= row < g and 0 <= col < g else 0
            assert conv(h, g)[0, t, 0].item() == expected


def test_equals_a_loop_over_the_formula():
    h, y = case()
    term, gamma = module(0.7), 0.7
    w, b = term.projector.weight.double().tolist(), term.projector.bias.double().tolist()
    x, g, total = h.double().tolist(), 4, 0.0
    for i in range(B):
        columns = [[y[i, n, e].item() for n in range(N)] for e in range(E)]
        means = [sum(c) / N for c in columns]
        stds = [math.sqrt(sum((v - m) ** 2 for v in c) / (N - 1)) + 1e-6 for c, m in zip(columns, means)]
        for n in range(N):
            target = [(y[i, n, e].item() - gamma * means[e]) / stds[e] for e in range(E)]
            p = list(b)
            for ky in range(3):
                for kx in range(3):
                    row, col = n // g + ky - 1, n % g + kx - 1
                    if 0 <= row < g and 0 <= col < g:
                        for e in range(E):
                            p[e] += sum(w[e][c][ky][kx] * x[i][row * g + col][c] for c in range(D))
            dot = sum(a * c for a, c in zip(p, target))
            total += dot / math.sqrt(sum(a * a for a in p) * sum(c * c for c in target))
    assert loss(term, h, y).item() == pytest.approx(-total / (B * N), abs=1e-5)


class Answer(nn.Module):
    """A projector that knows the target."""

    def forward(self, h, g, keep):
        return spatial_norm(h, 1.0)


def test_a_projector_that_returns_the_target_gives_minus_one():
    _, y = case()
    term = IREPALoss("t", 2, Answer(), 1.0)
    assert loss(term, y, y).item() == pytest.approx(-1)
    assert loss(term, y, 5 * y + 2).item() == pytest.approx(-1), "scale and offset of a channel do not matter"


@pytest.mark.parametrize("router", [TREAD(0.5), SPRINT(0.25)])
def test_a_tap_in_a_route_is_refused_and_one_outside_is_not(router):
    with pytest.raises(LabError, match="iREPA's convolution needs every token.*change its depth"):
        BASE.but(router=router).plus(IREPA())
    BASE.but(router=router).plus(IREPA(depth=1.0))
    BASE.but(router=TREAD(1.0)).plus(IREPA())  # a route that keeps all tokens
    BASE.but(router=router).plus(IREPA(projector="attention"))


def attention(width=16):
    torch.manual_seed(0)
    return SelfAttention(width, E).double()


def test_the_attention_equals_a_loop_over_its_formula():
    """Queries and keys as complex numbers that turn with the row in their first half and with the column in the second."""
    net, h, g, d = attention(), torch.randn(1, N, 16, dtype=torch.float64), 4, 16 // HEADS
    q, k, v = (part.view(N, HEADS, d) for part in net.qkv(h)[0].chunk(3, -1))

    def turned(x, n, head):
        pairs = torch.view_as_complex(x[n, head].view(-1, 2))
        row, col = divmod(n, g)
        angles = [place * 10000.0 ** (-2 * i / (d // 2)) for place in (row, col) for i in range(d // 4)]
        return pairs * torch.polar(torch.ones(d // 2, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))

    mixed = torch.zeros(N, HEADS, d, dtype=torch.float64)
    for head in range(HEADS):
        for n in range(N):
            scores = torch.stack([(turned(q, n, head) * turned(k, m, head).conj()).real.sum() / d**0.5 for m in range(N)])
            mixed[n, head] = scores.softmax(0) @ v[:, head]
    assert torch.allclose(net(h, g)[0], net.out(net.mix(mixed.flatten(1))), atol=1e-6)


def test_the_attention_sees_places_and_not_the_order_of_tokens():
    net, h = attention(), torch.randn(2, N, 16, dtype=torch.float64)
    order = torch.stack([torch.randperm(N) for _ in range(2)])
    assert torch.allclose(net(take(h, order), 4, order), take(net(h, 4), order), atol=1e-6)
    assert not torch.allclose(net(take(h, order), 4), take(net(h, 4), order), atol=1e-3)


def test_in_a_route_the_kept_tokens_are_compared_with_their_own_targets():
    h, y = torch.randn(B, N, 16), torch.randn(B, N, E)
    keep = torch.tensor([[1, 5, 6], [0, 2, 15]])
    term = IREPALoss("t", 2, SelfAttention(16, E), 0.6)
    point, x = corrupt(torch.zeros(B, 1, 4, 4), torch.zeros(B, 1, 4, 4), torch.zeros(B)), torch.zeros(B, 1, 4, 4)
    out = Out(point.v, x, point.v, {2: Feat(take(h, keep), keep)}, torch.zeros(B, dtype=torch.bool), torch.arange(B).roll(1))
    text = Text(torch.zeros(B, 1, 1), torch.ones(B, 1, dtype=torch.bool), torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    p, target = term.projector(take(h, keep), 4, keep), take(spatial_norm(y, 0.6), keep)
    expected = -nn.functional.cosine_similarity(p, target, dim=-1).mean()
    assert torch.equal(term(point, out, Batch(x, text, {"t": y})), expected)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(gamma=1.2), "gamma"),
        (dict(gamma=-0.1), "gamma"),
        (dict(kernel=2), "odd"),
        (dict(kernel=-1), "odd"),
        (dict(projector="mlp"), "convolution or attention"),
        (dict(projector="attention", kernel=5), "leave it out"),
    ],
)
def test_wrong_settings_are_refused(change, word):
    with pytest.raises(LabError, match=word):
        BASE.plus(IREPA(**change))


def test_one_token_has_no_deviation():
    with pytest.raises(LabError, match="raise scale.grid"):
        BASE.but(scale=replace(BASE.scale, grid=1)).plus(IREPA())


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(LabError, match="4 heads is not a multiple of 4; change scale.width"):
        BASE.but(scale=replace(BASE.scale, width=24, heads=2)).plus(IREPA(projector="attention"))


@pytest.mark.parametrize("projector", ["convolution", "attention"])
def test_it_trains_and_the_alignment_grows(projector):
    training = Training(tiny(BASE.plus(IREPA(weight=5.0, projector=projector))), store(), 0, CPU)
    values = [row["terms"]["IREPA"] for row in training.fit(30)]
    assert abs(values[0]) < 0.2 and fmean(values[20:]) < fmean(values[:10]) - 0.01
