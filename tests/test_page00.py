"""Page 00 keeps its title's promises: thirty lines, and no library before the last section."""

import json
from pathlib import Path

PAGE = Path(__file__).parents[1] / "notebooks" / "00_flow_matching_in_thirty_lines.ipynb"


def cells():
    return [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    ]


def test_thirty_lines_are_thirty():
    lines = [line for _, source, tags in cells() if "thirty-lines" in tags for line in source.splitlines() if line.strip()]
    assert len(lines) == 30 and max(map(len, lines)) <= 120


def test_library_is_imported_in_the_last_code_cell_only():
    *body, last = [source for kind, source, _ in cells() if kind == "code"]
    assert "from prx_lab" in last and not any("prx_lab" in source for source in body)
