"""The Inception-v3 of FID: the 2015-12-05 graph (arXiv 1512.00567), torchvision's but for its pooling branches and 1008 classes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import inception

from prx_lab.errors import LabError


def _average(x: Tensor) -> Tensor:
    """3 x 3 mean that leaves the padding out, unlike torchvision's."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(inception.InceptionA):
    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1)


class _C(inception.InceptionC):
    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class _E(inception.InceptionE):
    def pool(self, x: Tensor) -> Tensor:
        return _average(x)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                *(self.branch3x3_2a(single), self.branch3x3_2b(single)),
                *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
                self.branch_pool(self.pool(x)),
            ],
            1,
        )


class _LastE(_E):
    """The graph's last block takes a maximum where the others average."""

    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class FIDInception(nn.Module):
    """Images (B, 3, 299, 299) in [-1, 1] to the 2048 features before the classifier, (B, 2048), float32."""

    def __init__(self):
        super().__init__()
        net = inception.Inception3(
            num_classes=1008,
            aux_logits=False,
            inception_blocks=[
                inception.BasicConv2d, _A, inception.InceptionB, _C, inception.InceptionD, _E, inception.InceptionAux
            ],
            init_weights=False,
        )
        net.Mixed_7c = _LastE(2048)
        net.fc = nn.Identity()
        net.dropout = nn.Identity()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def load_inception(folder: str | Path) -> FIDInception:
    """The network with the weights in `folder`/model.safetensors, keyed as in pytorch-fid's conversion; LabError when they do not fit."""
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise LabError(
            f"FID with inception-v3 needs the weights of the 2015-12-05 graph in {path}: convert pytorch-fid's published "
            "file to safetensors once, or use the embedded 'lab-inception'."
        )
    network = FIDInception()
    try:
        state = {k: v.float() for k, v in load_file(path).items() if not k.startswith(("fc.", "AuxLogits."))}
        missing, unexpected = network.net.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise LabError(f"The weights in {path} are not those of FID's Inception-v3: {str(error).splitlines()[0]}") from error
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        wrong = f"{len(missing)} missing and {len(unexpected)} unknown tensors"
        raise LabError(f"The weights in {path} are not those of FID's Inception-v3: {wrong}.")
    return network
