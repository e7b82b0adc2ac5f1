"""Trains the embedded autoencoders: KL-regularised (arXiv 2112.10752), scale-equivariant (2502.14831), one aligned (2501.01423)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from prx_lab import progress, zoo
from prx_lab.data.scenes import Scenes
from prx_lab.data.store import cache_root, images_of, to_float
from prx_lab.errors import LabError, nearest
from prx_lab.pretrain import common
from prx_lab.pretrain.vae_report import store

SIZE = 64
LATENTS = 2000  # training scenes whose latents set the space's shift and scale
Objective = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Setup:
    """What one autoencoder is and how it is trained; weights multiply means over pixels or latent elements."""

    channels: int
    start: str = ""  # an embedded autoencoder whose matching weights it starts from
    teacher: str = ""  # a vision teacher to whose patch tokens the latents are aligned
    align: float = 0.0
    widths: tuple[int, ...] = (16, 32, 64, 64)
    kl: float = 1e-3  # per latent element: 1e-6 of the sum over a 64-pixel image's 1024 elements
    squared: float = 4.0
    half: float = 0.25  # share of the batch whose pooled latents must decode to the pooled image
    batch: int = 16
    lr: float = 0.02  # Muon's, for the convolutions inside: about 2 dB ahead of AdamW at 2e-3 after 120 steps
    rest: float = 2e-3  # Adam's, for biases, norms, and the convolutions that touch pixels
    decay: float = 0.01
    ema: float = 0.999
    photos: float = 0.2  # share of photographs' crops in a batch; the rest are scenes
    scenes: int = 6000


SETUPS = {
    "lab-vae": Setup(channels=16),
    "lab-vae-semantic": Setup(channels=32, start="lab-vae", teacher="lab-dino-dense", align=0.1, lr=0.012, rest=1.2e-3),
}
# level, style, share of the scenes
MIX = (("simple", "render", 0.45), ("standard", "render", 0.30), ("full", "render", 0.15), ("standard", "photo", 0.10))


def network(channels: int, widths: tuple[int, ...]) -> nn.Module:
    """A small diffusers AutoencoderKL: stride 8, no attention, so any size that is a multiple of 8 will do."""
    from diffusers import AutoencoderKL

    net = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with torch.no_grad():  # begin with little noise: sigma = e^-2, or the decoder first learns to ignore z
        net.encoder.conv_out.bias[channels:].fill_(-4.0)
    return net


def warm_start(net: nn.Module, name: str) -> None:
    """Copy the weights of an embedded autoencoder wherever the shapes agree."""
    state, _ = zoo.load(name)
    own = net.state_dict()
    net.load_state_dict({k: state[k] if k in state and state[k].shape == v.shape else v for k, v in own.items()})


class Corpus:
    """Scenes from disk and fresh crops of photographs, mixed into batches."""

    def __init__(self, setup: Setup, seed: int):
        self.scenes = [images_of(Scenes(lv, st, 1 << 20), round(setup.scenes * share), SIZE) for lv, st, share in MIX]
        self.photos = common.photographs(common.TRAIN_PHOTOS)
        self.real = round(setup.batch * setup.photos)
        self.rest = setup.batch - self.real
        self.rng = np.random.default_rng(seed)

    def batch(self) -> Tensor:
        """One batch (B, 3, 64, 64) in [-1, 1]: scenes, half of them mirrored, and jittered crops, in random order."""
        rng = self.rng
        kinds = rng.choice(len(MIX), self.rest, p=[share for *_, share in MIX])
        rows = np.stack([self.scenes[k][rng.integers(len(self.scenes[k]))] for k in kinds])
        flip = torch.from_numpy(rng.uniform(size=(self.rest, 1, 1, 1)) < 0.5)
        scenes = to_float(rows).contiguous()
        scenes = torch.where(flip, scenes.flip(3), scenes)
        cuts = [common.jitter(common.crop(self.photos[rng.integers(len(self.photos))], SIZE, rng), rng) for _ in range(self.real)]
        images = torch.cat([scenes, *(2 * c[None] - 1 for c in cuts)])
        return images[torch.from_numpy(rng.permutation(len(images)))]

    def sample(self, n: int) -> Tensor:
        """About n scenes in the proportions of the mix, unmirrored, no photographs: what a denoiser will be trained on."""
        return torch.cat([to_float(s[: round(n * share)]).contiguous() for s, (*_, share) in zip(self.scenes, MIX, strict=True)])


def reconstruction(net: nn.Module, x: Tensor, setup: Setup) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, posterior means (B, C, h, w) and parts; the first share `half` of the batch decodes from pooled latents."""
    posterior = net.encode(x).latent_dist
    z = posterior.sample().float()
    n = round(len(x) * setup.half)
    # A latent space that commutes with rescaling has no detail at high frequency that a denoiser would have to guess.
    errors = [net.decode(z[n:]).sample.float() - x[n:]]
    if n:
        errors.append(net.decode(F.avg_pool2d(z[:n], 2)).sample.float() - F.avg_pool2d(x[:n], 2))
    share = [1 - n / len(x), n / len(x)]
    absolute = sum(s * e.abs().mean() for s, e in zip(share, errors, strict=False))
    squared = sum(s * e.pow(2).mean() for s, e in zip(share, errors, strict=False))
    kl = posterior.kl().float().mean() / z[0].numel()
    loss = absolute + setup.squared * squared + setup.kl * kl
    return loss, posterior.mean.float(), {"l1": absolute, "mse": squared, "kl": kl}


