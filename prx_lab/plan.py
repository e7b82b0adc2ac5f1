"""What PRX's own 24-hour run would take with this code: computed operations over the speed of one GPU, measured or assumed.

The run is that of the third post (Photoroom, 2026): 32 H200, pixels, 512 and then 1024 pixels a side, half of the tokens routed,
REPA in the first stage, perceptual losses, Muon. Each number says whether it is published, computed, measured or assumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prx_lab.cost import Dims, dims, flop, on_meta, step_flops
from prx_lab.muon import Muon
from prx_lab.optim import EMA, AdamW, Schedule
from prx_lab.recipe import Recipe
from prx_lab.recipes import JIT
from prx_lab.report.listing import Listing
from prx_lab.report.speed import Record
from prx_lab.routing import TREAD
from prx_lab.scales import PRX_256
from prx_lab.terms import REPA

GPUS, HOURS, PRICE = 32, 24.0, 2.0  # the post's GPUs, its hours, and dollars an hour of one of them
PEAK = 989e12  # operations a second of an H200 in bf16: NVIDIA's datasheet gives 1,979e12 with sparsity, half of it without
FRACTIONS = (0.2, 0.3, 0.4, 0.5)
LONG = replace(PRX_256, name="prx-512", size=512, images=8_700_000, steps=100_000, batch=1024)
FINISH = JIT.but(
    scale=replace(LONG, name="prx-1024", size=1024, grid=32, steps=20_000, batch=512),
    bottleneck=256, text="t5gemma-2b", text_tokens=256, router=TREAD(), clip=0.2, schedule=Schedule(warmup=0.01, final=1.0),
    optim=Muon(qkv="fused", adaln="muon", aux=AdamW(betas=(0.9, 0.95), eps=1e-8)), ema=EMA(0.999),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A part of the run: its recipe, and the frozen networks that see each of its images, with how often."""

    name: str
    recipe: Recipe
    frozen: tuple[tuple[str, int, int], ...]  # network, pixels a side, forward passes or as much work

    @property
    def images(self) -> int:
        """Images that its steps see, each as often as it is seen."""
        return self.recipe.scale.steps * self.recipe.scale.batch

    @cached_property
    def network(self) -> int:
        """Operations of a training step for one image: the network and REPA's projector, forward and backward."""
        return step_flops(self.recipe, dims(self.recipe))

    @cached_property
    def watchers(self) -> int:
        """Operations of the frozen networks for one image."""
        return sum(times * forward(name, side) for name, side, times in self.frozen)

    @cached_property
    def optimiser(self) -> int:
        """Operations of Muon's iterations in one step; whole, as sharded processes do them once between them."""
        return newton_flops(self.recipe, dims(self.recipe))

    @property
    def total(self) -> int:
        """Operations of the stage."""
        return self.images * (self.network + self.watchers) + self.recipe.scale.steps * self.optimiser


# A loss between two images runs its network on both, and backward to one of them: the work of three passes. LPIPS sees images at
# half size and P-DINO at 224 pixels, as the release has them.
EYES = (("VGG-16", 256, 3), ("DINOv2-B", 224, 3))
LARGE_EYES = (("VGG-16", 512, 3), ("DINOv2-B", 224, 3))
SPEEDRUN = (
    Stage("512 pixels", FINISH.but(scale=LONG).plus(REPA(teacher="dinov3-l")), (*EYES, ("DINOv3-L", 256, 1))),
    Stage("1024 pixels", FINISH, LARGE_EYES),
)


# -------------------------------------------------------------------------------------------------- operations
def vgg() -> nn.Module:
    """The convolutions of VGG-16, untrained: its shapes alone are asked for."""
    from torchvision.models import vgg16

    return vgg16().features


def vit(name: str, side: int) -> nn.Module:
    """timm's vision transformer of that name for images of `side` pixels, untrained and without a classifier."""
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, img_size=side)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "VGG-16": lambda side: vgg(),
    "DINOv2-B": lambda side: vit("vit_base_patch14_reg4_dinov2", side),
    "DINOv3-L": lambda side: vit("vit_large_patch16_dinov3", side),
}


@lru_cache(maxsize=8)
def forward(name: str, side: int) -> int:
    """Operations of a frozen network's forward pass for one image, as PyTorch counts them on its shapes."""
    with torch.device("meta"):
        network, image = NETWORKS[name](side).eval(), torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops()


