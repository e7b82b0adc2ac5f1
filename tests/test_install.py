"""A plain installation is the checkout's package: every module and weight is in it, and it tells of the same records."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`pip install .`, of a copy, since it leaves a folder `build` behind, and into a folder of its own."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "prx_lab", copy / "prx_lab", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target), str(copy)]
    subprocess.run(command, check=True, timeout=300)
    return target


def files(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.mark.slow
def test_everything_is_in_it(installed):
    assert files(installed / "prx_lab") == files(ROOT / "prx_lab")


@pytest.mark.slow
def test_it_prints_the_checkouts_table(installed):
    def printed(package: Path) -> str:
        code = "import sys, prx_lab; sys.stderr.write(prx_lab.__file__); from prx_lab.cli import main; main()"
        env = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
        command = [sys.executable, "-c", code, "table", "--scale", "cpu", "--markdown"]
        found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=300)
        assert str(package) in found.stderr
        return found.stdout

    assert "post: " in printed(installed) and printed(installed) == printed(ROOT)
