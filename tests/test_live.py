"""What pages ask live: whether a method at its neutral setting is the baseline, weight for weight."""

from tiny import store, tiny

from prx_lab import live
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.sprint import SPRINT


def test_neutral_answers_both_questions():
    base, off, on = map(tiny, (BASE, BASE.but(router=TREAD(rate=1.0)), RECIPES["tread"]))
    found = repr(live.neutral(off, on, base, 2, store))
    assert found == "neutral equals the baseline bit for bit: yes\non differs from it: yes"


def test_weights_that_the_baseline_does_not_have_are_a_difference():
    """Untrained, SPRINT has the baseline's weights and those of its fusion."""
    base, more = tiny(BASE), tiny(BASE.but(router=SPRINT()))
    assert repr(live.neutral(more, base, base, 0, store)) == "neutral equals the baseline bit for bit: no\non differs from it: no"
