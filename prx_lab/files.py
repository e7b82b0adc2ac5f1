"""JSON files that may be cut, mangled or replaced: an object, or one sentence that says what to do."""

import json
from pathlib import Path
from typing import Any

from prx_lab.errors import LabError


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file; LabError, which ends in `advice`, where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # bytes that are no text raise a ValueError too
        raise LabError(f"{path} cannot be read as JSON ({error}): {advice}.") from None
    if not isinstance(found, dict):
        raise LabError(f"{path} does not hold a JSON object: {advice}.")
    return found
