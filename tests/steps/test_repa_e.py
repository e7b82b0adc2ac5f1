"""The joint step: which loss reaches which network, and the latent normalisation."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import nn

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import corrupt, draw
from prx_lab.recipes import BASE
from prx_lab.steps.repa_e import JointStep, LatentNorm
from prx_lab.terms import REPA, FlowMatching
from prx_lab.train import Learner


class Squeeze(nn.Module):
    """A linear autoencoder of 8-pixel cells."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 16, 8, 8), nn.ConvTranspose2d(16, 3, 8, 8)


def objective(net, x):
    z = net.down(x)
    return (net.up(z) - x).abs().mean(), z


def silent(net, x):
    """No reconstruction loss: what remains for the autoencoder is alignment alone."""
    z = net.down(x)
    return 0.0 * z.sum(), z


def joint(objective, align=1.5) -> tuple[JointStep, tuple]:
    torch.manual_seed(0)
    vae = Squeeze()
    learner = Learner(tiny(BASE.plus(REPA(teacher="t"))), 16, 8, 12, {"t": 10})
    for p in learner.model.parameters():
        nn.init.normal_(p, std=0.05)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (vae, learner)]
    step = JointStep(vae, learner, LatentNorm(16), objective, *optimizers, align=align)
    text = Text(torch.randn(4, 6, 12), torch.ones(4, 6, dtype=torch.bool), torch.zeros(1, 6, 12), torch.ones(1, 6, dtype=torch.bool))
    variates = draw((0, 0, 0, 0), (4, 16, 4, 4), 16, BASE.time, 0.1)
    return step, (torch.rand(4, 3, 32, 32) * 2 - 1, text, {"t": torch.randn(4, 16, 10)}, variates)


def copy(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_flow_loss_never_reaches_the_autoencoder():
    step, inputs = joint(silent, align=0.0)
    before = copy(step.autoencoder), copy(step.learner)
    step(*inputs)
    assert same(before[0], copy(step.autoencoder)) and not same(before[1], copy(step.learner))


@pytest.mark.parametrize(
    "terms", [(FlowMatching(),), (REPA(), FlowMatching()), (FlowMatching(), FlowMatching(2.0)), (FlowMatching(), REPA(), REPA(depth=1.0))]
)
def test_a_learner_with_other_terms_is_refused(terms):
    step, _ = joint(objective)
    with pytest.raises(LabError, match="FlowMatching.*REPA"):
        replace(step, learner=Learner(tiny(BASE.but(terms=terms)), 16, 8, 12, {"lab-dino": 10}))


def test_alignment_reaches_the_encoder_and_reconstruction_the_decoder():
    step, inputs = joint(silent)
    before = copy(step.autoencoder)
    step(*inputs)
    after = copy(step.autoencoder)
    assert not torch.equal(before["down.weight"], after["down.weight"]) and torch.equal(before["up.weight"], after["up.weight"])
    step, inputs = joint(objective)
    before = copy(step.autoencoder)
    losses = step(*inputs)
    assert not torch.equal(before["up.weight"], copy(step.autoencoder)["up.weight"])
    assert losses["reconstruction"] > 0 and -1 <= losses["repa"] <= 1


def test_latent_norm_standardises_and_inverts():
    norm, z = LatentNorm(4), 3 + 2 * torch.randn(64, 4, 4, 4)
    out = norm(z)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5 and (out.std((0, 2, 3)) - 1).abs().max() < 1e-2
    before = norm.running_mean.clone()
    assert torch.allclose(norm.inverse(norm.fixed(z)), z, atol=1e-5) and torch.equal(before, norm.running_mean)


def test_latent_norm_is_batch_norm_and_moves_by_a_tenth_of_the_batch():
    norm, z = LatentNorm(4), 3 + 2 * torch.randn(8, 4, 4, 4)
    expected = (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-4).sqrt()
    assert torch.allclose(norm(z), expected, atol=1e-5) and not list(norm.parameters())
    assert torch.allclose(norm.running_mean, 0.1 * z.mean((0, 2, 3))) and int(norm.num_batches_tracked) == 1
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * z.var((0, 2, 3)))
    assert torch.allclose(norm.fixed(z), F.batch_norm(z, norm.running_mean, norm.running_var, eps=1e-4), atol=1e-5)


