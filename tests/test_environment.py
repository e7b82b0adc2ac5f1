"""The conda environment names the same packages, with the same bounds, as pyproject.toml."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def parse(requirement: str) -> tuple[str, str]:
    """('torch', '>=2.9') from 'torch>=2.9'."""
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", requirement).groups()
    return name, bound.strip()


def conda() -> tuple[dict[str, str], list[str]]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    named = [entry for entry in entries if isinstance(entry, str)] + [entry for entry in pip if not entry.startswith("-")]
    bounds = {CONDA_NAMES.get(name, name): bound for name, bound in map(parse, named)}
    return bounds, [entry for entry in pip if entry.startswith("-")]


def test_conda_and_pyproject_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds, flags = conda()
    assert bounds.pop("python") == project["requires-python"]
    assert bounds.pop("pip") == ""
    assert bounds == dict(map(parse, project["dependencies"]))
    assert flags == ["-e ."]


def test_what_must_stay_pinned_is_pinned():
    bounds, _ = conda()
    assert bounds["jupyter-book"].startswith("==1.")  # version 2 exits 0 on `jupyter-book build book` and builds nothing
    assert bounds["sphinx-book-theme"] == "==1.1.4"  # later versions draw a second search box


def test_every_package_has_a_version_that_was_checked():
    """What `make` installs: one version of each dependency and of what they need, none from a place of somebody's own."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    bounds = dict(map(parse, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]))
    assert bounds.keys() <= pinned.keys() and lines == sorted(lines) and len(pinned) == len(lines)
    for name, bound in bounds.items():
        assert pinned[name] in SpecifierSet(bound), name
