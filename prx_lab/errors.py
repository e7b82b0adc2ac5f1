"""Errors a user can act on: one clear sentence each, printed without a traceback by the command line."""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """Bad input or a failed run, told in one sentence that says what to do."""


def require(ok: bool, sentence: str) -> None:
    """Raise LabError with this sentence unless `ok`."""
    if not ok:
        raise LabError(sentence)


def nearest(word: str, options: Iterable[str]) -> str:
    """A suggestion such as `` Did you mean 'repa'?``, or an empty string when nothing is close."""
    close = get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
