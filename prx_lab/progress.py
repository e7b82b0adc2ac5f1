"""Progress bars: drawn in a terminal and in JupyterLab, silent where output is stored or piped."""

import os


def quiet() -> bool | None:
    """tqdm's `disable`: None, which leaves the choice to tqdm, unless PRX_STATIC asks for outputs that can be stored."""
    return True if os.environ.get("PRX_STATIC") else None
