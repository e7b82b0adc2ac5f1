"""The table of contents: BASE and every ablation, one line each."""

from dataclasses import dataclass

from prx_lab.errors import LabError, nearest
from prx_lab.flow import LogitNormal, Uniform
from prx_lab.guidance import PathDrop, SelfGuidance, SparseGuidance
from prx_lab.muon import Muon
from prx_lab.optim import EMA, AdamW, Schedule
from prx_lab.precision import Precision
from prx_lab.recipe import Recipe, Reference
from prx_lab.routing import TREAD, Dense
from prx_lab.sample import CFG
from prx_lab.scales import PRX_256, SCALES
from prx_lab.sprint import SPRINT
from prx_lab.steps import GuidanceDistillation, ProgressiveDistillation
from prx_lab.terms import IREPA, LPIPS, REPA, PerceptualDINO
from prx_lab.terms.contrastive import Contrastive, Corrected
from prx_lab.terms.haste import AttentionAlignment

BASE = Recipe(scale=SCALES["smoke"])
GUIDED = BASE.but(rule=GuidanceDistillation(BASE.guidance), guidance=CFG(1.0))  # phases of a distillation
SIXTEEN = GUIDED.but(rule=ProgressiveDistillation(16), time=Uniform())
EIGHT = GUIDED.but(rule=ProgressiveDistillation(8), time=Uniform())
FASTER = BASE.but(optim=AdamW(lr_scale=2.0))
JIT = BASE.but(space="pixels", predict="x", bottleneck=32, time=LogitNormal(mean=0.8, std=0.8, uniform=0.0))
JIT_MUON = JIT.but(optim=Muon(lr_scale=8.0))
SHORT, CAMERA, POLISHED = Reference(captions="short"), Reference(style="photo"), Reference(style="polished")
UNSEEN = Reference(split="heldout")
MIXED = BASE.then(0.8, BASE.but(captions="mixed"))
SFT = BASE.then(0.85, BASE.but(style="polished", subset=1 / 64))


def stacked(finish: Recipe) -> Recipe:
    """Half of the tokens and a teacher for five sixths of the run, then `finish`: the shares of PRX's 24-hour run."""
    return finish.but(router=TREAD()).plus(REPA(teacher="lab-dino-dense")).then(5 / 6, finish)


SPEEDRUN = stacked(BASE.but(optim=Muon(), ema=EMA(0.999)))
TUNED = SPEEDRUN.but(router=Dense(), optim=Muon(lr_scale=8.0))

