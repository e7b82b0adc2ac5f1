"""The page on adding a method: the file that it shows is a method, and does what its formula says."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch
from tiny import store, tiny

from prx_lab.data.batch import Batch, Text
from prx_lab.errors import LabError
from prx_lab.flow import corrupt
from prx_lab.generic import breaks, examine, resumes
from prx_lab.model import Feat
from prx_lab.optim import EMA
from prx_lab.recipes import BASE, RECIPES
from prx_lab.routing import TREAD
from prx_lab.terms import REPA, Out, Term, TermModule

PAGE = Path(__file__).parent.parent / "notebooks" / "90_your_own.ipynb"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> ModuleType:
    """The cell that is marked as the file, imported as one."""
    (cell,) = [c for c in nbformat.read(PAGE, as_version=4).cells if "the-file" in c.metadata.get("tags", ())]
    file = tmp_path_factory.mktemp("terms") / "dispersive.py"
    file.write_text(cell.source + "\n")
    spec = importlib.util.spec_from_file_location("dispersive", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def value(page: ModuleType, z: torch.Tensor, tau: float) -> float:
    B, no = len(z), torch.zeros(len(z), dtype=torch.bool)
    x, text = torch.zeros(B, 1, 2, 2), Text(torch.zeros(B, 1, 1), ~no[:, None], torch.zeros(1, 1, 1), ~no[:1, None])
    out = Out(x, x, x, {0: Feat(z, None)}, no, torch.arange(B))
    return page.DispersiveLoss(0, tau)(corrupt(x, x, torch.zeros(B)), out, Batch(x, text, {})).item()


def test_equals_a_loop_over_the_formula(page):
    z = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    flat, total = z.double().flatten(1), 0.0
    for a in flat:
        for b in flat:
            total += math.exp(-sum((p - q).item() ** 2 for p, q in zip(a, b)) / (6 * 0.5))
    assert value(page, z, 0.5) == pytest.approx(math.log(total / 25), abs=1e-5)
    assert value(page, torch.ones(4, 3, 2), 1.0) == pytest.approx(0, abs=1e-6)


def test_the_page_answers_every_question_with_yes(page):
    base = tiny(BASE)
    answers = examine(base.plus(page.Dispersive()), base.plus(page.Dispersive(weight=0.0)), base, 4, store)
    assert len(answers.found) == 5 and all(answers.found.values()), answers


def test_inside_a_route_it_is_refused(page):
    with pytest.raises(LabError, match="every token"):
        BASE.but(router=TREAD()).plus(page.Dispersive(depth=0.5))


class Careless(TermModule):
    """Draws for itself and decides by a tensor's value."""

    def forward(self, point, out, batch) -> torch.Tensor:
        noise = torch.randn_like(out.v)
        return (out.v * noise).mean() if noise.sum().item() > 0 else (out.x * noise).mean()


class CarelessTerm(Term):
    def build(self, model, widths) -> TermModule:
        return Careless()


def test_the_questions_can_be_answered_with_no():
    base = tiny(BASE)
    careless = base.plus(CarelessTerm())
    assert not resumes(careless, 4, store) and breaks(careless, store) > 0
    found = examine(base, base.plus(REPA()), base, 4, store).found  # on and off confused
    assert list(found.values()) == [False, False, True, True, True]


def test_phases_and_averages_are_part_of_the_questions():
    recipe = tiny(RECIPES["repa"].but(ema=EMA(0.9)).then(0.5, BASE))
    assert breaks(recipe, store) == 0 and resumes(recipe, 6, store)
