"""Contrastive flow matching: push the velocity away from another sample's (arXiv 2506.05350), and undo the bias when sampling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_lab.data.batch import Batch
from prx_lab.errors import LabError
from prx_lab.flow import Point, Velocity
from prx_lab.model import PRX
from prx_lab.sample import CFG, Condition, Guidance, Predict
from prx_lab.terms.base import Out, Term, TermModule, rescaled

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe

NEGATIVES = {"random": "any other sample of the batch, anew for each sample and step", "roll": "the sample before it in the batch"}
UNCONDITIONAL = {"keep": "samples without a caption have a negative too", "exclude": "they have none, and the others weigh more"}


class ContrastiveLoss(TermModule):
    """- mean (v_theta - y_j)^2, where y_j = eps_j - x_j is the target of another sample, its image and its noise."""

    def __init__(self, negatives: str, unconditional: str):
        super().__init__()
        self.roll, self.exclude = negatives == "roll", unconditional == "exclude"

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        rest = out.rest
        pool = out.target if rest is None else torch.cat([out.target, rest.target])
        other = torch.cat([pool[-1:], out.target[:-1]]) if self.roll else pool[out.other]  # (B, C, H, W)
        error = (out.v.float() - other).square()
        if not self.exclude:
            return -error.mean()
        kept = (~out.drop).float()  # (B,)
        loss = -(error.flatten(1).mean(1) * kept).sum() / kept.sum().clamp(min=1)  # the mean over the kept: B / #kept of all
        return loss if rest is None else rescaled(loss, ~out.drop, ~rest.drop)


@dataclass(frozen=True)
class Contrastive(Term):
    """The paper's loss with lambda = `weight`: beside FlowMatching(), mean (v_i - y_i)^2 - lambda (v_i - y_j)^2.

    Its minimiser is (E[y | x_t, c] - lambda E[y]) / (1 - lambda). `negatives` is "random" (the authors' code) or "roll" (PRX,
    SR-DiT); `unconditional` says whether a sample whose caption was dropped is pushed away as well ("keep", the authors'
    default) or not ("exclude": the mean is then over the others, as the authors rescale by B / #kept).
    """

    reads_targets = True
    weight: float = 0.05
    negatives: str = "random"
    unconditional: str = "keep"

    def check(self, recipe: "Recipe") -> None:
        if not 0 <= self.weight < 1:
            raise LabError(f"Contrastive.weight is {self.weight}; use a value in [0, 1), since from 1 on the loss has no minimum.")
        for name, allowed in (("negatives", NEGATIVES), ("unconditional", UNCONDITIONAL)):
            if getattr(self, name) not in allowed:
                raise LabError(f"Contrastive.{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}.")
        if recipe.scale.batch < 2:
            raise LabError(f"A batch of {recipe.scale.batch} has no other sample to push away from; use scale.batch of at least 2.")

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        return ContrastiveLoss(self.negatives, self.unconditional)


@dataclass(frozen=True)
class Corrected(Guidance):
    """`inner`, freed of the bias of Contrastive(weight): v' = (1 - lambda) v + lambda E[y], and E[y] = -E[x], the mean clean latent.

    Guidance adds velocities with weights that sum to 1, so correcting its result corrects each of them. The authors' code
    corrects inside the guidance interval only; the bias is there at every time, and so is this correction.
    """

    inner: Guidance = CFG()
    weight: float = 0.05

    def check(self, recipe: "Recipe") -> None:
        self.inner.check(recipe)
        terms = [term for term in recipe.terms if isinstance(term, Contrastive)]
        if [term.weight for term in terms] != [self.weight]:
            raise LabError(f"Corrected undoes one Contrastive term of weight {self.weight}; give the recipe that term.")
        if terms[0].unconditional == "exclude":
            raise LabError("Corrected expects a bias that is equal with and without caption; use Contrastive(unconditional='keep').")

    def velocity(self, v: Predict, given: Condition) -> Velocity:
        inner = self.inner.velocity(v, given)

        def corrected(x: Tensor, t: float) -> Tensor:
            return (1 - self.weight) * inner(x, t) - self.weight * given.mean

        return corrected
