"""One verdict a claim: from those of its measures, for every sentence of the post once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_lab.errors import LabError
from prx_lab.report import claims, tally
from prx_lab.report.claims import MISSING, NOT, REPRODUCED, UNDECIDED
from prx_lab.report.speed_claims import SPEED_CLAIMS, TIMES
from prx_lab.report.tally import MIXED, NOT_ALL, ORDER, PART, overall
from tests.made_up import write_run


@pytest.mark.parametrize(
    "measures, expected",
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, f"{UNDECIDED}: one seed"], PART),
        ([REPRODUCED, MISSING], PART),
        ([REPRODUCED, f"{NOT}: the opposite", UNDECIDED], MIXED),
        ([f"{NOT}: the opposite", NOT], NOT),
        ([NOT, UNDECIDED], NOT_ALL),
        ([UNDECIDED, f"{UNDECIDED}: smaller than claimed"], UNDECIDED),
        ([MISSING, UNDECIDED], UNDECIDED),
        ([MISSING], MISSING),
    ],
)
def test_known_answers(measures, expected):
    assert overall(measures) == expected


@given(st.lists(st.sampled_from([REPRODUCED, NOT, UNDECIDED, MISSING]), min_size=1))
def test_the_order_and_the_number_of_measures_do_not_matter(measures):
    assert overall(measures) == overall(sorted(measures) * 2) and overall(measures) in ORDER


def test_every_sentence_has_one_line_and_the_counts_add_up(tmp_path):
    for seed in range(2):
        write_run(tmp_path, "baseline", seed, fid=2.0 + 0.1 * seed)
        write_run(tmp_path, "muon", seed, fid=1.0 + 0.05 * seed)
    found = {one.claim: one for one in tally.verdicts("cpu", tmp_path)}
    texts = {claim.text for claim in (*claims.CLAIMS, *SPEED_CLAIMS)} | {text for text, _ in (*TIMES, *claims.UNTESTABLE)}
    assert found.keys() == texts and len(found) == len(tally.table("cpu", tmp_path).rows)
    assert found["Muon improves quality"].why.startswith("muon / baseline: ") and found["short captions harm"].verdict == MISSING
    *parts, rest = tally.told(tuple(found.values())).split("; ")
    for part, kind in zip(parts, (tally.QUALITY, tally.QUOTED, tally.SPEED), strict=True):
        head, _, counts = part.partition(": ")
        assert int(head.split()[0]) == sum(one.kind == kind for one in found.values()) == sum(int(c.split()[0]) for c in counts.split(", "))
    assert rest == f"{len(claims.UNTESTABLE)} {tally.NEITHER}."
    assert {text.partition(":")[0] for text, one in found.items() if one.kind == tally.QUOTED} == {"advice", "cited"}
    assert not any(text.startswith(("advice", "cited")) for text, one in found.items() if one.kind != tally.QUOTED)


def test_a_claim_at_two_scales_is_one_claim(tmp_path):
    for scale, stopped in (("cpu", 1.0), (claims.LONG, 3.0)):
        for seed in range(3):
            write_run(tmp_path, "repa-dense", seed, fid=2.0 + 0.01 * seed, scale=scale)
            write_run(tmp_path, "repa-stop", seed, fid=stopped + 0.01 * seed, scale=scale)
    [one] = [one for one in tally.verdicts("cpu", tmp_path) if "switched off" in one.claim]
    assert one.verdict == MIXED
    assert one.why == f"repa-stop / repa-dense: 1 {REPRODUCED}; repa-stop / repa-dense at {claims.LONG}: 1 {NOT}"


def test_without_records_of_the_scale_it_says_so(tmp_path):
    for seed in range(2):
        for name in ("jit", "jit-tread"):
            write_run(tmp_path, name, seed, 2.0, scale=claims.MANY)
    with pytest.raises(LabError, match="No pair of recipes .* at cpu scale yet"):
        tally.table("cpu", tmp_path)
