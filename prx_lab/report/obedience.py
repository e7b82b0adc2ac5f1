"""What the pairs behind the post's claims do to composition, of which the post has no measure: whether pictures obey their captions."""

import math
from functools import cache
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.record import records
from prx_lab.report import luck
from prx_lab.report.claims import CLAIMS, early, interval, pair_of
from prx_lab.report.columns import METRICS
from prx_lab.report.forest import Branch
from prx_lab.report.listing import Listing
from prx_lab.report.pairs import changed, noises, pair

METRIC = METRICS["composition"]
NOTE = (
    "Changes of composition as shares, over common seeds, with intervals as those of the claims. Verdicts on claims count them only where "
    "a claim is about composition: the post has distances only, and a distance and a count of objects can disagree."
)
CHANCE = "Chance: networks that do not follow their captions yet."


def table(scale: str = "cpu", root: str | Path = "results") -> Listing:
    """One line for each pair of recipes that a claim compares: how its composition changes, whether that is decided, and how far it can.

    LabError where no such pair is recorded.
    """
    found, rows, without = records(root).found, [], []
    noise_at = cache(lambda place: noises(found, place, METRIC.name))
    for claim in {pair_of(claim): claim for claim in CLAIMS}.values():
        place = claim.scale or scale
        runs, base = pair(found, claim.recipe, claim.against, place)
        images = luck.shared(runs, base, METRIC.name)
        ours = changed(runs, base, METRIC.name, noise_at(place), images)
        if ours.n:
            said = Branch(claim.recipe, ours, math.nan, math.isfinite(images)).told(METRIC)
            rows.append((pair_of(claim), interval(ours), str(ours.n), "chance" if early((*runs, *base)) else said))
            without += [pair_of(claim)] * any(run.metric(METRIC.name) == 0 for run in (*runs, *base))
    if not rows:
        raise LabError(f"No pair of recipes that a claim of the post needs is recorded at {scale} scale yet.")
    notes = [NOTE, *[CHANCE] * any(row[-1] == "chance" for row in rows)]
    if without:
        notes.append(f"A seed whose every picture fails has no logarithm and is left out: {', '.join(without)}.")
    return Listing(("pair", f"{METRIC.title}, change", "n", "verdict"), tuple(rows), (f"{METRIC.title}, change", "n"), tuple(notes))