class Aligner(nn.Module):
    """Cosine of linearly projected latents with a frozen teacher's patch tokens; the projector is thrown away afterwards."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.project = nn.Linear(channels, width)

    def forward(self, means: Tensor, target: Tensor) -> Tensor:
        """Means (B, C, g, g) and tokens (B, g * g, E) -> mean of 1 - cosine."""
        return 1 - F.cosine_similarity(self.project(means.flatten(2).transpose(1, 2)), target, dim=-1).mean()


def plain(net: nn.Module, setup: Setup) -> tuple[nn.Module, Objective]:
    """All that is trained, and its loss: reconstruction and KL."""
    return nn.ModuleList([net]), lambda x: reconstruction(net, x, setup)[0::2]


def aligned(net: nn.Module, setup: Setup) -> tuple[nn.Module, Objective]:
    """As `plain`, and the latents' alignment to a vision teacher (VA-VAE's idea, arXiv 2501.01423)."""
    from prx_lab.teachers import load_vision

    teacher = load_vision(setup.teacher)
    aligner = Aligner(setup.channels, teacher.width)

    def objective(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, means, parts = reconstruction(net, x, setup)
        with torch.no_grad():
            target = teacher.tokens(x, means.shape[-1]).float()
        far = aligner(means, target)
        return loss + setup.align * far, parts | {"align": far}

    return nn.ModuleList([net, aligner]), objective


class ConvMuon(torch.optim.Optimizer):
    """Muon on convolutions seen as matrices; muon-optimizer's own class with auxiliary Adam takes matrices only."""

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update: momentum 0.95, Newton-Schulz, decoupled decay."""
        from muon import muon_update

        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                update = muon_update(p.grad, self.state[p]["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(p.shape), alpha=-group["lr"])


def optimisers(modules: nn.Module, setup: Setup) -> list[torch.optim.Optimizer]:
    """Muon on convolutions between features, AdamW on everything else."""
    inner = {id(m.weight) for m in modules.modules() if isinstance(m, nn.Conv2d) and min(m.in_channels, m.out_channels) > 3}
    hidden = [p for p in modules.parameters() if id(p) in inner]
    others = [p for p in modules.parameters() if id(p) not in inner]
    adam = torch.optim.AdamW(others, lr=setup.rest, betas=(0.9, 0.99), weight_decay=setup.decay)
    return [ConvMuon(hidden, setup.lr, setup.decay), adam]


def train(net: nn.Module, setup: Setup, minutes: float, corpus: Corpus, checkpoint: Path) -> dict:
    """Train `net` for `minutes` of wall time, the rate falling to zero; leaves the averaged weights in it and tells what was done."""
    modules, objective = (aligned if setup.teacher else plain)(net, setup)
    pair, rates = optimisers(modules, setup), (setup.lr, setup.rest)
    average = common.Averaged(net, setup.ema)
    cpu, step, seconds = time.process_time(), 0, 0.0
    for step, seconds in clock(minutes, checkpoint, average):
        for optimiser, rate in zip(pair, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * common.cosine(seconds / (60 * minutes))
            optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss, parts = objective(corpus.batch())
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for optimiser in pair:
            optimiser.step()
        average.update(net)
        if step % 100 == 0:
            told = " ".join(f"{k} {v.item():.4f}" for k, v in parts.items())
            tqdm.write(f"step {step} {seconds:.0f} s {step * setup.batch / max(seconds, 1):.1f} images/s loss {loss.item():.4f} {told}")
    net.load_state_dict(average.state)
    spent = {"minutes": seconds / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
    return {"steps": step + 1, "images": (step + 1) * setup.batch} | spent


def clock(minutes: float, checkpoint: Path, average: common.Averaged, every: float = 180.0) -> Iterator[tuple[int, float]]:
    """Step number and seconds gone until `minutes` are over; keeps the averaged weights on disk every few minutes."""
    start, saved, step = time.monotonic(), 0.0, 0
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with progress.bar(total=round(60 * minutes), unit="s") as bar:
        while (gone := time.monotonic() - start) < 60 * minutes:
            yield step, gone
            step += 1
            bar.update(int(gone) - bar.n)
            if gone - saved > every:
                save_file(average.state, checkpoint)
                saved = gone


def run(name: str, minutes: float, seed: int, root: Path) -> Path:
    """Train the autoencoder `name` for `minutes` on one core's worth of threads, measure it, and store it under `root`.

    LabError for a name that is not in SETUPS.
    """
    if name not in SETUPS:
        raise LabError(f"No training is known for an autoencoder '{name}'.{nearest(name, SETUPS)} Known: {', '.join(SETUPS)}.")
    setup = SETUPS[name]
    torch.manual_seed(seed)
    net = network(setup.channels, setup.widths)
    if setup.start:
        warm_start(net, setup.start)
    corpus = Corpus(setup, seed)
    done = train(net, setup, minutes, corpus, cache_root() / "pretrain" / f"{name}.safetensors")
    mix = ", ".join(f"{share:.0%} {level} {style}" for level, style, share in MIX)
    training = asdict(setup) | done | {"seed": seed, "size": SIZE, "mix": mix}
    return store(name, net.eval(), training, MIX, corpus.sample(LATENTS), root)
