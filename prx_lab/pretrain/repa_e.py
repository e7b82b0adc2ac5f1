"""Trains lab-vae-repa-e: lab-vae, tuned end to end with a small denoiser through alignment (REPA-E, arXiv 2504.10483)."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from prx_lab.data.batch import Text
from prx_lab.data.store import cache_root
from prx_lab.flow import draw
from prx_lab.pretrain import common, vae
from prx_lab.pretrain.vae_report import store
from prx_lab.recipes import BASE
from prx_lab.scales import SCALES
from prx_lab.steps.repa_e import JointStep, LatentNorm
from prx_lab.teachers import load_vision
from prx_lab.terms import REPA
from prx_lab.train import Learner

SETUP = vae.Setup(channels=16, start="lab-vae", teacher="lab-dino-dense", align=1.5, lr=5e-4, rest=5e-4)
HOW = (
    "Each step also trains an unconditional denoiser (width 128, 4 blocks) on the latents, normalised by running statistics. Of its losses "
    f"only the alignment to the patch tokens of {SETUP.teacher} (weight {SETUP.align:g}) reaches the autoencoder. No discriminator."
)
DENOISER = replace(SCALES["cpu"], width=128, depth=4, heads=4)


def objective(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstruction loss of images (B, 3, H, W), with its KL, and the sampled latents that it was computed from."""
    posterior = network.encode(x).latent_dist
    z = posterior.sample().float()
    error = network.decode(z).sample.float() - x
    kl = posterior.kl().float().mean() / z[0].numel()
    return error.abs().mean() + SETUP.squared * error.pow(2).mean() + SETUP.kl * kl, z


def joint(net: nn.Module, corpus: vae.Corpus, seed: int) -> Callable[[int, float], dict[str, float]]:
    """The joint step on fresh batches, as a function of (step, rate factor); the denoiser is unconditional."""
    teacher = load_vision(SETUP.teacher)
    recipe = BASE.but(scale=DENOISER).plus(REPA(teacher=SETUP.teacher))
    torch.manual_seed(seed)
    learner = Learner(recipe, SETUP.channels, 8, 8, {SETUP.teacher: teacher.width})
    norm = LatentNorm(SETUP.channels)
    with torch.no_grad():
        for _ in range(50):  # start from the data's statistics, as REPA-E does
            norm(net.encode(corpus.batch()).latent_dist.mean)

    pair = [torch.optim.AdamW(m.parameters(), SETUP.rest, (0.9, 0.99)) for m in (net, learner)]
    step, rates = JointStep(net, learner, norm, objective, *pair, align=SETUP.align), (SETUP.rest, 2e-3)
    empty = Text(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))

    def update(i: int, factor: float) -> dict[str, float]:
        for optimizer, rate in zip(pair, rates):
            optimizer.param_groups[0]["lr"] = rate * factor
        x = corpus.batch()
        text = Text(empty.tokens.expand(len(x), -1, -1), empty.mask.expand(len(x), -1), empty.null, empty.null_mask)
        variates = draw((seed, i, 0, 0), (len(x), SETUP.channels, 8, 8), 64, recipe.time, recipe.drop)
        with torch.autocast("cpu", torch.bfloat16):
            return step(x, text, {SETUP.teacher: teacher.tokens(x, 8).float()}, variates)

    return update


def run(name: str, minutes: float, seed: int, root: Path) -> Path:
    """Tune for `minutes` of wall time on one CPU thread, the rate falling to zero; measure and store under `root`."""
    torch.manual_seed(seed)
    net = vae.network(SETUP.channels, SETUP.widths)
    vae.warm_start(net, SETUP.start)
    corpus = vae.Corpus(SETUP, seed)
    update, average = joint(net, corpus, seed), common.Averaged(net, SETUP.ema)
    cpu, step, seconds = time.process_time(), 0, 0.0
    for step, seconds in vae.clock(minutes, cache_root() / "pretrain" / f"{name}.safetensors", average):
        losses = update(step, common.cosine(seconds / (60 * minutes)))
        average.update(net)
        if step % 100 == 0:
            tqdm.write(f"step {step} {seconds:.0f} s " + " ".join(f"{k} {v:.4f}" for k, v in losses.items()))
    net.load_state_dict(average.state)
    spent = {"minutes": seconds / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
    done = {"steps": step + 1, "images": (step + 1) * SETUP.batch} | spent
    mix = ", ".join(f"{share:.0%} {level} {style}" for level, style, share in vae.MIX)
    training = asdict(SETUP) | done | {"seed": seed, "size": vae.SIZE, "mix": mix, "half": 0.0, "joint": HOW}
    return store(name, net.eval(), training, vae.MIX, corpus.sample(vae.LATENTS), root)
