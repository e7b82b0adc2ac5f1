"""Stored notebooks are whole: run in order, free of errors, of this machine's paths and of volatile metadata."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
ABSOLUTE = re.compile(r"""(?:^|[\s"'(=])(/(?:home|root|tmp|work|Users|var|opt|mnt|content)/|[A-Z]:\\\\)""", re.MULTILINE)
BUDGET = 300_000

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def texts(cell: nbformat.NotebookNode) -> str:
    """Source and text outputs of a code cell; pictures left out."""
    shown = [cell.source]
    for output in cell.outputs:
        shown.append(output.get("text", ""))
        shown += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", "\n".join(shown))


def test_there_are_notebooks():
    assert NOTEBOOKS


@each
def test_valid_and_small(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < BUDGET


@each
def test_every_cell_was_run_in_order(path):
    """nbval compares no output of a cell without a count: a stripped notebook would pass whatever it prints."""
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))
    for cell in code(path):
        assert cell.source.strip(), "an empty code cell"
        assert all(output.output_type != "error" for output in cell.outputs)


@each
def test_nothing_of_this_machine(path):
    for cell in code(path):
        assert not ABSOLUTE.search(texts(cell)), ABSOLUTE.search(texts(cell)).group()


@each
def test_no_trailing_semicolon(path):
    """nbval shows the value that a semicolon hides in JupyterLab, and then fails: end a plot with plt.show()."""
    assert not [cell.source for cell in code(path) if cell.source.rstrip().endswith(";")]


@each
def test_metadata_is_not_volatile(path):
    """`make notebooks` leaves these keys alone; anything else would change from run to run."""
    notebook = read(path)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}
    assert not any("execution" in cell.metadata for cell in notebook.cells)


@each
def test_starts_with_a_title(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert sum(re.match(r"# ", cell.source) is not None for cell in read(path).cells if cell.cell_type == "markdown") == 1


@each
def test_boxes_hold_no_blank_line(path):
    """Markdown ends an HTML block at a blank line, and the book would then draw an empty box: use <p> and <ul>."""
    text = "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for box in re.findall(r'<div class="admonition.*?</div>', text, re.DOTALL):
        assert "\n\n" not in box, box
