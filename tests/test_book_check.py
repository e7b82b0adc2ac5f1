"""The checker of built pages finds each kind of fault, names it once, and is silent about a whole book."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "book" / "_ext"))

from prx_check import CHECKOUT, problems  # noqa: E402

WHOLE = """<html><head><link rel="canonical" href="https://example.org/a.html"><link rel="stylesheet" href="style.css?v=1"></head>
<body><h1 id="top">A</h1><a href="sub/b.html#part%201">b</a><a href="#top">up</a><a href="https://example.org">out</a>
<a href="mailto:a@example.org">write</a><img src="x.png" alt="two curves"><img src="data:image/png;base64,AA" alt="a row"></body></html>"""


@pytest.fixture
def book(tmp_path):
    """Two pages that lead to each other, a style, a picture, and what the search needs."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(WHOLE)
    (tmp_path / "sub/b.html").write_text('<p id="part 1">B</p><a href="../a.html">a</a>')
    (tmp_path / "_static").mkdir()
    for name in ("style.css", "x.png", "search.html", "searchindex.js", "_static/searchtools.js"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_whole_book_has_no_problem(book):
    assert problems(book) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<a href="gone.html">x</a>', "leads to nothing: gone.html"),
        ('<a href="../outside.html">x</a>', "leads to nothing: ../outside.html"),
        ('<a href="sub/b.html#gone">x</a>', "an anchor that does not exist: sub/b.html#gone"),
        ('<a href="#gone">x</a>', "an anchor that does not exist: #gone"),
        ('<img src="gone.png" alt="words">', "<img> leads to nothing: gone.png"),
        ('<img src="x.png">', "a picture without words: x.png (None)"),
        ('<img src="x.png" alt=" ">', "a picture without words: x.png (' ')"),
        ('<img src="x.png" alt="../_images/0a1b.png">', "a picture without words"),
        ('<script src="https://cdn.example.org/x.js"></script>', "fetched from elsewhere: https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "fetched from elsewhere"),
        ('<span class="xref myst">some page</span>', "a reference that was not resolved"),
        (f"<code>PosixPath('{CHECKOUT}/prx_lab/weights')</code>", f"a path of this machine: {CHECKOUT}/prx_lab/weights"),
    ],
)
def test_each_fault_is_named_once(book, text, said):
    (book / "a.html").write_text(WHOLE.replace("</body>", f"{text}</body>"))
    (found,) = problems(book)
    assert found.startswith("a.html: ") and said in found


def test_a_book_without_its_search_is_not_whole(book):
    (book / "searchindex.js").unlink()
    assert problems(book) == ["The search needs searchindex.js, which is not there."]


def test_a_book_that_was_not_built_is_no_whole_book(tmp_path):
    (found,) = problems(tmp_path)
    assert "build the book first" in found
