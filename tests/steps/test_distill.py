"""Distillation: the targets against explicit loops in float64 and a closed form, the frozen teacher, and a student that gets there."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CPU, TINY, store, tiny
from torch import nn

from prx_lab import checkpoint
from prx_lab.data.batch import Text
from prx_lab.data.store import gather
from prx_lab.errors import LabError
from prx_lab.flow import Uniform, draw, euler, noise, scores, shift_time, times
from prx_lab.recipe import Phase
from prx_lab.recipes import BASE, EIGHT, GUIDED, RECIPES, SIXTEEN
from prx_lab.routing import TREAD
from prx_lab.sample import CFG, Condition, Network, generate
from prx_lab.steps import GuidanceDistillation, ProgressiveDistillation
from prx_lab.steps.distill import Guided, Halved
from prx_lab.terms import REPA
from prx_lab.train import Training

B, MU, S, STEPS = 5, 0.7, 0.5, 240


class Gaussian(nn.Module):
    """The exact velocity for data N(mu, s^2): the closed form; the caption's mean moves mu, so the empty caption has another one."""

    def __init__(self, predict: str = "v"):
        super().__init__()
        self.predict = predict

    def forward(self, x, t, text, mask, keep=None):
        mu, t = MU + text.mean((1, 2)).view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)
        gain = (1 - t) * S**2 / ((1 - t) ** 2 * S**2 + t**2)
        clean = mu + gain * (x - (1 - t) * mu)
        return (clean if self.predict == "x" else (x - clean) / t), {}


def exact(x: float, t: float, mu: float = MU) -> float:
    """Its velocity for one number."""
    return -mu + (t - (1 - t) * S**2) / ((1 - t) ** 2 * S**2 + t**2) * (x - (1 - t) * mu)


def text(level: float = 0.3) -> Text:
    seen = torch.ones(B, 3, dtype=torch.bool)
    return Text(torch.full((B, 3, 4), level), seen, torch.full((1, 3, 4), -0.2), seen[:1])


def point(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, 2, 3, 3, generator=g), torch.rand(B, generator=g)


@pytest.mark.parametrize("predict", ["v", "x"])
@pytest.mark.parametrize("steps, shift", [(8, 1.0), (4, 3.0), (1, 1.0)])
def test_one_step_of_the_student_ends_where_two_of_the_teacher_do(steps, shift, predict):
    rule, (x, t) = Halved(Gaussian(predict), predict, steps, shift), point()
    at = rule.times(t)
    target = rule.target(x, at, text())
    grid = [shift * (1 - i / (2 * steps)) / (1 + (shift - 1) * (1 - i / (2 * steps))) for i in range(2 * steps + 1)]
    for b in range(B):
        i = min(range(0, 2 * steps, 2), key=lambda k: abs(grid[k] - at[b].item()))
        assert grid[i] >= t[b].item() >= grid[i + 2] and at[b].item() == pytest.approx(grid[i], abs=1e-6)  # rounded up to its node
        start = y = x[b, 0, 0, 0].item()
        for here, there in zip(grid[i : i + 2], grid[i + 1 : i + 3]):  # two Euler steps, in double precision
            y += (there - here) * exact(y, here, MU + 0.3)
        expected = (y - start) / (grid[i + 2] - grid[i])
        assert target[b, 0, 0, 0].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_student_with_the_targets_samples_as_the_teacher_does():
    """The mean velocity on the student's nodes, integrated in 4 steps, is the teacher's Euler trajectory in 8."""
    rule, x = Halved(Gaussian(), "v", 4, 2.0), point()[0]
    student = euler(lambda y, t: rule.target(y, torch.full((B,), t), text()), x, times(4, 2.0))
    teacher = euler(lambda y, t: Gaussian()(y, torch.full((B,), t), text().tokens, None)[0], x, times(8, 2.0))
    assert torch.allclose(student, teacher, atol=1e-5)


