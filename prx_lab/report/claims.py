"""The claims of the post, each held against the records: reproduced, not reproduced, undecided, or not testable here and why.

Numbers of the post come from results/published.csv. Units differ (other judges, data and sizes), so changes are compared as
shares of each side's own baseline. A verdict follows from the 95 % interval; nobody chooses it. Its noise of seeds is learnt from all
recorded trainings of the scale (`pairs.noises`), and the luck of the images is in it where that is recorded (`luck`).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.record import Record, number, records
from prx_lab.report import luck
from prx_lab.report.columns import DISTANCES, Metric, columns
from prx_lab.report.comparable import one_at_first
from prx_lab.report.evidence import Estimate
from prx_lab.report.layout import bound, counted, percent, upper
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import changed, noises, of_recipe, pair
from prx_lab.report.posts import FEW, MANY, Published, across, at, required, share

REPRODUCED, NOT, UNDECIDED, MISSING = "reproduced", "not reproduced", "undecided", "not recorded yet"
APART = f"{UNDECIDED}: recorded with other images, captions or settings of the scale than its baseline"
LONG = "cpu-standard"  # where the post has a late part of training
LARGE = 9.0  # a change beyond is told as a factor
MARGIN = 0.05  # a change within this share of the baseline is no change
EARLY = 2.0  # times the composition of chance: networks that have no more do not follow their captions yet
UNTAUGHT = f"{UNDECIDED}: captions hardly followed yet"

# What else moves a pair.
ABROAD = "the network of short captions is prompted with long ones, which it never saw; asked in its own kind it is nearer (page 40)"
DOMAINS = "both are judged on camera images, which one of them was trained on: most of the change is the gap of the two corpora (page 41)"


@dataclass(frozen=True)
class Claim:
    """One sentence of the post, and the pair of recipes that tests it; its numbers are the post's where it printed some.

    `sign` of the change is for claims in words: -1 lower, +1 higher, 0 no change beyond MARGIN. A claim that two pairs test, or one
    pair at two scales, stands there twice.
    """

    text: str
    recipe: str
    against: str = "baseline"
    metrics: tuple[str, ...] = DISTANCES
    sign: int | None = None
    scale: str = ""  # another scale than that of the table
    caveat: str = ""  # what else than the claim moves the pair, where that is known to be much


CLAIMS = (
    Claim("REPA with the stronger teacher improves quality", "repa-dense"),
    Claim("REPA with the weaker teacher improves quality", "repa"),
    Claim("the stronger teacher helps more", "repa-dense", "repa"),
    Claim("iREPA improves the weaker teacher", "irepa", "repa", ("fid",), -1),
    Claim("iREPA harms the stronger teacher", "irepa-dense", "repa-dense", ("fid",), +1),
    Claim("REPA is better switched off before the end", "repa-stop", "repa-dense", ("fid",), -1),
    Claim("REPA is better switched off before the end", "repa-stop", "repa-dense", ("fid",), -1, scale=LONG),
    Claim("a semantic autoencoder improves quality", "flux2"),
    Claim("an autoencoder trained with REPA improves quality", "repa-e"),
    Claim("the semantic autoencoder gains more than REPA in the denoiser does", "flux2", "repa-dense", ("fid",)),
    Claim("the one trained with REPA gains more than REPA in the denoiser does", "repa-e", "repa-dense", ("fid",)),
    Claim("the two autoencoders reach the same FID", "flux2", "repa-e", ("fid",), 0),
    Claim("in the other distances the semantic one is ahead", "flux2", "repa-e", ("cmmd", "dino_mmd")),
    Claim("contrastive flow matching: FID up, the others down", "contrastive"),
    Claim("x-prediction in latents: FID down, the others up", "x-pred"),
    Claim("x-prediction makes training in pixels feasible (no v-prediction was run there)", "jit", "jit-v", ("fid",), -1),
    Claim("TREAD at few tokens costs quality", "tread"),
    Claim("SPRINT at few tokens costs quality", "sprint"),
    Claim("TREAD at few tokens costs quality", "jit-tread", "jit", scale=FEW),
    Claim("SPRINT at few tokens costs quality", "jit-sprint", "jit", scale=FEW),
    Claim("SPRINT costs more than TREAD", "sprint", "tread"),
    Claim("SPRINT costs more than TREAD", "jit-sprint", "jit-tread", scale=FEW),
    Claim("cited: self-guidance beats plain guidance of equal scale (FID)", "tread-self-guided", "tread", ("fid",), -1),
    Claim("cited: sparse guidance beats plain guidance of equal scale (FID)", "tread-sparse", "tread-half-guidance", ("fid",), -1),
    Claim("TREAD at 1024 tokens improves quality", "jit-muon-tread", "jit-muon", scale=MANY),
    Claim("SPRINT at 1024 tokens improves quality", "jit-muon-sprint", "jit-muon", scale=MANY),
    Claim("TREAD at 1024 tokens is ahead of SPRINT", "jit-muon-tread", "jit-muon-sprint", scale=MANY),
    Claim("short captions harm", "short-captions", caveat=ABROAD),
    Claim("advice: finish on mixed captions for short prompts", "mixed-finish-short-prompts", "long-short-prompts", ("fid",), -1),
    Claim("camera images instead of synthetic: FID down, the others up", "camera", "render-on-camera", caveat=DOMAINS),
    Claim("a small polished set moves the style (FID to polished images)", "sft-on-polished", "baseline-on-polished", ("fid",), -1),
    Claim("a small polished set moves the style (FID to polished images)", "sft-on-polished", "baseline-on-polished", ("fid",), -1, LONG),
    Claim("a small polished set leaves the rest as it was (composition)", "sft", metrics=("composition",), sign=0),
    Claim("a small polished set leaves the rest as it was (composition)", "sft", metrics=("composition",), sign=0, scale=LONG),
    Claim("Muon improves quality", "muon"),
    Claim("Muon improves quality", "muon", scale=LONG),
    Claim("weights stored in bf16 harm", "bf16"),
    Claim("weights stored in bf16 harm", "bf16", scale=LONG),
    Claim("computing in bf16 costs no quality", "fp32", sign=0),
)

UNTESTABLE = (
    ("the weaker teacher slows training less than the stronger one", "The two embedded teachers are of one size."),
    ("autoencoders cost speed, the semantic one most", "Latents are encoded once, before training; a step pays only for their channels."),
    ("1024-pixel images without an autoencoder train, only slower than 256-pixel latents", "No scale of the bench has such images."),
    ("late in training, textures sharpen when REPA ends", "Judged by eye, far beyond the steps of a run here; another claim asks the FID."),
    (
        "camera images need longer for the same global structure",
        "No measure here is of global structure alone, and no run on camera images is longer than the others.",
    ),
    ("absolute FID, CMMD and DINO-MMD", "Other judges, images and counts; and the released code measures FID on wrapped colours."),
)


@dataclass(frozen=True)
class Finding:
    """A claim in one metric: the post's change as a share of its baseline (NaN for words), ours, and the verdict.

    `images` tells whether the luck of images is recorded and in the interval, `alone` whether the pair is one training at first and
    its noise that of its own seeds.
    """

    claim: Claim
    metric: Metric
    post: float
    ours: Estimate
    verdict: str
    images: bool
    alone: bool


def verdict(sign: int, post: float, ours: Estimate) -> str:
    """What an interval says about a claimed change: of a `sign`, and of the size `post` where that is not NaN.

    Reproduced: the interval lies on the claimed side of zero. Not reproduced: it lies on the other side. Undecided: it holds
    zero, and says "smaller" where it excludes the claimed size. Of no change (sign 0): within MARGIN, beyond it, or neither.
    """
    if not ours.n:
        return MISSING
    if math.isnan(ours.lo):
        return f"{UNDECIDED}: one seed" if ours.n == 1 else f"{UNDECIDED}: nothing tells of the noise"
    if math.isclose(ours.lo, ours.hi):
        return f"{UNDECIDED}: an interval without width"
    if not sign:
        inside, outside = -MARGIN <= ours.lo and ours.hi <= MARGIN, ours.lo > MARGIN or ours.hi < -MARGIN
        return REPRODUCED if inside else NOT if outside else UNDECIDED
    if ours.lo > 0 or ours.hi < 0:
        return REPRODUCED if sign * ours.lo > 0 else f"{NOT}: the opposite"
    if not math.isnan(post) and not ours.lo <= post <= ours.hi:
        return f"{UNDECIDED}: smaller than claimed"
    return UNDECIDED


def early(runs: Sequence[Record]) -> bool:
    """Whether runs together draw hardly more of their captions than chance would: their distances are of the first steps of training."""
    scores = [run.eval["metrics"].get("composition") for run in runs]
    known = [one for one in scores if isinstance(one, dict) and isinstance(one.get("chance"), int | float)]
    return bool(known) and sum(map(number, known)) <= EARLY * sum(one["chance"] for one in known)


def printed(claim: Claim, metric: str, posts: tuple[Published, ...]) -> float:
    """The post's change of a metric as a share of its baseline; NaN where it printed none."""
    found = share(claim.recipe, claim.against, metric, posts)
    return across(claim.recipe, claim.against, metric, posts) if math.isnan(found) else found