@lru_cache(maxsize=8)
def reading(tokens: int = 256) -> int:
    """Operations of the text encoder, T5Gemma-2B, for a caption of that many tokens: its matrices alone."""
    from transformers import T5GemmaConfig, T5GemmaEncoderModel

    config = T5GemmaConfig()  # the class's own defaults are the 2B model's
    config.is_encoder_decoder = False
    with torch.device("meta"):
        network = T5GemmaEncoderModel(config)
    return 2 * tokens * sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name)


def newton_flops(recipe: Recipe, shapes: Dims) -> int:
    """Operations of Muon's Newton-Schulz iterations in one step: X X^T, its square, and a product with X; 0 under another optimiser."""
    if not isinstance(recipe.optim, Muon):
        return 0
    learner, total = on_meta(recipe, shapes), 0
    sizes = {name: p.shape for name, p in learner.named_parameters()}
    for name, maps in recipe.optim.partition(learner)[0].items():
        rows, n = sizes[name]
        small, large = sorted((rows // maps, n))
        total += maps * recipe.optim.ns_steps * (4 * small**2 * large + 2 * small**3)
    return total


# -------------------------------------------------------------------------------------------------------- speed
@dataclass(frozen=True)
class Rate:
    """Operations a second of one GPU in such a run, and where that number is from."""

    flops: float
    source: str


def assumed(fractions: Sequence[float] = FRACTIONS, peak: float = PEAK) -> tuple[Rate, ...]:
    """Shares of the datasheet's peak."""
    return tuple(Rate(share * peak, f"assumed: {share:.0%} of the peak") for share in fractions)


def measured(found: Mapping[str, Record]) -> tuple[Rate, ...]:
    """The compiled bf16 step's speed in the records of a GPU's benchmarks; nothing where there are none."""
    record = found.get("ceiling")
    facts = {} if record is None or record.machine["device"].partition(":")[0] == "cpu" else record.facts
    wanted = [values for group, values in facts.items() if group.endswith("step, bf16, compiled")]
    return tuple(Rate(1e9 * v["GFLOP/s"], f"measured: a step on one {record.machine['device_name']}") for v in wanted)


def hours(total: int, rate: Rate, gpus: int = GPUS) -> float:
    """Hours on `gpus` GPUs, each as fast as one alone."""
    return total / rate.flops / gpus / 3600


# ------------------------------------------------------------------------------------------------------- tables
def operations(stages: Sequence[Stage] = SPEEDRUN) -> Listing:
    """What is computed in each stage."""
    head = ("stage", "images", "network", "frozen networks", "Muon", "stage in all")
    rows = [
        (s.name, f"{s.images / 1e6:.1f} M", f"{flop(s.network)} an image", f"{flop(s.watchers)} an image",
         f"{flop(s.optimiser)} a step", flop(s.total)) for s in stages
    ]  # fmt: skip
    notes = (
        "Computed from shapes. Not in it: data, evaluation, communication.",
        f"Nor the text encoder: captions are read once and kept. To read them in every step is {flop(reading())} an image more.",
    )
    return Listing(head, tuple(rows), head[1:], notes)


def table(rates: Sequence[Rate], stages: Sequence[Stage] = SPEEDRUN) -> Listing:
    """Hours of each stage on as many GPUs as the post had, at each rate, beside the published time."""
    head = ("speed of one GPU", "TFLOP/s", *(s.name for s in stages), f"hours on {GPUS} GPUs", "GPU-hours", "$")
    rows = []
    for rate in rates:
        parts = [hours(s.total, rate) for s in stages]
        cells = [f"{h:.1f}" for h in (*parts, sum(parts))]
        rows.append((rate.source, f"{rate.flops / 1e12:,.0f}", *cells, *spent(sum(parts))))
    implied = implied_speed(stages)
    unknown = ("",) * len(stages)
    rows.append(("published: as trained by its authors", f"{implied / 1e12:,.0f}", *unknown, f"{HOURS:.1f}", *spent(HOURS)))
    notes = (
        f"Computed, not measured, except for a speed that is said to be; {GPUS} GPUs are taken to be {GPUS} times as fast as one.",
        f"The published time is of another code. By the operations counted here it is {implied / PEAK:.0%} of the datasheet's peak.",
        f"$ at {PRICE:g} an hour of a GPU, the post's price.",
    )
    return Listing(head, tuple(rows), head[1:], notes)


def spent(wall: float) -> tuple[str, str]:
    """GPU-hours and dollars of that many hours."""
    return f"{wall * GPUS:,.0f}", f"{wall * GPUS * PRICE:,.0f}"


def implied_speed(stages: Sequence[Stage] = SPEEDRUN) -> float:
    """Operations a second of one GPU that the published time stands for."""
    return sum(s.total for s in stages) / (HOURS * 3600 * GPUS)
