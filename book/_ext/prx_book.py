"""The book's own Sphinx extension: mirrors notebooks/, writes pages from recorded results, serves MathJax locally."""

import filecmp
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's package and results, however it is installed

from prx_alt import describe_pictures, mark_columns
from prx_api import api_index, api_pages, plain_docstring
from prx_cite import citing_page
from prx_methods import heads, methods_page, pages
from prx_results import claimed, example, gallery, glance, number_cards, scales_table, scoreboards

from prx_lab.record import records


def mirror(source: Path, target: Path) -> None:
    """Makes `target` hold what `source` holds; unchanged files keep their times, so that rebuilds stay incremental."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts}
    for path in [path for path in target.rglob("*") if path.is_file()]:
        if path.relative_to(target) not in wanted:
            path.unlink()
    for name in sorted(wanted):
        if not (target / name).exists() or not filecmp.cmp(source / name, target / name, shallow=False):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def write(path: Path, text: str) -> None:
    """Writes only a change, so that an unchanged page is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_all(folder: Path, pages: Mapping[str, str]) -> None:
    """Makes a folder hold these Markdown pages {file name: text} and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        write(folder / f"{name}.md", text)


def generate(book: Path, root: Path) -> None:
    """Everything the pages include but nobody types: numbers, tables, pictures, the list of modules."""
    out = book / "_generated"
    out.mkdir(exist_ok=True)
    results, methods = root / "results", book / "methods.yml"
    found = records(results) if results.exists() else ()
    write(out / "cards.md", number_cards(found, results))
    write(out / "scoreboard.md", scoreboards(found, results, pages(methods)))
    write(out / "gallery.md", gallery(found, out, heads(methods), pages(methods)))
    write(out / "hero.md", hero(book))
    write(out / "glance.md", glance(found, results, out))
    write(out / "claims.md", claimed(found, results))
    write(out / "example.md", example(found, results))
    write(out / "scales.md", scales_table())
    write(out / "methods.md", methods_page(methods))
    write(out / "citing.md", citing_page(root / "CITATION.cff"))
    write(out / "api.md", api_index(root / "prx_lab"))
    write_all(book / "api", api_pages(root / "prx_lab"))


def hero(book: Path) -> str:
    """The landing page's buttons and picture, as far as the first notebook and the picture exist."""
    pages = [path.stem for path in sorted((book / "notebooks").glob("*.ipynb"))]
    first = [("notebooks/" + pages[0], "Start with the first notebook", "light")] if pages else []
    links = [*first, ("design", "How it is built", "light\n:outline:")]
    parts = [f"```{{button-ref}} {page}\n:ref-type: doc\n:color: {look}\n{text}\n```" for page, text, look in links]
    if (book / "_static/hero.png").exists():
        parts.append("```{image} _static/hero.png\n:alt: Pictures drawn by recorded runs\n```")
    return "\n".join(parts) + "\n"


def local_mathjax(app) -> None:
    """One file of sphinx-mathjax-offline (its folder is no valid module name, hence the search by distribution path)."""
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"
    target = Path(app.outdir) / "_static/vendor/tex-svg.js"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def sources_anew(app) -> None:
    """Where all pages are read anew, pages of source are made anew: viewcode keeps one whose source is older, wherever its links lead."""
    if not app.env.all_docs:
        shutil.rmtree(Path(app.outdir) / "_modules", ignore_errors=True)


def without_thebe(app, pagename, templatename, context, doctree) -> None:
    """html-page-context: live cells need a server and are off; their set-up names one, and stands twice on every page."""
    texts = ((script, f"{script.filename} {script.attributes.get('body', '')}") for script in context["script_files"])
    context["script_files"] = [script for script, text in texts if "thebe" not in text.lower()]


def use_local_mathjax(app, config) -> None:
    config.mathjax_path = "vendor/tex-svg.js"


def setup(app):
    book = Path(app.confdir)
    mirror(book.parent / "notebooks", book / "notebooks")
    generate(book, book.parent)
    app.connect("builder-inited", local_mathjax)
    app.connect("builder-inited", sources_anew)
    app.connect("config-inited", use_local_mathjax)
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("doctree-read", describe_pictures)
    app.connect("doctree-read", mark_columns)
    app.connect("html-page-context", without_thebe, priority=900)
    return {"env_version": 2, "parallel_read_safe": True, "parallel_write_safe": True}  # a new number has every page read again