def claims_of(recipes: Collection[str] = ()) -> tuple[Claim, ...]:
    """The claims that `recipes` test; all of them where none is named. LabError where there is none."""
    found = tuple(claim for claim in CLAIMS if not recipes or claim.recipe in recipes)
    if not found:
        raise LabError(f"The post claims nothing that {', '.join(recipes)} would test; `claims.CLAIMS` lists what it claims.")
    return found


def findings(scale: str = "cpu", root: str | Path = "results", recipes: Collection[str] = ()) -> tuple[Finding, ...]:
    """Every claim that `recipes` test (all of them where none is named), in every metric it speaks of, with its verdict."""
    found, posts, made = records(root).found, required(), []
    noise_at = cache(lambda place, metric: noises(found, place, metric))
    for claim in claims_of(recipes):
        place = claim.scale or scale
        for metric in columns(claim.metrics, [run for run in found if run.scale == place]):
            post = printed(claim, metric.name, at(place, posts))
            sign = round(math.copysign(1, post)) if claim.sign is None else claim.sign
            runs, base = pair(found, claim.recipe, claim.against, place)
            images = luck.shared(runs, base, metric.name)
            ours = changed(runs, base, metric.name, noise_at(place, metric.name), images)
            apart = base and not runs and of_recipe(found, claim.recipe, place)
            said = APART if apart else UNTAUGHT if ours.n and early((*runs, *base)) else verdict(sign, post, ours)
            made.append(Finding(claim, metric, post, ours, said, math.isfinite(images), one_at_first(runs, base)))
    return tuple(made)