def by_hand(step: JointStep, images, text, teachers, variates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reconstruction, flow and alignment, a sum over cells at a time, of latents that are normalised but not cut off."""
    error, z = objective(step.autoencoder, images)
    point = corrupt(step.norm.fixed(z), variates.eps, variates.t)
    read, mask = text.dropped(variates.drop)
    raw, feats = step.learner.model(point.x_t, point.t, read, mask, taps=step.learner.taps)
    said, y = step.learner.terms[1].projector(feats[step.learner.taps[0]].tokens), teachers["t"]
    cosines = [(a @ b) / (a.norm() * b.norm()) for a, b in zip(said.flatten(0, 1), y.flatten(0, 1))]
    return error, (raw - point.v).square().mean(), -torch.stack(cosines).mean()


def test_the_autoencoder_gets_the_gradient_of_reconstruction_and_alignment_and_nothing_else():
    step, inputs = joint(objective)
    parameters = list(step.autoencoder.parameters())
    error, flow, alignment = by_hand(step, *inputs)
    expected = torch.autograd.grad(error + 1.5 * alignment, parameters, retain_graph=True)
    length = torch.stack([g.square().sum() for g in expected]).sum().sqrt().clamp(min=1.0)  # clipped at norm 1
    left_out = torch.autograd.grad(flow, parameters[:2])  # of the encoder
    step(*inputs)
    for p, g in zip(parameters, expected):
        assert torch.allclose(p.grad, g / length, atol=1e-6)
    assert min(g.abs().max() for g in left_out) > 1e-4  # a gradient that there is, and that must not arrive


def test_the_flow_loss_of_the_second_half_has_no_gradient_for_the_autoencoder():
    step, inputs = joint(objective)
    seen = []
    step.learner.register_forward_pre_hook(lambda module, args: seen.append(args[0].x))
    step(*inputs)
    assert [x.requires_grad for x in seen] == [True, False]


def test_the_denoiser_is_bit_unchanged_by_the_first_half():
    step, inputs = joint(objective)
    before, middle = copy(step.learner), []
    step.vae_optimizer.register_step_post_hook(lambda *args: middle.append((copy(step.learner), copy(step.norm))))
    statistics = copy(step.norm)
    step(*inputs)
    assert len(middle) == 1 and same(before, middle[0][0]) and same(statistics, middle[0][1])
    assert not same(before, copy(step.learner)) and int(step.norm.num_batches_tracked) == 1
    assert all(p.grad is None for p in step.learner.parameters())


def test_both_halves_see_the_same_times_noise_and_latents():
    step, inputs = joint(objective)
    seen = []
    step.learner.register_forward_pre_hook(lambda module, args: seen.append(args))
    start = copy(step.norm)
    step(*inputs)
    (first, a), (second, b) = seen
    assert a is b is inputs[3]
    z = first.x * (start["running_var"].view(1, -1, 1, 1) + 1e-4).sqrt() + start["running_mean"].view(1, -1, 1, 1)
    own = (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-4).sqrt()
    assert torch.allclose(second.x, own, atol=1e-4)  # the same latents: fixed statistics first, the batch's own second


def test_the_denoiser_gets_the_gradient_of_the_whole_loss():
    step, inputs = joint(objective)
    images, text, teachers, variates = inputs
    with torch.no_grad():
        z = step.norm(objective(step.autoencoder, images)[1])
    step.norm.reset_running_stats()
    before = copy(step.learner)
    total, (flow, repa) = step.learner(Batch(z, text, teachers), variates)
    assert total.item() == pytest.approx(flow.item() + 0.5 * repa.item(), rel=1e-6)
    expected = torch.autograd.grad(total, list(step.learner.parameters()))
    length = torch.stack([g.square().sum() for g in expected]).sum().sqrt().clamp(min=1.0)
    step(*inputs)
    for (name, p), g in zip(step.learner.named_parameters(), expected):
        assert torch.allclose(p.detach(), before[name] - 0.1 * g / length, atol=1e-6)
