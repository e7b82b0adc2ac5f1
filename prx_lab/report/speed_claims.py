"""What the post says of speed, each sentence held against a benchmark: steps timed in turns, side by side, in one process.

The post's numbers are batches per second with the frozen networks running. Ours are training steps, with the teacher in them where
the sentence is about it; what an autoencoder or a text encoder costs is not in them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prx_lab.record import records
from prx_lab.report import speed
from prx_lab.report.arrival import Speedup, speedup
from prx_lab.report.claims import MARGIN, MISSING, NOT, REPRODUCED, UNDECIDED, WORDS, interval, verdict
from prx_lab.report.evidence import NONE, Estimate
from prx_lab.report.layout import percent
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import pair
from prx_lab.report.posts import required, share


@dataclass(frozen=True)
class SpeedClaim:
    """One sentence of the post about the rate of training, the recipes of its two rows, and the arms of a benchmark that test it.

    `sign` is for sentences whose number the post itself calls none: 0 is no change beyond MARGIN; otherwise the number decides.
    """

    text: str
    recipe: str
    against: str
    benchmark: str
    arm: str
    base: str
    sign: int | None = None


SPEED_CLAIMS = (
    SpeedClaim("REPA with the stronger teacher slows training", "repa-dense", "baseline", "repa", "REPA, teacher in the step", "baseline"),
    SpeedClaim("contrastive flow matching costs next to nothing", "contrastive", "baseline", "objective", "contrastive", "baseline", 0),
    SpeedClaim("x-prediction costs nothing", "x-pred", "baseline", "objective", "x-pred", "baseline", 0),
    SpeedClaim("TREAD is faster at 256 tokens", "tread", "baseline", "routing-256", "TREAD", "dense"),
    SpeedClaim("SPRINT is faster at 256 tokens", "sprint", "baseline", "routing-256", "SPRINT", "dense"),
    SpeedClaim("TREAD is faster at 1024 tokens", "jit-tread", "jit", "routing-1024", "TREAD", "dense"),
    SpeedClaim("SPRINT is faster at 1024 tokens", "jit-sprint", "jit", "routing-1024", "SPRINT", "dense"),
    SpeedClaim("SPRINT is faster than TREAD at 1024 tokens", "jit-sprint", "jit-tread", "routing-1024", "SPRINT", "TREAD"),
)


def measured(claim: SpeedClaim, found: Mapping[str, speed.Record]) -> Estimate:
    """The change of the rate of steps from one arm to another, over the turns of a benchmark; nothing where it is not recorded.

    Of several circumstances the last, which is the largest scale of the device.
    """
    rows = found[claim.benchmark].rows if claim.benchmark in found else []
    times = {row.arm: row.wall for row in rows}
    if not {claim.arm, claim.base} <= times.keys():
        return NONE
    value, lo, hi = speed.ratio(times[claim.base], times[claim.arm])
    return Estimate(len(times[claim.arm]), value - 1, lo - 1, hi - 1)


@dataclass(frozen=True)
class SpeedFinding:
    """A claim about speed: the post's change as a share, ours, and the verdict."""

    claim: SpeedClaim
    post: float
    ours: Estimate
    verdict: str


def findings(device: str = "cpu", root: str | Path = "results") -> tuple[SpeedFinding, ...]:
    """Every claim about speed with its verdict."""
    return judged(speed.load(device, Path(root) / "benchmarks"))


def judged(found: Mapping[str, speed.Record]) -> tuple[SpeedFinding, ...]:
    """Every claim about speed with its verdict by these benchmarks."""
    posts, made = required(), []
    for claim in SPEED_CLAIMS:
        post, ours = share(claim.recipe, claim.against, "batches_per_s", posts), measured(claim, found)
        sign = round(math.copysign(1, post)) if claim.sign is None else claim.sign
        made.append(SpeedFinding(claim, post, ours, verdict(sign, post, ours)))
    return tuple(made)


# ------------------------------------------------------------------------------------------------ time to quality
TIMES = (  # what the post says of the time to a quality, in words, and the recipe that tests it
    ("REPA with the stronger teacher is sooner at equal quality", "repa-dense"),
    ("Muon is sooner at equal quality", "muon"),
)


@dataclass(frozen=True)
class TimeFinding:
    """A claim about the time to the baseline's final quality: the factor by which a recipe is sooner, in seconds, and the verdict."""

    text: str
    recipe: str
    ours: Speedup
    verdict: str


def sooner(scale: str = "cpu", root: str | Path = "results") -> tuple[TimeFinding, ...]:
    """Every claim about the time to a quality with its verdict, by the recorded curves of one machine."""
    found, made = records(root).found, []
    for text, recipe in TIMES:
        ours = speedup(*pair(found, recipe, "baseline", scale), "seconds")
        said = {"reached": REPRODUCED, "missed": f"{NOT}: the opposite"}
        made.append(TimeFinding(text, recipe, ours, said.get(ours.verdict(1.0).partition(":")[0], UNDECIDED) if ours.n else MISSING))
    return tuple(made)


def times(scale: str = "cpu", root: str | Path = "results") -> Listing:
    """One line per claim about the time to a quality: the factor with its interval over seeds, and the verdict."""
    rows = tuple((one.text, f"{one.recipe} / baseline", one.ours.text, str(one.ours.n), one.verdict) for one in sooner(scale, root))
    notes = (
        "Times sooner, in training seconds, at the baseline's final lab-FID; 95 % t interval over seeds. The post has sentences and no "
        "numbers. The teacher's features are made before training here and are not in these seconds: REPA is flattered by them, by as "
        "much as the table of steps says that a teacher costs.",
    )
    return Listing(("claim", "pair", "ours", "n", "verdict"), rows, ("ours", "n"), notes)


# ------------------------------------------------------------------------------------------------ setting
def line(one: SpeedFinding) -> tuple[str, ...]:
    """A finding as the texts of a row."""
    claim = one.claim
    said = percent(one.post) + ("" if claim.sign is None else f" ({WORDS[claim.sign]})")
    place = f"{claim.benchmark}: {claim.arm} / {claim.base}"
    return claim.text, place, said, interval(one.ours), str(one.ours.n), one.verdict


def table(device: str = "cpu", root: str | Path = "results") -> Listing:
    """One line per claim: the post's change of batches per second, ours of steps per second with its interval, the verdict."""
    found = speed.load(device, Path(root) / "benchmarks")
    rows, machines = tuple(map(line, judged(found))), sorted({record.where for record in found.values()})
    head = ("claim", "benchmark", "post, batches/s", "ours, steps/s", "turns", "verdict")
    notes = (
        "Medians of steps that took turns in one process, with a 95 % bootstrap interval over the turns: the noise of one machine and of "
        f"no other ({'; '.join(machines) or 'none recorded'}). Only the sign is judged; where no change is claimed, whether the interval "
        "stays within the margin.",
        f"No change: within {MARGIN:.0%} on either side.".replace("%", " %"),
    )
    return Listing(head, rows, head[2:5], notes)
