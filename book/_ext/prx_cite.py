"""How to cite: CITATION.cff as BibTeX and as a sentence, so that the page and the file cannot disagree."""

import subprocess
from pathlib import Path

import yaml


def commit(root: Path) -> dict[str, str]:
    """The commit that is built and its year; nothing outside a checkout."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h %cs"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": found[0], "date": found[1]}


def citation(source: Path) -> dict[str, object]:
    return yaml.safe_load(source.read_text(encoding="utf-8"))


def citing_page(source: Path) -> str:
    """The part of the page that is made: BibTeX, and a plain line."""
    cff = commit(source.parent) | citation(source)
    return f"```bibtex\n{bibtex(cff)}\n```\n\nIn plain text:\n\n> {plain(cff)}\n"


def bibtex(cff: dict) -> str:
    """A @software entry; fields that the file does not have are left out."""
    fields = {
        "author": " and ".join(f"{{{name}}}" for name in people(cff)),
        "title": f"{{{cff['title']}}}",
        "version": cff.get("version"),
        "year": str(cff.get("date-released") or cff.get("date", ""))[:4],
        "doi": cff.get("doi"),
        "url": cff.get("repository-code") or cff.get("url"),
        "license": cff.get("license"),
        "note": f"commit {cff['commit']}" if "commit" in cff else "",
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return "@software{prx_lab,\n" + ",\n".join(lines) + "\n}"


def plain(cff: dict) -> str:
    year = str(cff.get("date-released") or cff.get("date", ""))[:4] or "unreleased"
    where = cff.get("doi") or cff.get("repository-code") or cff.get("url")
    which = f", commit {cff['commit']}" if "commit" in cff else ""
    return f"{', '.join(people(cff))} ({year}). *{cff['title']}*, version {cff['version']}{which}." + (f" {where}" if where else "")


def people(cff: dict) -> list[str]:
    """Authors as `given family`, or the name of a group."""
    return [author.get("name") or f"{author['given-names']} {author['family-names']}" for author in cff["authors"]]
