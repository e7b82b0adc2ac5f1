"""Flow matching: the mean squared error of the velocity (arXiv 2210.02747, eq. 23)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prx_lab.data.batch import Batch
from prx_lab.flow import Point
from prx_lab.model import PRX
from prx_lab.terms.base import Out, Term, TermModule


class FlowMatchingLoss(TermModule):
    """mean (v_theta - v)^2 over samples and elements, where v is `Out.target`."""

    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        return (out.v.float() - out.target).square().mean()


@dataclass(frozen=True)
class FlowMatching(Term):
    """mean (v_theta - v)^2 over samples and elements."""

    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        return FlowMatchingLoss()
