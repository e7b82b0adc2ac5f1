"""Checks built pages: every internal link, anchor, picture, script and style exists, every picture has words, nothing is fetched,
no page names a path of the machine that built it.

`python book/_ext/prx_check.py book/_build/html` prints a line for each fault.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
SEARCH = ("search.html", "searchindex.js", "_static/searchtools.js")  # its page fetches nothing from elsewhere, as any other
CHECKOUT = Path(__file__).resolve().parents[2]
FILE_NAME = re.compile(r"[\w./%-]+\.(png|jpe?g|svg|gif|webp)", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """What a page names: its anchors, its links as (tag, attribute, target), its pictures' words, its references to fetch."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[tuple[str, str, str]] = field(default_factory=list)
    pictures: list[tuple[str, str | None]] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        self.links += [(tag, name, found[name]) for name in ("href", "src") if found.get(name)]
        if tag == "img" and found.get("role") != "presentation":
            self.pictures.append((found.get("src") or "", found.get("alt")))
        if {"xref", "myst"} <= set((found.get("class") or "").split()) and "external" not in (found.get("class") or "") and tag == "span":
            self.unresolved.append(str(attrs))


def problems(root: Path) -> list[str]:
    """A sentence for everything that is wrong with the pages below `root`."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html")) if "_static" not in path.parts}
    if not pages:
        return [f"There are no pages in {root}: build the book first."]
    found = []
    for page in pages.values():
        name = page.path.relative_to(root)
        found += [f"{name}: {text}" for text in [*broken(page, pages, root), *wordless(page)]]
        found += [f"{name}: a reference that was not resolved: {text}" for text in page.unresolved]
        found += [f"{name}: a path of this machine: {text}" for text in local(page)]
    return found + [f"The search needs {name}, which is not there." for name in SEARCH if not (root / name).is_file()]


def broken(page: Page, pages: dict[Path, Page], root: Path) -> Iterator[str]:
    """Links and files of a page that are not there, and what it would fetch from elsewhere."""
    for tag, name, target in page.links:
        url = urlsplit(target)
        if url.scheme in ("mailto", "data", "javascript"):
            continue
        if url.scheme or url.netloc:
            if (tag, name) in FETCHED and not is_canonical(tag, page, target):
                yield f"<{tag}> is fetched from elsewhere: {target}"
            continue
        goal = (page.path.parent / unquote(url.path)).resolve() if url.path else page.path.resolve()
        if not goal.is_relative_to(root.resolve()) or not goal.exists():
            yield f"<{tag}> leads to nothing: {target}"
        elif url.fragment and goal in pages and unquote(url.fragment) not in pages[goal].anchors:
            yield f"<{tag}> leads to an anchor that does not exist: {target}"


def is_canonical(tag: str, page: Page, target: str) -> bool:
    """A <link> that only names the page's public address is not fetched."""
    return tag == "link" and f'rel="canonical" href="{target}"' in page.path.read_text(encoding="utf-8")


def wordless(page: Page) -> Iterator[str]:
    """Pictures without alternative text, or with a file's name in its place."""
    for source, words in page.pictures:
        if words is None or not words.strip() or FILE_NAME.fullmatch(words.strip()):
            yield f"a picture without words: {source[:80]} ({words!r})"


def local(page: Page) -> Iterator[str]:
    """What stands on a page about the folder of this checkout, each once."""
    yield from sorted(set(re.findall(rf"{re.escape(str(CHECKOUT))}(?:/[\w./-]*)?", page.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "Links, anchors and pictures of the book are whole.")
    sys.exit(bool(wrong))