@pytest.mark.parametrize("steps, shift", [(8, 1.0), (8, 3.0), (3, 0.5)])
def test_uniform_times_of_the_recipes_shift_reach_every_step_equally_often(steps, shift):
    rule = Halved(Gaussian(), "v", steps, shift)
    t = shift_time((torch.arange(1200) + 0.5) / 1200, shift)
    assert rule.places(t).bincount().tolist() == [1200 // steps] * steps
    assert rule.places(torch.tensor([0.0, 1.0])).tolist() == [steps - 1, 0]
    assert torch.allclose(rule.places(times(steps, shift)[:-1].float()), torch.arange(steps))


@pytest.mark.parametrize("predict", ["v", "x"])
def test_the_guided_target_is_the_samplers_guided_velocity(predict):
    x, _ = point()
    given = Condition(text(), torch.rand(B, 9), torch.zeros(2, 3, 3))
    for guidance in (CFG(3.0), CFG(5.0, 0.2, 0.7), CFG(1.0)):
        rule = Guided(Gaussian(predict), predict, guidance)
        guided = guidance.velocity(Network(Gaussian(predict), predict, nullcontext), given)
        for t in (0.1, 0.2, 0.5, 0.7, 0.9, 1.0):
            target = rule.target(x, torch.full((B,), t), text())
            assert torch.allclose(target, guided(x, float(torch.tensor(t))), atol=1e-5)
    one = Guided(Gaussian(), "v", CFG(3.0)).target(x, torch.full((B,), 0.6), text())[0, 0, 0, 0].item()
    c, u = (exact(x[0, 0, 0, 0].item(), 0.6, MU + level) for level in (0.3, -0.2))
    assert one == pytest.approx(u + 3 * (c - u), abs=1e-5)


def at_phase(recipe, phase: int, steps: int = 0) -> Training:
    """A training some steps into a phase of a tiny recipe."""
    training = Training(tiny(recipe), store(recipe), 0, CPU)
    list(training.fit(tiny(recipe).plan[phase][0] + steps))
    if not steps:
        training.enter(phase, training.tensors())
    return training


LONG = RECIPES["distilled"].but(scale=replace(TINY, steps=20))


@pytest.mark.parametrize("phase", [1, 2])
def test_the_teacher_is_the_network_at_entry_and_stays_so_bit_for_bit(phase):
    training = Training(LONG.but(precision=replace(LONG.precision, compute="fp32")), store(), 0, CPU)
    start, end = [*(at for at, _ in training.whole.plan), 20][phase : phase + 2]
    list(training.fit(start))
    entry = {k: v.clone() for k, v in training.learner.model.state_dict().items()}
    for _ in training.fit(end):
        teacher = training.rule.teacher.state_dict()
        assert all(torch.equal(teacher[k], entry[k]) for k in entry)
    assert not training.rule.teacher.training and not any(p.requires_grad for p in training.rule.teacher.parameters())
    moved = training.learner.model.state_dict()
    assert any(not torch.equal(moved[k], entry[k]) for k in entry)
    assert training.rule.names == ("Distillation",) and training.recipe.rule == training.whole.plan[phase][1].rule


def test_only_the_student_gets_gradients_and_only_its_own_captions():
    training = at_phase(RECIPES["distilled"], 1)
    batch = training.store.batch(np.arange(8))
    variates = draw((0, 9, 0, 0), (8, 16, 4, 4), 16, BASE.time, 0.5)
    loss, terms = training.rule(training.learner, batch, variates)
    loss.backward()
    assert all(p.grad is None for p in training.rule.teacher.parameters())
    assert all(p.grad is not None for p in training.learner.model.final_layer.parameters())
    everyone = replace(variates, drop=torch.zeros_like(variates.drop))
    assert training.rule(training.learner, batch, everyone)[0] == loss == terms[0] and variates.drop.any()


def test_at_scale_one_the_entry_is_the_answer():
    """With nothing to distil the student already is its teacher: loss 0."""
    phase = GUIDED.but(rule=GuidanceDistillation(CFG(1.0)))
    training = at_phase(BASE.then(0.5, phase), 1)
    loss, _ = training.rule(training.learner, training.store.batch(np.arange(8)), draw((0, 9, 0, 0), (8, 16, 4, 4), 16, BASE.time, 0.1))
    assert loss.item() == 0


@pytest.mark.parametrize("name", ["distilled", "distilled-32"])
def test_resume_inside_each_phase_is_bit_for_bit(name, tmp_path):
    recipe = tiny(RECIPES[name]).but(scale=replace(TINY, steps=24))
    whole = Training(recipe, store(), 0, CPU)
    log = [row["loss"] for row in whole.fit(24)]
    starts = [at for at, _ in recipe.plan]
    for phase, cut in enumerate(at + 2 for at in starts):
        folder = tmp_path / str(phase)
        list(Training(recipe, store(), 0, CPU).fit(cut, folder))
        tensors, state = checkpoint.load(checkpoint.steps(folder / "checkpoint")[-1])
        assert state["phase"] == phase and any(k.startswith("rule/teacher.") for k in tensors) == (phase > 0)
        again = Training(recipe, store(), 0, CPU)
        assert again.resume(folder)
        assert [row["loss"] for row in again.fit(24)] == log[cut:]
        a, b = whole.learner.state_dict(), again.learner.state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("predict", ["v", "x"])
def test_the_student_in_eight_steps_is_nearer_to_the_guided_teacher_than_the_undistilled_net(predict):
    """The purpose of it all, on eight images that a tiny network learns: 32 evaluations of the teacher against 8 of the student."""
    scale = replace(TINY, steps=STEPS, lr=6e-3, images=8)
    base = BASE.but(scale=scale, precision=replace(BASE.precision, compute="fp32"), predict=predict)
    same = dict(scale=scale, precision=base.precision, predict=predict)
    phases = (Phase(0.4, GUIDED.but(**same)), Phase(0.7, EIGHT.but(**same)))
    data = store(n=8)
    training = Training(base.but(phases=phases), data, 0, CPU)
    list(training.fit(training.whole.plan[1][0]))
    teacher = {k: v.clone() for k, v in training.learner.model.state_dict().items()}
    index = list(range(8))
    given, eps = Condition(gather(data.text, np.arange(8)), scores(0, index, 16), data.mean), noise(0, index, (16, 4, 4))

    def sampled(guidance: CFG, steps: int) -> torch.Tensor:
        return generate(Network(training.learner.model, predict, nullcontext), given, eps, guidance, steps)

    goal, plain = sampled(CFG(3.0), 16), sampled(CFG(1.0), 8)
    losses = [row["loss"] for row in training.fit(STEPS)]
    student = sampled(CFG(1.0), training.recipe.eval_steps)
    assert training.recipe.eval_steps == 8 and np.mean(losses[-20:]) < losses[0]
    assert any(not torch.equal(v, teacher[k]) for k, v in training.learner.model.state_dict().items())
    before, after = (plain - goal).square().mean(), (student - goal).square().mean()
    assert after < 0.5 * before


def test_evaluation_takes_the_students_steps_and_no_guidance():
    last = RECIPES["distilled"].at("cpu").last
    assert (last.eval_steps, last.guidance) == (8, CFG(1.0))
    assert RECIPES["distilled"].at("cpu").eval_steps == BASE.at("cpu").eval_steps == BASE.at("cpu").scale.eval_steps
    assert [RECIPES[name].at("cpu").eval_steps for name in ("eight-steps", "eight-steps-cfg1")] == [8, 8]
    assert [part.rule.sampler_steps(28) for _, part in RECIPES["distilled-32"].plan] == [28, 28, 16, 8]


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(guidance=CFG(3.0)), "guidance=CFG(1.0)"),
        (dict(router=TREAD(0.5)), "rate to 1"),
        (dict(terms=(*BASE.terms, REPA())), "REPA would do nothing"),
        (dict(rule=ProgressiveDistillation(0)), "at least one"),
    ],
)
@pytest.mark.parametrize("part", [GUIDED, EIGHT])
def test_contradictory_phases_are_refused(part, change, word):
    with pytest.raises(LabError) as error:
        part.but(**change)
    assert word in str(error.value) and "\n" not in str(error.value)
    assert part.but(router=TREAD(1.0)).router.rate == 1


def test_there_must_be_something_to_distil():
    for part in (GUIDED, EIGHT):
        with pytest.raises(LabError, match="needs a trained network"):
            Training(tiny(part), store(), 0, CPU)
        with pytest.raises(LabError, match="needs a trained network"):
            part.then(0.5, BASE)


def test_steps_are_halved_one_phase_at_a_time():
    assert BASE.then(0.3, GUIDED).then(0.5, SIXTEEN).then(0.7, EIGHT).last.rule.steps == 8
    assert BASE.then(0.3, SIXTEEN).then(0.5, EIGHT.but(rule=ProgressiveDistillation(8))).last == EIGHT
    with pytest.raises(LabError, match="cannot be halved to 4"):
        BASE.then(0.5, SIXTEEN).then(0.7, EIGHT.but(rule=ProgressiveDistillation(4)))


def test_progressive_phases_draw_their_steps_uniformly():
    assert EIGHT.time == SIXTEEN.time == Uniform()
