"""The API pages: every module of the package, a page per group; docstrings are plain sentences and need no reStructuredText."""

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


def grouped(package: Path) -> dict[str, list[str]]:
    """{group: modules with something to show}, in the order of GROUPS; unlisted modules come last."""
    todo = [name for name, path in modules(package).items() if is_page(path)]
    listed = [head for heads in GROUPS.values() for head in heads]
    found = {group: [name for head in heads for name in todo if name.split(".")[1] == head] for group, heads in GROUPS.items()}
    found["More"] = [name for name in todo if name.split(".")[1] not in listed]
    return {group: names for group, names in found.items() if names}


def slug(group: str) -> str:
    """The file name of a group's page."""
    return re.sub(r"\W+", "-", group.lower())


def api_pages(package: Path) -> dict[str, str]:
    """{file name: Markdown} with a page per group and on it one autodoc block per module."""
    pages = {}
    for group, names in grouped(package).items():
        blocks = [f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n" for name in names]
        pages[slug(group)] = "\n".join([f"# {group}\n", *blocks])
    return pages


def api_index(package: Path) -> str:
    """Markdown with a list per group: each module, as a link, and the first line of its docstring."""
    files, lines = modules(package), []
    for group, names in grouped(package).items():
        lines += [f"## {group}", ""]
        for name in names:
            told = ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
            first = told.partition("\n")[0]
            lines.append(f"- {{py:mod}}`{name.partition('.')[2]} <{name}>`" + f": {typed(first)}" * bool(first))
        lines.append("")
    return "\n".join(lines)


def typed(text: str) -> str:
    """A docstring's line as Markdown: code stays code, every other mark is shown as typed."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if i % 2 else re.sub(r"([\\*_$<\[\]])", r"\\\1", piece) for i, piece in enumerate(pieces))


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
