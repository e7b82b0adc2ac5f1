"""The book lists every page once, cites what it knows, and takes its numbers from records."""

import re
import sys
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.made_up import write_run

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import prx_api  # noqa: E402
import prx_book  # noqa: E402
import prx_results  # noqa: E402

from prx_lab.record import records  # noqa: E402
from prx_lab.table import Table  # noqa: E402

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def chapters() -> list[dict[str, str]]:
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    return [{"file": toc["root"]}, *(entry for part in toc["parts"] for entry in part["chapters"])]


# ------------------------------------------------------------------------------------------ configuration
def test_jupyter_book_builds_a_folder():
    """Version 2 answers `jupyter-book build book` with status 0 and no book."""
    assert version("jupyter-book").startswith("1.")


def test_outputs_are_stored_not_made_by_the_build():
    config = yaml.safe_load((BOOK / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"


def test_toc_lists_existing_files_and_every_notebook_once():
    for entry in chapters():
        if "file" in entry:
            assert (BOOK / f"{entry['file']}.md").exists()
        else:
            assert any(fnmatch(f"notebooks/{name}", entry["glob"]) for name in NOTEBOOKS), f"{entry['glob']} matches nothing"
    for name in NOTEBOOKS:
        assert sum(fnmatch(f"notebooks/{name}", entry.get("glob", "")) for entry in chapters()) == 1, f"{name} is not in the book"


def test_every_citation_is_known():
    known = re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE)
    assert len(known) == len(set(known))
    pages = [*BOOK.glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    for page in pages:
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text()):
            assert set(map(str.strip, keys.split(","))) <= set(known), page.name


# ------------------------------------------------------------------------------------------------ mirror
def test_mirror_copies_updates_and_deletes(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "img").mkdir(parents=True)
    (source / "one.ipynb").write_text("1")
    (source / "img/two.png").write_text("2")
    prx_book.mirror(source, target)
    assert (target / "img/two.png").read_text() == "2"

    before = (target / "one.ipynb").stat().st_mtime_ns
    (source / "img/two.png").unlink()
    (source / "new.ipynb").write_text("3")
    prx_book.mirror(source, target)
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["new.ipynb", "one.ipynb"]
    assert (target / "one.ipynb").stat().st_mtime_ns == before  # an unchanged page is not built again


# ----------------------------------------------------------------------------------------------- results
def test_without_records_the_page_says_so():
    assert "No runs are recorded" in prx_results.number_cards((), Path("results"))
    assert "No runs are recorded" in prx_results.scoreboards((), Path("results"))


def test_cards_and_board_carry_the_recorded_numbers(tmp_path):
    for name, fid in (("baseline", 21.3), ("repa", 18.6)):
        for seed in (0, 1):
            write_run(tmp_path, name, seed, fid + seed / 10, scale="cpu")
    found = records(tmp_path)
    table = Table.of("cpu", root=tmp_path)
    fid = {row.label: table.metrics[0].show(row.cells["fid"].mean) for row in table.rows}
    cards = prx_results.number_cards(found, tmp_path)
    assert f"{fid['baseline']} → {fid['repa']}" in cards and "lab-FID" in cards
    board = prx_results.scoreboards(found, tmp_path)
    assert all(number in board for number in fid.values())


# --------------------------------------------------------------------------------------------------- API
def test_every_public_module_is_on_the_api_page():
    page = prx_api.api_page(ROOT / "prx_lab")
    for name, path in prx_api.modules(ROOT / "prx_lab").items():
        assert page.count(f".. automodule:: {name}\n") == prx_api.is_page(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Uses *args and a_ b."], [r"Uses \*args and a\_ b."]),
        (["Returns `x` as is."], [r"Returns \ ``x``\  as is."]),
        (["Rows:", "  a  1", "then text."], ["Rows:", "", "::", "", "  a  1", "", "then text."]),
        (["Two:", "- one", "- two"], ["Two:", "", "- one", "- two"]),
    ],
)
def test_plain_docstrings_become_valid_markup(given, expected):
    lines = list(given)
    prx_api.plain_docstring(None, "function", "f", None, None, lines)
    assert lines == [*expected, ""]
