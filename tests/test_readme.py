"""README shows what is true: pictures that exist, commands that exist, and the scoreboard that the records give.

`python tests/test_readme.py` writes the current scoreboard into README.md and makes its picture (`make notebooks` does that too).
"""

import re
from pathlib import Path

import pytest
from PIL import Image

from prx_lab import recipes
from prx_lab.cli import app
from prx_lab.record import records
from prx_lab.report.forest import forest, ranked
from prx_lab.report.table import Table
from prx_lab.show import Plot

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MARK = "<!-- scoreboard -->"
SCALE = "cpu"
HERO, GLANCE = (ROOT / "book" / "_static" / name for name in ("hero.png", "glance.png"))


def with_scoreboard(text: str) -> str:
    """README's text with the recorded scoreboard between its two marks."""
    before, _, after = text.split(MARK)
    picture = f"![{glance()}]({GLANCE.relative_to(ROOT).as_posix()})"
    table = Table.of(SCALE, root=ROOT / "results").markdown().strip()
    fold = f"<details><summary>The whole scoreboard: every recorded recipe, all scores</summary>\n\n{table}\n\n</details>"
    return f"{before}{MARK}\n\n{picture}\n\n{fold}\n\n{MARK}{after}"


def glance() -> Plot:
    """The post's techniques in one figure; its text, which README holds, has its numbers."""
    root = ROOT / "results"
    return forest(ranked(scale=SCALE, root=root, among=recipes.GLANCE), scale=SCALE, root=root)


def test_scoreboard_is_the_recorded_one():
    text = README.read_text(encoding="utf-8")
    assert text == with_scoreboard(text), "run `python tests/test_readme.py`"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_pictures_links_and_commands_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert targets
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target
    commands = " ".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    assert set(re.findall(r"make (\w+)", commands)) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"prx-lab (\w+)", commands)) <= {command.callback.__name__ for command in app.registered_commands}


@pytest.mark.parametrize("picture", [HERO, GLANCE])
def test_the_pictures_of_the_first_page_exist(picture):
    assert picture.relative_to(ROOT).as_posix() in README.read_text(encoding="utf-8") and picture.exists()


def hero() -> Image.Image:
    """The recorded sample grid of the recipe that composes best, twice as large."""
    best = max(records(ROOT / "results", SCALE), key=lambda record: record.metric("composition"))
    grid = Image.open(best.samples).convert("RGB")
    return grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    hero().save(HERO, optimize=True)
    glance().save(GLANCE)
    README.write_text(with_scoreboard(README.read_text(encoding="utf-8")), encoding="utf-8")
