"""How to cite: CITATION.cff as BibTeX and as a sentence, so that the page and the file cannot disagree."""

from pathlib import Path

import yaml


def citation(source: Path) -> dict[str, object]:
    return yaml.safe_load(source.read_text(encoding="utf-8"))


def citing_page(source: Path) -> str:
    """The part of the page that is made: BibTeX, and a plain line."""
    cff = citation(source)
    return f"```bibtex\n{bibtex(cff)}\n```\n\nIn plain text:\n\n> {plain(cff)}\n"


def bibtex(cff: dict) -> str:
    """A @software entry; fields that the file does not have are left out."""
    fields = {
        "author": " and ".join(f"{{{name}}}" for name in people(cff)),
        "title": f"{{{cff['title']}}}",
        "version": cff.get("version"),
        "year": str(cff.get("date-released", ""))[:4],
        "doi": cff.get("doi"),
        "url": cff.get("repository-code") or cff.get("url"),
        "license": cff.get("license"),
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return "@software{prx_lab,\n" + ",\n".join(lines) + "\n}"


def plain(cff: dict) -> str:
    year = str(cff.get("date-released", ""))[:4] or "unreleased"
    where = cff.get("doi") or cff.get("repository-code") or cff.get("url")
    return f"{', '.join(people(cff))} ({year}). *{cff['title']}*, version {cff['version']}." + (f" {where}" if where else "")


def people(cff: dict) -> list[str]:
    """Authors as `given family`, or the name of a group."""
    return [author.get("name") or f"{author['given-names']} {author['family-names']}" for author in cff["authors"]]
