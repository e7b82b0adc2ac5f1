"""The API page: every module of the package, grouped; docstrings are plain sentences and need no reStructuredText."""

import ast
import re
from pathlib import Path

GROUPS = {
    "Experiments": ["recipe", "recipes", "scales", "spec", "run", "train", "start", "checkpoint", "sample", "generic", "live"],
    "The equation": ["flow", "model", "routing", "sprint", "terms", "steps", "guidance", "optim", "muon", "precision"],
    "Data": ["data", "cleaning"],
    "Frozen networks": ["spaces", "autoencoders", "teachers", "text", "detector", "inception", "zoo", "published", "pretrain"],
    "Evaluation and records": ["evaluate", "metrics", "influences", "record", "grid", "siblings", "budget"],
    "What records say": ["report"],
    "Pictures and pages": ["show", "images", "gallery", "cards", "pages", "explorer"],
    "Published models": ["variants", "buckets", "components", "interop", "stored", "hub", "export", "usage", "modelcard"],
    "Cost and memory": ["cost", "footprint", "memory", "plan"],
    "Several processes, one machine": ["parallel", "sharding", "process", "locks", "files", "machine", "doctor", "progress", "errors"],
}
LEFT_OUT = {"prx_lab", "prx_lab.__main__"}
COMMANDS = "prx_lab.cli"  # told of by the README and by --help


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file of every public module."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") for part in name.split(".")) and name not in LEFT_OUT and not name.startswith(COMMANDS):
            found[name] = path
    return found


def is_page(path: Path) -> bool:
    """A module with something to show: a docstring of its own, and in a package's `__init__` some definition."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defines = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)
    return defines or (path.name != "__init__.py" and ast.get_docstring(tree) is not None)


def api_page(package: Path) -> str:
    """Markdown with one autodoc block per module, in the order of GROUPS; unlisted modules come last."""
    todo = {name: path for name, path in modules(package).items() if is_page(path)}
    lines = []
    for group, heads in [*GROUPS.items(), ("More", sorted({name.split(".")[1] for name in todo}))]:
        names = [name for head in heads for name in list(todo) if name.split(".")[1] == head]
        if names:
            lines += [f"## {group}", ""]
        for name in names:
            del todo[name]
            lines += [f"### `{name}`", "", "```{eval-rst}", f".. automodule:: {name}", "   :members:", "```", ""]
    return "\n".join(lines) + "\n"


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """autodoc-process-docstring: plain text, `code`, lists with dashes, and indented blocks shown as they are."""
    result, before = [], "text"
    for line in lines:
        kind = kind_of(line, before) if line.strip() else before
        if kind != before:
            result += ["", "::", ""] if kind == "code" else [""]
        result.append(line if kind == "code" else escape(line))
        before = kind
    lines[:] = [*result, ""]


def kind_of(line: str, before: str) -> str:
    if line.lstrip().startswith(("- ", "* ")):
        return "list"
    if line.startswith("  "):
        return "list" if before == "list" else "code"
    return "text"


def escape(line: str) -> str:
    """Code in single or double backticks becomes a literal; every other mark is shown as typed."""
    pieces = re.split(r"(``.+?``|`[^`]+`)", line)
    plain = [re.sub(r"([\\*|`]|_(?=\W|$)|::|^\()", r"\\\1", piece) for piece in pieces[::2]]
    code = [rf"\ ``{piece.strip('`')}``\ " for piece in pieces[1::2]]
    return re.sub(r"^( *)\\\* ", r"\1- ", "".join(a + b for a, b in zip(plain, [*code, ""])))
