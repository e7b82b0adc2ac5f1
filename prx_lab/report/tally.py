"""Every claim of the post in one line: what became of it here, over all measures that it speaks of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.report import claims, speed_claims
from prx_lab.report.claims import MISSING, NOT, REPRODUCED, UNDECIDED
from prx_lab.report.layout import counted
from prx_lab.report.listing import Listing

PART, NOT_ALL, MIXED, UNTESTABLE = "reproduced in part", "not reproduced in part", "mixed", "not testable here"
ORDER = (REPRODUCED, PART, MIXED, NOT_ALL, NOT, UNDECIDED, MISSING, UNTESTABLE)
QUALITY, SPEED, NEITHER = "of quality", "of speed", "that nothing here can test"
QUOTED, NO_RESULT = "that the post cites or advises", ("advice", "cited")  # no results of its own, and how such a claim begins


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and the measures that say so or the reason why there are none."""

    claim: str
    kind: str
    verdict: str
    why: str
    caveat: str = ""


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its measures: in part where others are open, mixed where they contradict each other."""
    words = {verdict.partition(":")[0] for verdict in verdicts}
    if len(words) == 1:
        return words.pop()
    if {REPRODUCED, NOT} <= words:
        return MIXED
    return PART if REPRODUCED in words else NOT_ALL if NOT in words else UNDECIDED


def verdicts(scale: str = "cpu", root: str | Path = "results") -> tuple[Verdict, ...]:
    """Every claim once: those of quality, those of speed, and those that nothing here can test.

    LabError where no pair of recipes is recorded at `scale`.
    """
    by_claim: dict[str, list[claims.Finding]] = {}
    for one in claims.findings(scale, root):
        by_claim.setdefault(one.claim.text, []).append(one)
    if all(one.verdict == MISSING for found in by_claim.values() for one in found if not one.claim.scale):
        raise LabError(f"No pair of recipes that a claim of the post needs is recorded at {scale} scale yet.")
    made = []
    for text, found in by_claim.items():
        kind = QUOTED if text.partition(":")[0] in NO_RESULT else QUALITY
        made.append(Verdict(text, kind, overall([one.verdict for one in found]), measures(found), found[0].claim.caveat))
    for one in speed_claims.findings(root=root):
        where = f"benchmark {one.claim.benchmark}: {one.claim.arm} / {one.claim.base}"
        made.append(Verdict(one.claim.text, SPEED, overall([one.verdict]), where))
    for one in speed_claims.sooner(scale, root):
        made.append(Verdict(one.text, SPEED, overall([one.verdict]), f"seconds to the final quality: {one.recipe} / baseline"))
    return (*made, *(Verdict(text, NEITHER, UNTESTABLE, why) for text, why in claims.UNTESTABLE))


def measures(found: Sequence[claims.Finding]) -> str:
    """How many measures of each pair say what."""
    pairs: dict[str, Counter[str]] = {}
    for one in found:
        pairs.setdefault(claims.pair_of(one.claim), Counter())[one.verdict.partition(":")[0]] += 1
    return "; ".join(f"{pair}: {counts(words)}" for pair, words in pairs.items())


def counts(words: Counter[str]) -> str:
    """How often each verdict stands there, the best first."""
    return ", ".join(f"{words[word]} {word}" for word in ORDER if words[word])


def told(found: Sequence[Verdict]) -> str:
    """How many claims of each kind have which verdict, in a line."""
    parts = []
    for kind in (QUALITY, QUOTED, SPEED):
        words = Counter(one.verdict for one in found if one.kind == kind)
        moved = sum(bool(one.caveat) for one in found if one.kind == kind)
        beside = f" ({moved} of them with a caveat, {claims.CAVEAT})" * bool(moved)
        parts += [f"{counted(words.total(), 'claim')} {kind}{beside}: {counts(words)}"] * bool(words)
    return f"{'; '.join(parts)}; {sum(one.kind == NEITHER for one in found)} {NEITHER}."


def table(scale: str = "cpu", root: str | Path = "results") -> Listing:
    """One line per claim, those of quality first, then of speed, then what cannot be tested; LabError as `verdicts`."""
    found = verdicts(scale, root)
    notes = (
        told(found),
        "In part: some of its measures, and the others are undecided or not recorded. Mixed: its measures contradict each other. Of a "
        "claim with several measures, each has its own chance of a wrong verdict; the tables of measures have their intervals.",
        "A line that begins with “advice” or “cited” is no result of the post, and counted apart: what it recommends or quotes.",
    )
    notes += tuple(f"{claims.CAVEAT} {one.claim}: {one.caveat}." for one in found if one.caveat)
    rows = tuple((one.claim, one.verdict + f" {claims.CAVEAT}" * bool(one.caveat), one.why) for one in found)
    return Listing(("claim", "verdict", "measures, or why none"), rows, (), notes)
