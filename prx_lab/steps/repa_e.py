"""REPA-E: one step that trains an autoencoder and a denoiser together through alignment (arXiv 2504.10483, section 3).

The alignment loss reaches the autoencoder; the diffusion loss must not, or the latents shrink until denoising is trivial.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import Draw
from prx_lab.terms import FlowMatching
from prx_lab.train import Learner

Objective = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]  # (autoencoder, images) -> (reconstruction loss, latents)


class LatentNorm(nn.BatchNorm2d):
    """Normalises latents by running statistics while they move; REPA-E's constants: eps 1e-4, momentum 0.1, no affine."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-4, momentum=0.1, affine=False)

    def fixed(self, z: Tensor) -> Tensor:
        """Normalise with the running statistics, which stay as they are."""
        mean, scale = self.running_mean.view(1, -1, 1, 1), (self.running_var + self.eps).rsqrt().view(1, -1, 1, 1)
        return (z - mean) * scale

    def inverse(self, z: Tensor) -> Tensor:
        """The latents of which `fixed` makes z."""
        mean, std = self.running_mean.view(1, -1, 1, 1), (self.running_var + self.eps).sqrt().view(1, -1, 1, 1)
        return z * std + mean


@dataclass
class JointStep:
    """The networks and optimisers of the joint step; the learner's terms are flow matching and an alignment, in this order."""

    autoencoder: nn.Module
    learner: Learner
    norm: LatentNorm
    objective: Objective
    vae_optimizer: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer
    align: float = 1.5  # weight of the alignment in the autoencoder's loss
    clip: float = 1.0

    def __post_init__(self) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise LabError(
                "The joint step trains in one process: its latents' statistics and its two updates are not shared among several."
            )
        terms = self.learner.recipe.terms
        if len(terms) != 2 or not isinstance(terms[0], FlowMatching) or not terms[1].teachers:
            raise LabError(
                "The joint step reads two terms, FlowMatching() and then an alignment such as REPA(); change the recipe's terms."
            )

    def __call__(self, images: Tensor, text: Text, teachers: dict[str, Tensor], draw: Draw) -> dict[str, float]:
        """Both updates on images (B, 3, H, W), with the same times and noise; returns the losses before them."""
        reconstruction, z = self.objective(self.autoencoder, images)
        _, losses = self.learner(Batch(self.norm.fixed(z), text, teachers), draw)
        loss = reconstruction + self.align * losses[1]  # losses[0], the flow, is left out on purpose
        parameters = list(self.autoencoder.parameters())
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True)):
            p.grad = g  # of the autoencoder alone: the denoiser stays as it is
        nn.utils.clip_grad_norm_(parameters, self.clip)
        self.vae_optimizer.step()

        total, losses = self.learner(Batch(self.norm(z.detach()), text, teachers), draw)
        total.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        flow, repa = losses.tolist()
        return {"reconstruction": reconstruction.item(), "flow": flow, "repa": repa}
