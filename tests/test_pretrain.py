"""Training of the embedded networks: the parts that every one of them shares, on tensors small enough to check by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from prx_lab import zoo
from prx_lab.data.captions import caption
from prx_lab.data.scenes import COLOURS, SHAPES, sample_scene
from prx_lab.errors import LabError
from prx_lab.pretrain import TRAININGS, pretrain
from prx_lab.pretrain.augment import defects, flip, quantise
from prx_lab.pretrain.corpus import NONE, mentions
from prx_lab.pretrain.loop import Schedule, batches, rate, train
from prx_lab.pretrain.probe import auc, ridge
from prx_lab.pretrain.targets import PRESENT, dense, present
from prx_lab.pretrain.world import FLOOR, HELDOUT, TRAIN, WALL, Part, world


def one_object(x: float = 0.25, y: float = 0.25) -> torch.Tensor:
    objects = torch.full((1, 4, 7), -1.0)
    objects[0, 0] = torch.tensor([1, 5, 1, 0, x, y, 1.0])
    return objects


def test_every_embedded_network_has_a_training() -> None:
    assert set(TRAININGS) == set(zoo.EMBEDDED)
    with pytest.raises(LabError, match="Did you mean 'lab-dino'"):
        pretrain("lab-dinoo")
    with pytest.raises(LabError, match="above 0"):
        pretrain("lab-dino", effort=0)


def test_batches_are_shuffled_epochs() -> None:
    seen = torch.cat([batches(10, 4, 3, step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist() and torch.equal(batches(10, 4, 3, 2), seen[8:12])
    first, second = (torch.randperm(10, generator=torch.Generator().manual_seed(3 * 100_003 + epoch)) for epoch in (0, 1))
    assert torch.equal(seen, torch.cat([first, second]))


def test_train_fits_a_line() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    schedule = Schedule(200, 16, 0.05, warmup=10, decay=0.0, average=0.9, half=False)

    def draw(step: int) -> torch.Tensor:
        return batches(64, 16, 0, step)

    done = train(nn.Linear(3, 1), draw, lambda net, rows: (net(x[rows]) - y[rows]).square().mean(), schedule)
    assert (done.network(x) - y).square().mean() < 1e-2 and not done.network.training
    assert rate(0, schedule) == 0.1 and rate(9, schedule) == 1.0 and rate(199, schedule) < 0.02


def test_dense_targets() -> None:
    owners = torch.full((1, 64, 64), WALL, dtype=torch.uint8)
    owners[:, 32:] = FLOOR
    owners[:, 12:20, 8:24] = 0  # half of four patches, each 8 pixels a side
    truth = dense(owners, one_object(), 8)
    for name, fraction in truth.fractions.items():
        assert torch.allclose(fraction.sum(1), torch.ones(1, 64)), name
    here = 1 * 8 + 1  # row 1, column 1: y 8..16, of which the object has 12..16
    assert truth.fractions["region"][0, SHAPES.index("cube"), here] == 0.5 and truth.fractions["colour"][0, 5, here] == 0.5
    assert truth.offset[0, :, here].tolist() == pytest.approx([0.25 - 1.5 / 8, 0.25 - 1.5 / 8])
    assert truth.main[0, 0] == 5 and truth.main[0, 63] == 4 and not truth.pure[0, here]


def test_present() -> None:
    held = present(one_object())
    assert held.shape == (1, PRESENT) and held.sum() == 3
    assert held[0, SHAPES.index("cube") * len(COLOURS) + 5] == 1


def test_flip_moves_labels_with_pixels() -> None:
    images = torch.zeros(40, 3, 64, 64)
    images[..., 10] = 1
    objects, scene = one_object(x=10.5 / 64).repeat(40, 1, 1), torch.zeros(40, 6, dtype=torch.long)
    turned, moved, sides = flip(images, objects, scene, torch.Generator().manual_seed(0))
    columns = turned[:, 0, 0].argmax(1)
    assert set(columns.tolist()) == {10, 53}
    assert torch.allclose((columns + 0.5) / 64, moved[:, 0, 4]) and torch.equal(sides[:, 2] == 1, columns == 53)
    assert (moved[:, 1:][..., 0] == -1).all()


def test_defects_are_mild_and_bounded() -> None:
    images = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    damaged = defects(images, torch.Generator().manual_seed(1))
    assert damaged.abs().max() <= 1 and not torch.equal(damaged, images)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert (quantise(flat) - flat).abs().max() < 0.01, "a flat block has only its mean to round"


def test_mentions_read_the_caption() -> None:
    scene = sample_scene(0, 0, "full")
    text = caption(scene, "long")
    for end, (colour, size, material, shape, _) in mentions(scene, text, "long"):
        words = text[:end].split()
        assert words[-1] == SHAPES[shape] and words[-2] == list(COLOURS)[colour] and NONE not in (size, material)
    assert len(mentions(scene, caption(scene, "short"), "short")) == len(scene.objects)


def test_world_round_trip(tmp_path: Path) -> None:
    part = Part("val", 6, 99)
    first, again = world((part,), tmp_path), world((part,), tmp_path)
    rows = torch.tensor([5, 0])
    assert torch.equal(first.pixels(rows), again.pixels(rows)) and first.pixels(rows).abs().max() <= 1
    for i, scene in enumerate(first.scenes()):
        assert int((first.objects[i, :, 0] >= 0).sum()) == len(scene.objects) == int(first.scene[i, 5])
        owners = set(first.owners(torch.tensor([i])).unique().tolist())
        assert owners <= {*range(len(scene.objects)), FLOOR, WALL}
    both = world((part, Part("val", 3, 98)), tmp_path)
    assert torch.equal(both.pixels(torch.tensor([7]))[0], world((Part("val", 3, 98),), tmp_path).pixels(torch.tensor([1]))[0])


def test_seeds_keep_the_parts_apart() -> None:
    assert len({p.seed for p in (*TRAIN, HELDOUT)}) == 3


def test_probes() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    labels = (x[:, 2] > 0).long()
    assert (ridge(x, labels, 2, x) == labels).float().mean() > 0.9
    assert auc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, True])) == 1.0
    assert auc(torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([False, False, True, True])) == 0.0
