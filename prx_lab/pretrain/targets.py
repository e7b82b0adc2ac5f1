"""What a vision network is asked about a scene: fractions of what each patch shows, and which things the whole scene holds."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prx_lab.data.scenes import COLOURS, FLOORS, LIGHTS, MATERIALS, SHAPES, SIZES, STYLES, WALLS
from prx_lab.pretrain.world import FLOOR, MOST, WALL

REGIONS = (*SHAPES, "floor", "wall")
DENSE = {"region": len(REGIONS), "colour": len(COLOURS) + 1, "size": len(SIZES) + 1, "material": len(MATERIALS) + 1}  # + background
SURFACE = {"floor": len(FLOORS), "wall": len(WALLS)}
PRESENT = len(SHAPES) * len(COLOURS) + len(SHAPES) * len(SIZES) + len(SHAPES) * len(MATERIALS)
SCENE = {"floor": len(FLOORS), "wall": len(WALLS), "light": len(LIGHTS), "style": len(STYLES), "count": 5}


@dataclass(frozen=True)
class Dense:
    """Per patch of a g x g grid: fractions of every class (B, C, N) for each of DENSE, and the fractions of owners (B, 6, N).

    Owners are objects 0..3, floor, wall; `offset` (B, 2, N) leads from the patch to the centre of its main object, in image sides.
    """

    fractions: dict[str, Tensor]
    owners: Tensor
    offset: Tensor

    @property
    def main(self) -> Tensor:
        """The owner of most of each patch (B, N): 0..3 objects, 4 floor, 5 wall."""
        return self.owners.argmax(1)

    @property
    def pure(self) -> Tensor:
        """Patches of which one owner has more than 60 % (B, N)."""
        return self.owners.amax(1) > 0.6


def dense(owners: Tensor, objects: Tensor, grid: int) -> Dense:
    """Pool owner maps (B, 64, 64) and object rows (B, 4, 7) to a grid."""
    ids = torch.where(owners == FLOOR, MOST, torch.where(owners == WALL, MOST + 1, owners.long().clamp(max=MOST + 1)))
    share = F.one_hot(ids, MOST + 2).permute(0, 3, 1, 2).float()
    share = F.adaptive_avg_pool2d(share, grid).flatten(2)  # (B, 6, N)
    fractions = {}
    for k, (name, classes) in enumerate(DENSE.items()):
        table = F.one_hot(objects[..., k].long().clamp(min=0), classes).float() * (objects[..., :1] >= 0)  # (B, 4, classes)
        fraction = torch.einsum("bkn,bkc->bcn", share[:, :MOST], table)
        if name == "region":
            fraction[:, -2:] += share[:, MOST:]
        else:
            fraction[:, -1] += share[:, MOST:].sum(1)
        fractions[name] = fraction
    axis = (torch.arange(grid) + 0.5) / grid
    place = torch.stack([axis.repeat(grid), axis.repeat_interleave(grid)])  # (2, N): x, y in raster order
    owner = share[:, :MOST].argmax(1)  # (B, N)
    centre = torch.gather(objects[..., 4:6], 1, owner[..., None].expand(-1, -1, 2)).transpose(1, 2)
    return Dense(fractions, share, centre - place)


def present(objects: Tensor) -> Tensor:
    """Which (shape, colour), (shape, size) and (shape, material) pairs a scene holds: multi-hot (B, PRESENT)."""
    here = (objects[..., :1] >= 0).float()
    shape = F.one_hot(objects[..., 0].long().clamp(min=0), len(SHAPES)).float() * here  # (B, 4, 5)
    blocks = []
    for column, classes in ((1, len(COLOURS)), (2, len(SIZES)), (3, len(MATERIALS))):
        other = F.one_hot(objects[..., column].long().clamp(min=0), classes).float()
        blocks.append(torch.einsum("bks,bkc->bksc", shape, other).amax(1).flatten(1))
    return torch.cat(blocks, 1)
