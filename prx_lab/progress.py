"""Progress bars: redrawn in a terminal and in JupyterLab, a line now and then in a file, silent where output is stored."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm.std import tqdm

LOGGED_EVERY = 30  # seconds between two lines of a bar in a file
UP = "\x1b[A"  # what tqdm writes to go back over a bar above


class Lines:
    """A stream on which every state of a bar is a line of its own, for files and pipes, where no line can be drawn again."""

    def __init__(self, to) -> None:
        self.to = to

    def write(self, text: str) -> None:
        """Write what tqdm draws, without the characters that move a cursor; a bar that is cleared writes nothing."""
        if seen := text.replace(UP, "").strip():
            self.to.write(f"{seen}\n")

    def flush(self) -> None:
        """Hand on what was written."""
        self.to.flush()


def bar(*args, **settings) -> "tqdm":
    """tqdm with these settings, drawn as suits the place: nothing with PRX_STATIC or in a launcher's other processes."""
    from tqdm.asyncio import tqdm_asyncio
    from tqdm.auto import tqdm

    if os.environ.get("PRX_STATIC") or not speaks():
        return tqdm(*args, **settings | {"disable": True})
    if tqdm is not tqdm_asyncio or sys.stderr.isatty():  # a notebook, or a terminal
        return tqdm(*args, **settings)
    logged = {"file": Lines(sys.stderr), "ascii": True, "ncols": 100, "mininterval": LOGGED_EVERY, "maxinterval": LOGGED_EVERY}
    return tqdm(*args, **settings | logged | {"delay": LOGGED_EVERY})


def speaks() -> bool:
    """Whether this process is the one of a launcher's that talks to the user; true without a launcher."""
    return os.environ.get("RANK", "0") == "0"
