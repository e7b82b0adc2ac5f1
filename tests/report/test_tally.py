"""One verdict a claim: from those of its measures, for every sentence of the post once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_lab.errors import LabError
from prx_lab.report import claims, tally
from prx_lab.report.claims import MISSING, NOT, REPRODUCED, UNDECIDED
from prx_lab.report.speed_claims import SPEED_CLAIMS
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
    found = tally.verdicts("cpu", tmp_path)
    assert len(found) == len(claims.CLAIMS) + len(SPEED_CLAIMS) + len(claims.UNTESTABLE)
    assert found["Muon improves quality"][1].startswith("muon / baseline: ") and found["short captions harm"][0] == MISSING
    counts = [int(part.split()[0]) for part in tally.told(found).partition(": ")[2].split(", ")]
    assert sum(counts) == len(found) == len(tally.table("cpu", tmp_path).rows)


def test_without_records_it_says_so(tmp_path):
    with pytest.raises(LabError, match="No pair of recipes .* at cpu scale yet"):
        tally.table("cpu", tmp_path)