RECIPES: dict[str, Recipe] = {
    "baseline": BASE,
    # alignment
    "repa": BASE.plus(REPA(teacher="lab-dino")),
    "repa-dense": BASE.plus(REPA(teacher="lab-dino-dense")),
    "irepa": BASE.plus(IREPA(teacher="lab-dino")),
    "irepa-dense": BASE.plus(IREPA(teacher="lab-dino-dense")),
    "repa-stop": BASE.plus(REPA(teacher="lab-dino-dense")).then(0.6, BASE),
    "haste": BASE.plus(REPA(teacher="lab-dino-dense"), AttentionAlignment(teacher="lab-dino-dense")).then(0.6, BASE),
    "repa-light": BASE.plus(REPA(teacher="lab-dino-dense", weight=0.25)),
    "repa-heavy": BASE.plus(REPA(teacher="lab-dino-dense", weight=1.0)),
    "repa-early": BASE.plus(REPA(teacher="lab-dino-dense", depth=0.25)),
    "repa-late": BASE.plus(REPA(teacher="lab-dino-dense", depth=0.75)),
    "irepa-uncentred": BASE.plus(IREPA(gamma=0.0)),
    "irepa-release": BASE.plus(IREPA(gamma=0.0, projector="attention")),  # PRX's code, which in effect removes no mean token
    # latent spaces
    "repa-e": BASE.but(space="lab-vae-repa-e").plus(REPA(teacher="lab-dino")),
    "repa-e-vae": BASE.but(space="lab-vae-repa-e"),
    "flux2": BASE.but(space="lab-vae-semantic"),
    # objectives
    "x-pred": BASE.but(predict="x"),
    "contrastive": BASE.plus(Contrastive()),
    "contrastive-roll": BASE.plus(Contrastive(negatives="roll")),
    "contrastive-corrected": BASE.plus(Contrastive()).but(guidance=Corrected()),
    "contrastive-heavy": BASE.plus(Contrastive(weight=0.2)),
    "x-lpips": BASE.but(predict="x").plus(LPIPS(space=BASE.space)),
    "x-pdino": BASE.but(predict="x").plus(PerceptualDINO(space=BASE.space)),
    "jit": JIT,
    "jit-lpips": JIT.plus(LPIPS()),
    "jit-pdino": JIT.plus(PerceptualDINO()),
    "jit-v": JIT.but(predict="v"),
    "jit-no-bottleneck": JIT.but(bottleneck=0),
    "jit-v-no-bottleneck": JIT.but(predict="v", bottleneck=0),  # sees all the noise that its width can carry
    "jit-prx": JIT.but(time=LogitNormal(shift=3.0), shift=3.0),
    # routing
    "tread": BASE.but(router=TREAD()),
    "tread-repa": BASE.but(router=TREAD()).plus(REPA()),
    "tread-repa-outside": BASE.but(router=TREAD()).plus(REPA(depth=0.125)),
    "tread-self-guided": BASE.but(router=TREAD(), guidance=SelfGuidance()),
    "tread-sparse": BASE.but(router=TREAD(), guidance=SparseGuidance()),
    "no-guidance": BASE.but(guidance=CFG(1.0)),  # what guidance itself does to each column
    "half-guidance": BASE.but(guidance=CFG(1.5)),
    "tread-half-guidance": BASE.but(router=TREAD(), guidance=CFG(1.5)),  # SparseGuidance's scale without its guide
    "tread-light": BASE.but(router=TREAD(rate=0.75)),
    "tread-short": BASE.but(router=TREAD(start=0.25, end=0.75)),
    "sprint": BASE.but(router=SPRINT()).then(0.9, BASE.but(router=SPRINT(rate=1.0))),
    "sprint-raw": BASE.but(router=SPRINT()),
    "sprint-path-drop": BASE.but(router=SPRINT(), guidance=PathDrop()).then(0.9, BASE.but(router=SPRINT(rate=1.0), guidance=PathDrop())),
    "jit-tread": JIT.but(router=TREAD()),
    "jit-tread-sparse": JIT.but(router=TREAD(), guidance=SparseGuidance()),
    "jit-tread-half-guidance": JIT.but(router=TREAD(), guidance=CFG(1.5)),
    "jit-tread-light": JIT.but(router=TREAD(rate=0.75)),
    "jit-tread-short": JIT.but(router=TREAD(start=0.25, end=0.75)),
    "jit-tread-light-sparse": JIT.but(router=TREAD(rate=0.75), guidance=SparseGuidance()),
    "jit-tread-short-sparse": JIT.but(router=TREAD(start=0.25, end=0.75), guidance=SparseGuidance()),
    "jit-sprint": JIT.but(router=SPRINT()).then(0.9, JIT.but(router=SPRINT(rate=1.0))),
    "jit-muon": JIT_MUON,  # follows its captions where `jit` does not yet: at 1024 tokens
    "jit-muon-tread": JIT_MUON.but(router=TREAD()),
    "jit-muon-tread-sparse": JIT_MUON.but(router=TREAD(), guidance=SparseGuidance()),
    "jit-muon-tread-half-guidance": JIT_MUON.but(router=TREAD(), guidance=CFG(1.5)),
    "jit-muon-sprint": JIT_MUON.but(router=SPRINT()).then(0.9, JIT_MUON.but(router=SPRINT(rate=1.0))),
    # data
    "short-captions": BASE.but(captions="short"),
    "short-captions-short-prompts": BASE.but(captions="short", reference=SHORT),
    "long-short-prompts": BASE.but(reference=SHORT),
    "mixed-finish": MIXED,
    "mixed-finish-short-prompts": MIXED.but(reference=SHORT),
    "mixed-captions": BASE.but(captions="mixed"),
    "mixed-captions-short-prompts": BASE.but(captions="mixed", reference=SHORT),
    "camera": BASE.but(style="photo", reference=CAMERA),
    "render-on-camera": BASE.but(reference=CAMERA),
    "sft": SFT,
    "sft-unselected": BASE.then(0.85, BASE.but(subset=1 / 64)),
    "sft-on-polished": SFT.but(reference=POLISHED),
    "baseline-on-polished": BASE.but(reference=POLISHED),
    # attribute pairs that no training image shows
    "baseline-on-heldout": BASE.but(reference=UNSEEN),
    "repa-on-heldout": BASE.plus(REPA(teacher="lab-dino")).but(reference=UNSEEN),
    "muon-on-heldout": BASE.but(optim=Muon(), reference=UNSEEN),
    "speedrun-tuned-on-heldout": TUNED.but(reference=UNSEEN),
    # optimisation
    "muon": BASE.but(optim=Muon()),
    "muon-fused": BASE.but(optim=Muon(qkv="fused", adaln="muon", aux=AdamW(eps=1e-8))),
    "muon-low-lr": BASE.but(optim=Muon(lr_scale=0.5)),
    "muon-high-lr": BASE.but(optim=Muon(lr_scale=2.0)),
    "muon-higher-lr": BASE.but(optim=Muon(lr_scale=4.0)),
    "muon-highest-lr": BASE.but(optim=Muon(lr_scale=8.0)),
    "muon-16-lr": BASE.but(optim=Muon(lr_scale=16.0)),  # beyond the rates that were tried first
    "low-lr": BASE.but(optim=AdamW(lr_scale=0.5)),
    "high-lr": FASTER,
    "higher-lr": BASE.but(optim=AdamW(lr_scale=4.0)),
    "highest-lr": BASE.but(optim=AdamW(lr_scale=8.0)),
    "repa-high-lr": FASTER.plus(REPA(teacher="lab-dino")),  # does a verdict hold beside a baseline with a better rate?
    "x-pred-high-lr": FASTER.but(predict="x"),
    "tread-high-lr": FASTER.but(router=TREAD()),
    "bf16": BASE.but(precision=Precision("bf16", "bf16")),
    "fp32": BASE.but(precision=Precision("fp32", "fp32")),
    "ema": BASE.but(ema=EMA(0.999)),
    "constant": BASE.but(schedule=Schedule(final=1.0)),
    "constant-ema": BASE.but(schedule=Schedule(final=1.0), ema=EMA(0.999)),
    # stacked, and distilled
    "speedrun": SPEEDRUN,
    "speedrun-no-repa": SPEEDRUN.but(terms=BASE.terms),
    "speedrun-no-tread": SPEEDRUN.but(router=Dense()),
    "speedrun-no-muon": SPEEDRUN.but(optim=AdamW()),
    "speedrun-no-ema": SPEEDRUN.but(ema=EMA()),
    "speedrun-no-finish": SPEEDRUN.but(phases=()),
    "speedrun-tuned": TUNED,  # what the rows above and the search of rates advise
    "speedrun-tuned-both": SPEEDRUN.but(router=Dense(), optim=Muon(lr_scale=8.0, aux=AdamW(lr_scale=4.0))),
    "speedrun-tuned-no-repa": TUNED.but(terms=BASE.terms),
    "speedrun-tuned-no-muon": TUNED.but(optim=AdamW(lr_scale=4.0)),  # AdamW at the best of its recorded rates
    "speedrun-tuned-no-ema": TUNED.but(ema=EMA()),
    "speedrun-tuned-no-finish": TUNED.but(phases=()),
    "speedrun-pixels": stacked(JIT.but(optim=Muon(), ema=EMA(0.999)).plus(LPIPS(until=1.0), PerceptualDINO(until=1.0))),
    "distilled": BASE.then(0.6, GUIDED).then(0.8, EIGHT),  # the baseline, its guidance, then two steps in one
    "distilled-32": BASE.then(0.6, GUIDED).then(0.75, SIXTEEN).then(0.875, EIGHT),  # 32 steps to 16 to 8
    "twenty-eight-steps": BASE.but(sampler_steps=28),  # what the released pipeline takes
    "eight-steps": BASE.but(sampler_steps=8),
    "eight-steps-cfg1": BASE.but(sampler_steps=8, guidance=CFG(1.0)),
}

