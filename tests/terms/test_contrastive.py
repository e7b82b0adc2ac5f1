"""Contrastive flow matching against the paper: known answers, loops in float64, the minimiser it states, and its undoing."""

import pytest
import torch
from tiny import CPU, store, tiny

from prx_lab.data.batch import Text
from prx_lab.errors import LabError
from prx_lab.flow import LogitNormal, corrupt, draw, euler, times, v_from_x
from prx_lab.recipe import Recipe
from prx_lab.recipes import BASE, RECIPES
from prx_lab.sample import CFG, Condition
from prx_lab.terms import FlowMatching, Out
from prx_lab.terms.contrastive import Contrastive, ContrastiveLoss, Corrected
from prx_lab.terms.matching import FlowMatchingLoss
from prx_lab.train import Training

RANDOM = ContrastiveLoss("random", "keep")


def out(v, y, other=None, drop=None) -> Out:
    n = len(v)
    other = torch.arange(n).roll(1) if other is None else torch.as_tensor(other)
    drop = torch.zeros(n, dtype=torch.bool) if drop is None else torch.as_tensor(drop)
    return Out(v, v, y, {}, drop, other)


def value(module, o: Out):
    return module(None, o, None)  # it reads neither the point nor the batch


def case(n: int = 6):
    g = torch.Generator().manual_seed(0)
    v, y = torch.randn(2, n, 3, 2, 2, generator=g).unbind(0)
    return v, y, draw((0, 0, 0, 0), (n, 3, 2, 2), 4, LogitNormal(), 0.0).other


def test_known_answer_of_two_samples():
    o = out(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert value(FlowMatchingLoss(), o).item() == pytest.approx(0.5)
    assert value(RANDOM, o).item() == pytest.approx(-1.0)
    assert (value(FlowMatchingLoss(), o) + 0.05 * value(RANDOM, o)).item() == pytest.approx(0.45)


@pytest.mark.parametrize("negatives", ["random", "roll"])
@pytest.mark.parametrize("unconditional", ["keep", "exclude"])
def test_equals_a_loop_over_samples_and_elements(negatives, unconditional):
    v, y, other = case()
    drop = [False, True, False, False, True, False]
    total, kept = 0.0, 0
    for i in range(6):
        if unconditional == "exclude" and drop[i]:
            continue
        j = int(other[i]) if negatives == "random" else i - 1
        a, b = v[i].double().flatten().tolist(), y[j].double().flatten().tolist()
        total, kept = total + sum((p - q) ** 2 for p, q in zip(a, b)) / len(a), kept + 1
    found = value(ContrastiveLoss(negatives, unconditional), out(v, y, other, drop))
    assert found.item() == pytest.approx(-total / kept, rel=1e-6)


def test_the_authors_rescaling_by_the_share_of_kept_samples():
    """Their masked loss averages over all B samples, with zeros for the dropped ones, and is multiplied by B / #kept."""
    v, y, other = case()
    drop = torch.tensor([True, False, False, True, False, False])
    masked = (v - y[other]).square().mean((1, 2, 3)) * ~drop
    found = value(ContrastiveLoss("random", "exclude"), out(v, y, other, drop))
    assert found.item() == pytest.approx(-(masked.mean() * 6 / 4).item(), rel=1e-6)
    assert torch.allclose(value(ContrastiveLoss("random", "exclude"), out(v, y, other)), value(RANDOM, out(v, y, other)))


def test_with_every_caption_dropped_nothing_is_pushed():
    v, y, other = case()
    v.requires_grad_()
    found = value(ContrastiveLoss("random", "exclude"), out(v, y, other, [True] * 6))
    found.backward()
    assert found == 0 and v.grad.abs().sum() == 0


def test_two_samples_are_each_others_negatives():
    assert draw((0, 1, 0, 0), (2, 1, 2, 2), 1, LogitNormal(), 0.1).other.tolist() == [1, 0]


def test_the_other_sample_is_never_the_same_and_uniform():
    B = 5
    counts = torch.zeros(B, B)
    for step in range(2000):
        other = draw((0, step, 0, 0), (B, 1, 1, 1), 1, LogitNormal(), 0.1).other
        counts[torch.arange(B), other] += 1
    share = counts / counts.sum(1, keepdim=True)
    assert counts.diagonal().sum() == 0
    assert (share + torch.eye(B) / 4 - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.5])
def test_a_constant_velocity_per_class_converges_to_the_stated_minimiser(weight):
    """v*_c = (E[y | c] - lambda E[y_j]) / (1 - lambda), the expectation over j != i taken exactly: all rolls of the batch."""
    g = torch.Generator().manual_seed(0)
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    y = torch.randn(6, 2, generator=g, dtype=torch.float64) + 3.0 * label[:, None]
    v = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    for _ in range(150):
        pushes = [value(RANDOM, out(v[label], y, torch.arange(6).roll(k))) for k in range(1, 6)]
        loss = value(FlowMatchingLoss(), out(v[label], y)) + weight * torch.stack(pushes).mean()
        v = (v - 2.0 * torch.autograd.grad(loss, v)[0]).detach().requires_grad_()
    for c in range(3):
        mine = y[label == c].mean(0)
        others = torch.stack([y[torch.arange(6) != i].mean(0) for i in range(6) if label[i] == c]).mean(0)
        assert torch.allclose(v[c], (mine - weight * others) / (1 - weight), atol=1e-5)


