"""The joint step: which loss reaches which network, and the latent normalisation."""

import torch
from tiny import tiny
from torch import nn

from prx_lab.data.batch import Text
from prx_lab.flow import draw
from prx_lab.recipes import BASE
from prx_lab.steps.repa_e import JointStep, LatentNorm
from prx_lab.terms import REPA
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
