"""Captions as a text encoder reads them: cleaned as the published pipeline does, counted where cleaning or cutting loses words.

`light` mends broken encodings and HTML; it is what the pipelines in pixel space always do. `full` is the default of the published
latent pipeline, which follows DeepFloyd IF and was made for captions scraped from the web: it also lowers the case and drops links,
file names, long numbers and Chinese characters.
"""

import functools
import html
import warnings
from collections.abc import Callable, Sequence

from prx_lab.errors import LabError, nearest

HOW = ("none", "light", "full")


def clean(prompt: str, how: str) -> str:
    """A prompt as it is (`none`), with encoding and HTML mended (`light`), or as the published pipeline has it (`full`).

    LabError for any other `how`.
    """
    if how not in HOW:
        raise LabError(f"There is no cleaning '{how}'.{nearest(how, HOW)} Use one of {', '.join(HOW)}.")
    return prompt if how == "none" else light(prompt) if how == "light" else full()(prompt)


def light(prompt: str) -> str:
    """A prompt with its encoding mended by ftfy, its HTML entities resolved, and no white space around it."""
    return html.unescape(html.unescape(fixer()(prompt))).strip()  # twice: scraped captions are often escaped twice


@functools.cache
def fixer() -> Callable[[str], str]:
    """ftfy's `fix_text`; LabError where the package is not installed."""
    try:
        from ftfy import fix_text
    except ImportError:
        raise LabError("Cleaning captions needs the package ftfy; install it with `pip install ftfy`, or set cleaning to none.") from None
    return fix_text


@functools.cache
def full() -> Callable[[str], str]:
    """diffusers' own function, so that it stays what the pipeline does; LabError where it cannot be imported."""
    fixer()
    try:
        from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor
    except ImportError as error:
        raise LabError(f"Full cleaning is that of diffusers' PRX pipeline, which cannot be imported ({error}); update diffusers.") from None
    return TextPreprocessor().clean_text


def report(captions: Sequence[str], cleaned: Sequence[str], how: str, lengths: Sequence[int], length: int) -> None:
    """Warn once of captions that cleaning emptied, and once of those that have more tokens than places."""
    gone = [a for a, b in zip(captions, cleaned) if a.strip() and not b]
    if gone:
        warnings.warn(
            f"Cleaning leaves nothing of {len(gone)} of {len(captions)} captions, such as {short(gone[0])}, which then mean as much as no "
            f"caption; cleaning is '{how}', 'light' or 'none' keeps them.",
            stacklevel=3,
        )
    cut = [a for a, n in zip(captions, lengths) if n > length]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(captions)} captions have more than {length} tokens (the longest {max(lengths)}) and are cut, such as "
            f"{short(cut[0])}; text_tokens sets the number.",
            stacklevel=3,
        )


def short(caption: str) -> str:
    """A caption as it stands in a message: in quotation marks, and cut to 60 characters."""
    return repr(caption if len(caption) <= 60 else caption[:57] + "...")
