"""What a loss term is: a value that builds a module forward(point, out, batch) -> scalar."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from prx_lab.data.batch import Batch, Rest
from prx_lab.errors import LabError
from prx_lab.flow import Point
from prx_lab.model import PRX, Feat
from prx_lab.spec import Spec

if TYPE_CHECKING:
    from prx_lab.recipe import Recipe


@dataclass(frozen=True)
class Out:
    """What the network said about a point: always both v and x, whichever it predicts; and what it is compared with."""

    v: Tensor  # (B, C, H, W)
    x: Tensor  # (B, C, H, W)
    target: Tensor  # (B, C, H, W) velocity that v is compared with
    feats: dict[int, Feat]
    drop: Tensor  # (B,) bool: its caption was dropped
    other: Tensor  # (B,) index of another sample of the batch
    rest: Rest | None = None  # where the batch is a part of one; `other` then counts on into its targets


class TermModule(nn.Module, ABC):
    """An unweighted loss; `taps` are the blocks whose tokens it reads, `heads` those whose queries and keys it reads too."""

    taps: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, point: Point, out: Out, batch: Batch) -> Tensor:
        """A float32 scalar."""


@dataclass(frozen=True)
class Term(Spec, ABC):
    """A weighted part of the loss.

    A split batch gives the whole one's gradients where a term is a mean over samples. Other terms read `Out.rest`: see
    `rescaled`, and `reads_targets`, which asks for the targets of other samples there.
    """

    reads_targets: ClassVar[bool] = False
    weight: float = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """Vision teachers whose patch tokens, or with `:qk<block>` queries and keys, the term reads from the batch."""
        return ()

    @abstractmethod
    def build(self, model: PRX, widths: Mapping[str, int]) -> TermModule:
        """The module for this model; `widths` gives each teacher's feature width."""


def rescaled(mean: Tensor, chosen: Tensor, everywhere: Tensor) -> Tensor:
    """A part's `mean` over its `chosen` samples (B,), weighed so that the mean of such parts is that over `everywhere` (G,)."""
    return mean * (chosen.sum().clamp(min=1) / everywhere.sum().clamp(min=1)) * (len(everywhere) / len(chosen))


def tapped(share: float, depth: int) -> int:
    """The block after which a tap at a share of `depth` blocks reads, counted from 0: the paper's 8th of 28 is 0.28, block 7.

    LabError for a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise LabError(f"A term's depth is {share}; use a share of the blocks in [0, 1].")
    return min(depth, max(1, round(share * depth))) - 1


def require_all_tokens(recipe: "Recipe", block: int, reader: str) -> None:
    """Refuse, with a LabError, a tap behind which a router leaves only a part of the tokens; `reader` says who needs them all."""
    first, last = recipe.router.span(recipe.scale.depth)
    if first <= block <= last and recipe.router.kept(recipe.scale.tokens) < recipe.scale.tokens:
        raise LabError(
            f"{reader} needs every token of the grid, but block {block + 1} lies in the route through blocks {first + 1} to {last + 1}; "
            "change its depth, or the router's start and end."
        )
