"""What an update rule is: a value that builds, around a learner, the loss of one step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prx_lab.data.batch import Batch
from prx_lab.flow import Draw
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe
    from prx_lab.train import Learner


class RuleModule(nn.Module, ABC):
    """The loss of one step; parameters of its own (a frozen copy of the weights it started from) are saved, not trained."""

    names: tuple[str, ...]  # of the unweighted terms

    @abstractmethod
    def forward(self, learner: "Learner", batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """The loss and its unweighted terms (k,), float32."""


class Rule(Spec, ABC):
    """How a step's loss is made from a learner."""

    @abstractmethod
    def build(self, learner: "Learner") -> RuleModule:
        """The rule for a learner as it is when the phase begins."""

    def check_after(self, before: tuple["Recipe", ...]) -> None:
        """Refuse, with a LabError, a phase that cannot follow the phases `before`; there are none at the start of a run."""

    def sampler_steps(self, steps: int) -> int:
        """Sampler steps of an evaluation, where the scale asks for `steps`."""
        return steps


class Plain(RuleModule):
    """The learner's own loss."""

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        self.names = names

    def forward(self, learner: "Learner", batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        return learner(batch, draw)


@dataclass(frozen=True)
class Descent(Rule):
    """Gradient descent on the sum of the recipe's terms."""

    def build(self, learner: "Learner") -> RuleModule:
        return Plain(tuple(type(term).__name__ for term in learner.recipe.terms))
