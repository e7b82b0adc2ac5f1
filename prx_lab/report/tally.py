"""Every claim of the post in one line: what became of it here, over all measures that it speaks of."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.report import claims, speed_claims
from prx_lab.report.claims import MISSING, NOT, REPRODUCED, UNDECIDED
from prx_lab.report.layout import counted
from prx_lab.report.listing import Listing

PART, NOT_ALL, MIXED, UNTESTABLE = "reproduced in part", "not reproduced in part", "mixed", "not testable here"
ORDER = (REPRODUCED, PART, MIXED, NOT_ALL, NOT, UNDECIDED, MISSING, UNTESTABLE)


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its measures: in part where others are open, mixed where they contradict each other."""
    words = {verdict.partition(":")[0] for verdict in verdicts}
    if len(words) == 1:
        return words.pop()
    if {REPRODUCED, NOT} <= words:
        return MIXED
    return PART if REPRODUCED in words else NOT_ALL if NOT in words else UNDECIDED


def verdicts(scale: str = "cpu", root: str | Path = "results") -> dict[str, tuple[str, str]]:
    """{claim: (verdict, what decides it)} of every sentence of the post: of quality, of speed, and what nothing here can test.

    LabError where nothing is recorded at `scale`.
    """
    by_claim: dict[str, list[claims.Finding]] = {}
    for one in claims.findings(scale, root):
        by_claim.setdefault(one.claim.text, []).append(one)
    if all(one.verdict == MISSING for found in by_claim.values() for one in found):
        raise LabError(f"No pair of recipes that a claim of the post needs is recorded at {scale} scale yet.")
    made = {}
    for text, found in by_claim.items():
        counts = Counter(one.verdict.partition(":")[0] for one in found)
        told = ", ".join(f"{counts[word]} {word}" for word in (REPRODUCED, NOT, UNDECIDED, MISSING) if counts[word])
        at = f" at {found[0].claim.scale}" if found[0].claim.scale else ""
        made[text] = overall([one.verdict for one in found]), f"{found[0].claim.recipe} / {found[0].claim.against}{at}: {told}"
    for one in speed_claims.findings(root=root):
        made[one.claim.text] = overall([one.verdict]), f"benchmark {one.claim.benchmark}: {one.claim.arm} / {one.claim.base}"
    return made | {text: (UNTESTABLE, why) for text, why in claims.UNTESTABLE}


def told(found: dict[str, tuple[str, str]]) -> str:
    """How many claims have which verdict, in a line."""
    counts = Counter(verdict for verdict, _ in found.values())
    return f"{counted(len(found), 'claim')}: {', '.join(f'{counts[word]} {word}' for word in ORDER if counts[word])}."


def table(scale: str = "cpu", root: str | Path = "results") -> Listing:
    """One line per claim, in the order of the post; LabError as `verdicts`."""
    found = verdicts(scale, root)
    notes = (
        told(found),
        "In part: some of its measures, and the others are undecided. Mixed: its measures contradict each other. Of a claim with several "
        "measures, each has its own chance of a wrong verdict; the tables of measures have their intervals.",
    )
    return Listing(("claim", "verdict", "measures, or why none"), tuple((text, *said) for text, said in found.items()), (), notes)
