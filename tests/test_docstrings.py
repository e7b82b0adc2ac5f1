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


def methods(tree: ast.Module) -> set[tuple[str, bool]]:
    """(name, documented) of the public methods of public classes."""
    kinds = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    functions = [node for kind in kinds for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {(node.name, bool(ast.get_docstring(node))) for node in functions if not node.name.startswith("_")}


def test_public_methods_have_docstrings_where_they_are_declared():
    """A method without one must bear the name of one that has: it overrides that."""
    found = {one for module in MODULES for one in methods(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))}
    assert {name for name, told in found if not told} <= {name for name, told in found if told}