# What `prx-lab grid` runs under a name; a recipe in two groups has the seeds of the larger.
POST = (
    "baseline", "repa", "repa-dense", "irepa", "irepa-dense", "repa-stop", "repa-e", "repa-e-vae", "flux2", "x-pred", "contrastive",
    "jit", "jit-v", "tread", "tread-self-guided", "tread-sparse", "tread-half-guidance", "sprint", "short-captions",
    "short-captions-short-prompts", "long-short-prompts", "mixed-finish", "mixed-finish-short-prompts", "camera", "render-on-camera",
    "sft", "sft-unselected", "sft-on-polished", "baseline-on-polished", "muon", "bf16", "fp32",
)  # fmt: skip
STACKS = (
    "baseline", "speedrun", "speedrun-no-repa", "speedrun-no-tread", "speedrun-no-muon", "speedrun-no-ema", "speedrun-no-finish",
    "speedrun-tuned", "speedrun-pixels", "repa-dense", "tread", "muon", "ema",
    "distilled", "distilled-32", "twenty-eight-steps", "eight-steps", "eight-steps-cfg1",
)  # fmt: skip
FAR = ("short-captions", "jit-v", "jit-v-no-bottleneck")  # tens of times as far as the baseline: they would squeeze a figure
EQUAL = ("tread-half-guidance",)  # no technique: what another row is compared with, at its scale of guidance
GLANCE = (*(name for name in POST if name not in FAR + EQUAL), "speedrun")  # what the first page shows in one figure
MANY_TOKENS = (  # at 1024 tokens: with Muon, as AdamW's networks hardly follow their captions there yet
    "jit-muon", "jit-muon-tread", "jit-muon-tread-sparse", "jit-muon-tread-half-guidance", "jit-muon-sprint",
)  # fmt: skip
ROUTES = (
    "jit", "jit-tread", "jit-sprint", "jit-tread-sparse", "jit-tread-half-guidance", "jit-tread-light", "jit-tread-light-sparse",
    "jit-tread-short", "jit-tread-short-sparse", *MANY_TOKENS,
)  # fmt: skip
SHORT_RUNS = ("baseline", "bf16", "muon", "muon-highest-lr", "speedrun", "speedrun-no-tread", "speedrun-tuned", "speedrun-tuned-both")
LATE = (  # at a long horizon: cpu-standard
    "baseline", "repa-dense", "repa-stop", "sft", "sft-unselected", "sft-on-polished", "baseline-on-polished", "muon", "bf16", "ema",
    "speedrun-tuned",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Recipes that are run together, and with how many seeds."""

    names: tuple[str, ...]
    seeds: int = 3


GROUPS = {
    "post": Group(POST),  # every row of the post at few tokens, and what its rows are compared with
    "speedrun": Group(STACKS),
    "many-tokens": Group(MANY_TOKENS),  # cpu-1024
    "routes": Group(ROUTES, 2),  # cpu-256
    "horizon": Group(LATE, 2),
    "short": Group(SHORT_RUNS, 2),  # with the steps of a speedrun: cpu-short
    "sensitivity": Group(("baseline", *(name for name in RECIPES if name not in POST + STACKS)), 2),
}

# Published experiments at their own size, which need published networks and data.
PUBLISHED: dict[str, Recipe] = {
    # The post's table of its baseline: steps, batch, resolution, optimiser, text encoder, no average. Where a released
    # configuration says otherwise the table holds; what the table leaves open is the configuration's: warm-up over 1,000
    # steps and then a constant rate, clipping at 0.2, caption dropout, sampling.
    "prx-1.2b": Recipe(
        scale=PRX_256,
        data="brivangl/midjourney-v6-llava#llava",  # its long captions; the column `prompt` has what users typed
        space="flux",
        text="t5gemma-2b",
        cleaning="full",
        text_tokens=256,
        time=LogitNormal(uniform=0.1),
        optim=AdamW(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0),
        schedule=Schedule(warmup=0.01, final=1.0),
        precision=Precision("fp32", "bf16"),
        drop=0.1,
        clip=0.2,
        guidance=CFG(3.5),
        shift=1.0,
    ),
}


def recipe(name: str, scale: str = "") -> Recipe:
    """The recipe of that name at a scale, or at its own: smoke for an ablation, the published one for a published experiment.

    LabError for an unknown name.
    """
    known = RECIPES | PUBLISHED
    if name not in known:
        raise LabError(f"Unknown recipe '{name}'.{nearest(name, known)} `prx-lab recipes` lists them all.")
    return known[name].at(scale) if scale else known[name]