# ------------------------------------------------------------------------------------------------ setting
WORDS = {-1: "lower", 0: "no change", 1: "higher"}
CAVEAT = "†"  # behind a verdict whose pair something else moves too


def interval(found: Estimate) -> str:
    """A change in per cent with its interval; a factor where it is more than ten times the baseline."""
    if found.mean > LARGE:
        low = f"{1 + found.lo:.0f}" if found.lo > LARGE else f"{max(1 + found.lo, 0):.1f}"
        ends = "" if math.isnan(found.lo) else f" [{low}, {upper(1 + found.hi, 0)}]"
        return f"× {1 + found.mean:.0f}{ends}"
    ends = "" if math.isnan(found.lo) else f" [{bound(found.lo)}, {bound(found.hi)}]"
    return percent(found.mean) + ends


def pair_of(claim: Claim) -> str:
    """The pair of recipes that tests a claim, with its scale where that is one of its own."""
    return f"{claim.recipe} / {claim.against}" + f" at {claim.scale}" * bool(claim.scale)


def line(one: Finding) -> tuple[str, ...]:
    """A finding as the texts of a row."""
    word = "" if one.claim.sign is None else WORDS[one.claim.sign]
    post = f"in words: {word}" if math.isnan(one.post) else percent(one.post) + f" ({word})" * bool(word)
    mark = f" {CAVEAT}" * bool(one.claim.caveat)
    return one.claim.text, pair_of(one.claim), one.metric.head, post, interval(one.ours), str(one.ours.n), one.verdict + mark


