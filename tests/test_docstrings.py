"""The API page shows what has a docstring: every public function and class of the package has one."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "prx_lab"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def bare(tree: ast.Module) -> set[str]:
    """The public functions and classes of a module that have no docstring."""
    named = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    return {node.name for node in named if not node.name.startswith("_") and not ast.get_docstring(node)}


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_classes_have_docstrings(module):
    assert bare(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))) == set()


def test_a_bare_name_is_found():
    code = "def a(): pass\nclass B: 'x'\nclass C:\n    def inner(self): pass\nasync def d(): ''\ndef _e(): pass\n"
    assert len(MODULES) > 100 and bare(ast.parse(code)) == {"a", "C", "d"}