def test_the_gradient_is_that_of_a_flatter_loss_around_the_pushed_target():
    """Per element: d/dv [(v - y)^2 - lambda (v - y_j)^2] = (1 - lambda) d/dv (v - (y - lambda y_j) / (1 - lambda))^2."""
    v, y, other = case()
    a, b = v.clone().requires_grad_(), v.clone().requires_grad_()
    (value(FlowMatchingLoss(), out(a, y)) + 0.2 * value(RANDOM, out(a, y, other))).backward()
    (0.8 * (b - (y - 0.2 * y[other]) / 0.8).square().mean()).backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-7)


@pytest.mark.parametrize("predict", ["v", "x"])
def test_the_learner_pushes_the_velocity_whatever_is_predicted(predict):
    recipe = tiny(BASE.but(predict=predict).plus(Contrastive(0.1)))
    training = Training(recipe, store(), 0, CPU)
    list(training.fit(2))  # away from the zero output of the start
    batch = training.store.batch(torch.arange(8).numpy())
    d = draw((0, 9, 0, 0), (8, 16, 4, 4), 16, recipe.time, 0.0)
    loss, losses = training.learner(batch, d)
    point = corrupt(batch.x, d.eps, d.t)
    raw = training.learner.model(point.x_t, d.t, batch.text.tokens, batch.text.mask)[0]
    v, y = (raw, point.v) if predict == "v" else (v_from_x(raw, point.x_t, d.t), v_from_x(point.x, point.x_t, d.t))
    assert losses[1].item() == pytest.approx(-(v - y[d.other]).square().mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx((losses[0] + 0.1 * losses[1]).item(), rel=1e-6)


# ------------------------------------------------------------------------------------------ the correction
def toy(label):
    """Two classes with constant ends, as a Predict: v(x, t, text, mask); `text` holds the class."""
    ends = torch.tensor([[3.0, 0.0], [1.0, 2.0]], dtype=torch.float64)  # E[x | c]; E[x] = (2, 1) for equal classes
    every, null = torch.ones(len(label), 1, dtype=torch.bool), torch.full((1, 1, 1), -1.0, dtype=torch.float64)
    text = Text(label[:, None, None].double(), every, null, every[:1])

    def v(x, t, tokens, mask, keep=None):
        c = tokens[:, 0, 0].long()
        end = torch.where((c < 0)[:, None], ends.mean(0), ends[c.clamp(min=0)])
        return (x - end) / max(t, 1e-9) + 0.1 * x.sin()  # any function of the state and the class

    return v, Condition(text, torch.zeros(len(label), 1), ends.mean(0))


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("inner", [CFG(1.0), CFG(3.0), CFG(4.0, 0.2, 0.7)])
def test_the_correction_inverts_the_bias_exactly(inner, weight):
    v, given = toy(torch.tensor([0, 1, 1]))

    def biased(x, t, tokens, mask, keep=None):  # what the loss converges to; E[y] = -E[x]
        return (v(x, t, tokens, mask) + weight * given.mean) / (1 - weight)

    x = torch.randn(3, 2, dtype=torch.float64)
    plain = euler(inner.velocity(v, given), x, times(10))
    back = euler(Corrected(inner, weight).velocity(biased, given), x, times(10))
    assert torch.allclose(back, plain, atol=1e-12)
    if weight:
        assert not torch.allclose(euler(inner.velocity(biased, given), x, times(10)), plain, atol=1e-3)


def test_the_bias_is_guidance_against_the_mean():
    """(v - lambda E[y]) / (1 - lambda) = E[y] + s (v - E[y]) with s = 1 / (1 - lambda)."""
    v, m, weight = torch.randn(4, 2), torch.randn(2), 0.05
    assert torch.allclose((v + weight * m) / (1 - weight), -m + 1 / (1 - weight) * (v + m), atol=1e-6)


def test_a_sampler_of_a_recorded_recipe_corrects():
    training = Training(tiny(RECIPES["contrastive-corrected"]), store(), 0, CPU)
    list(training.fit(1))
    again = Recipe.from_json(training.whole.to_json())
    assert isinstance(again.guidance, Corrected) and again == training.whole


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "build, word",
    [
        (lambda: BASE.plus(Contrastive(1.0)), "[0, 1)"),
        (lambda: BASE.plus(Contrastive(-0.1)), "[0, 1)"),
        (lambda: BASE.plus(Contrastive(negatives="hard")), "random, roll"),
        (lambda: BASE.plus(Contrastive(unconditional="drop")), "keep, exclude"),
        (lambda: BASE.plus(Contrastive()).set("scale.batch", "1"), "at least 2"),
        (lambda: BASE.but(guidance=Corrected()), "weight 0.05"),
        (lambda: BASE.plus(Contrastive(0.1)).but(guidance=Corrected()), "weight 0.05"),
        (lambda: BASE.plus(Contrastive(unconditional="exclude")).but(guidance=Corrected()), "with and without caption"),
    ],
)
def test_contradictions_are_refused_with_a_sentence(build, word):
    with pytest.raises(LabError) as error:
        build()
    assert word in str(error.value) and "\n" not in str(error.value)


def test_the_default_is_the_papers():
    assert Contrastive() == Contrastive(0.05, "random", "keep") and FlowMatching().weight == 1.0