def table(scale: str = "cpu", root: str | Path = "results", recipes: Collection[str] = ()) -> Listing:
    """One line per claim and metric: the pair, the post's change, ours with its interval and number of seeds, the verdict.

    Of `recipes` only, as the pages of single methods show it, or of all claims.
    """
    made = findings(scale, root, recipes)
    rows = [line(one) for one in made]
    rows = [(" ", " ", *row[2:]) if i and row[:2] == rows[i - 1][:2] else row for i, row in enumerate(rows)]
    judged = [one.verdict.partition(":")[0] for one in made]
    counts = ", ".join(f"{judged.count(word)} {word}" for word in (REPRODUCED, NOT, UNDECIDED, MISSING) if word in judged)
    decided = sum(not math.isnan(one.ours.lo) for one in made)
    alone = list(dict.fromkeys(pair_of(one.claim) for one in made if one.alone))
    with_images = sum(one.images for one in made if not math.isnan(one.ours.lo))
    notes = (
        f"{counted(len(made), 'measure')} of {counted(len({one.claim.text for one in made}), 'claim')}: {counts}.",
        "Changes are shares of the baseline: the post's single runs, ours over common seeds with a 95 % t interval. Its noise, in log "
        "value = recipe + seed + noise, is learnt from all trainings of the scale: a recipe has its own, drawn towards the typical one as "
        "far as recipes scatter alike (moderated t); one that scatters far more has its own alone. Two recipes that are one training at "
        "first, as fine-tuning and its baseline, have less between them than two trainings, and the noise of their own seeds alone"
        + (f" (here {', '.join(alone)}). " if alone else ". ")
        + "The luck of the images, as far as all "
        f"seeds share it, is in {with_images} of {counted(decided, 'interval')}; what is shared is estimated from the seeds that have it "
        "recorded, and can come out as none.",
        "A distance on few images never falls to zero, so of what can be gained a change is a larger share than it is of the baseline. How "
        "far it can fall is known of neither side: a generator draws the captions of the reference's own scenes, and can come nearer than "
        "other real images.",
        "These are not the intervals of the scoreboard, which know a row's own seeds only and are mostly much wider over two or three, and "
        "narrower where few seeds happen to agree: the same runs can be decided by the one and not by the other. These assume that noises "
        "of recipes are of one family.",
    )
    if any(math.isnan(one.post) for one in made):
        notes += ("In words: the post has a sentence and no number; the measure and its direction are our reading of the sentence.",)
    if any(one.claim.sign == 0 for one in made):
        notes += (f"No change is reproduced where the whole interval lies within {100 * MARGIN:g} % of none.",)
    notes += caveats([one.claim for one in made])
    if any(one.verdict == UNTAUGHT for one in made):
        notes += (f"Captions hardly followed: the runs of the pair together have at most {EARLY:g} times the composition of chance.",)
    if decided:
        chance = f"{0.05 * decided:.1f}"
        notes += (f"Of {counted(decided, 'interval')} at 95 %, about {chance} exclude a true value by chance: one verdict alone is weak.",)
    return Listing(("claim", "pair", "measure", "post", "ours", "n", "verdict"), tuple(rows), ("post", "ours", "n"), notes)


def caveats(found: Sequence[Claim]) -> tuple[str, ...]:
    """A line for each claim that has a caveat."""
    return tuple(f"{CAVEAT} {text}: {caveat}." for text, caveat in dict.fromkeys((one.text, one.caveat) for one in found) if caveat)


def untestable() -> Listing:
    """The claims that nothing here can test, and why."""
    return Listing(("claim", "not testable here, because"), UNTESTABLE)
