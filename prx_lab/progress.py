"""Progress bars: drawn in a terminal and in JupyterLab, silent where output is stored or piped and in all processes but one."""

import os


def quiet() -> bool | None:
    """tqdm's `disable`: None, which leaves the choice to tqdm, unless PRX_STATIC asks for outputs that can be stored."""
    return True if os.environ.get("PRX_STATIC") or not speaks() else None


def speaks() -> bool:
    """Whether this process is the one of a launcher's that talks to the user; true without a launcher."""
    return os.environ.get("RANK", "0") == "0"
