"""Inception-v3 as FID uses it (arXiv 1706.08500): TensorFlow's 2015 graph, whose pooling differs from torchvision's in four places."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)  # TensorFlow leaves padding out of the mean


class FIDBlockA(inception.InceptionA):
    """35 x 35 block, padding not counted."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_pool(x))]


class FIDBlockC(inception.InceptionC):
    """17 x 17 block, padding not counted."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_1(x)
        for conv in (self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5):
            double = conv(double)
        return [self.branch1x1(x), single, double, self.branch_pool(_pool(x))]


class FIDBlockE(inception.InceptionE):
    """8 x 8 block with average pooling, padding not counted."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(self.pool(x)),
        ]

    def pool(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), the mean of 3 x 3 places without the padding."""
        return _pool(x)


class FIDBlockLast(FIDBlockE):
    """The last block pools by maximum: a slip in the 2015 graph that every FID since has kept."""

    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class FIDInception(nn.Module):
    """Images (B, 3, 299, 299) in [-1, 1] to pooled features (B, 2048); state-dict keys are torchvision's, as pytorch-fid's are."""

    def __init__(self):
        super().__init__()
        blocks = [inception.BasicConv2d, FIDBlockA, inception.InceptionB, FIDBlockC, inception.InceptionD, FIDBlockE]
        graph = inception.Inception3(1008, False, False, [*blocks, inception.InceptionAux], init_weights=False)
        graph.Mixed_7c = FIDBlockLast(2048)
        for name, child in graph.named_children():
            if name not in ("AuxLogits", "avgpool", "dropout", "fc"):
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.children():  # in the order of the graph
            x = block(x)
        return x.mean((2, 3))
