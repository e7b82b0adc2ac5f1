"""The training of the embedded autoencoders: its parts have the properties that the cards claim."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from prx_lab.errors import LabError
from prx_lab.pretrain import common, vae


def test_psnr_of_a_known_error():
    """An error of 0.2 everywhere against a peak of 2 is 20 dB."""
    x = torch.zeros(3, 3, 8, 8)
    torch.testing.assert_close(common.psnr(x, x + 0.2), torch.full((3,), 20.0))


def test_rate_starts_low_peaks_and_ends_at_zero():
    values = [common.cosine(i / 200) for i in range(201)]
    assert values[0] < 0.05 and max(values) == pytest.approx(1.0, abs=1e-3) and values[-1] == pytest.approx(0.0, abs=1e-9)


def test_average_of_constant_weights_is_constant():
    net = nn.Linear(2, 2)
    average = common.Averaged(net, 0.99)
    for _ in range(5):
        average.update(net)
    assert all(torch.allclose(average.state[k], v) for k, v in net.state_dict().items())


def test_average_follows_quickly_at_first():
    net = nn.Linear(1, 1)
    average = common.Averaged(net, 0.999)
    nn.init.constant_(net.weight, 7.0)
    for _ in range(50):
        average.update(net)
    assert abs(average.state["weight"].item() - 7) < 0.1


def test_photographs_are_held_out_and_crops_in_range():
    assert not set(common.TRAIN_PHOTOS) & set(common.HELD_PHOTOS)
    rng = np.random.default_rng(0)
    for photo in common.photographs(common.HELD_PHOTOS):
        for _ in range(4):
            cut = common.jitter(common.crop(photo, 32, rng), rng)
            assert cut.shape == (3, 32, 32) and 0 <= cut.min() and cut.max() <= 1


def test_muon_step_is_nearly_orthogonal():
    """Singular values of an update are the rate times about 1, whatever the gradient's scale."""
    weight = nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = 1e3 * torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    vae.ConvMuon([weight], lr=0.1, weight_decay=0.0).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1)) / 0.1
    assert values.min() > 0.4 and values.max() < 1.4


def test_every_parameter_has_one_optimiser():
    net = vae.network(4, (8, 8, 8, 8))
    groups = [p for o in vae.optimisers(net, vae.SETUPS["lab-vae"]) for g in o.param_groups for p in g["params"]]
    assert len({id(p) for p in groups}) == len(groups) == len(list(net.parameters()))


def test_loss_falls_and_has_the_stated_parts():
    torch.manual_seed(0)
    setup = vae.Setup(channels=4, widths=(8, 8, 8, 8))
    net, x = vae.network(4, setup.widths), torch.rand(4, 3, 32, 32) * 2 - 1
    pair, losses = vae.optimisers(net, setup), []
    for _ in range(12):
        loss, means, parts = vae.reconstruction(net, x, setup)
        for optimiser in pair:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in pair:
            optimiser.step()
        losses.append(loss.item())
        assert math.isclose(loss.item(), (parts["l1"] + setup.squared * parts["mse"] + setup.kl * parts["kl"]).item(), rel_tol=1e-5)
    assert means.shape == (4, 4, 4, 4) and losses[-1] < losses[0]


def test_aligner_is_zero_for_tokens_that_are_linear_in_the_latents():
    aligner, means = vae.Aligner(4, 6), torch.randn(2, 4, 3, 3)
    target = aligner.project(means.flatten(2).transpose(1, 2)).detach()
    assert aligner(means, target).item() == pytest.approx(0.0, abs=1e-6)
    assert aligner(means, -target).item() == pytest.approx(2.0, abs=1e-6)


def test_unknown_name_is_refused(tmp_path):
    with pytest.raises(LabError, match="Did you mean 'lab-vae'"):
        vae.run("lab-vea", 1.0, 0, tmp_path)
