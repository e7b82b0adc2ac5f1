"""A scoreboard's lines, made once and set as aligned text, Markdown or HTML."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from prx_lab.report.posts import change

if TYPE_CHECKING:
    from prx_lab.report.columns import Metric
    from prx_lab.report.table import Cell, Row, Table

NOTHING = "–"
FINEST = 6  # digits beyond a metric's own, at most
NO_BREAK = "\u00a0"


def minus(text: str) -> str:
    """A number's text with the sign that is set in tables."""
    return text.replace("-", "−")


def percent(value: float, unit: str = " %") -> str:
    """A share in whole per cent with its sign; an empty string for NaN."""
    if math.isnan(value):
        return ""
    text = f"{100 * value:+.0f}"
    return minus("+0" if text == "-0" else text) + unit


def bound(value: float) -> str:
    """The end of an interval in per cent without the unit: whole, but for one that would round to zero and so lose its side.

    Beyond a hundred times the baseline the size says no more than that the seeds know none.
    """
    if 100 * value > 9999:
        return "> +9999"
    text = percent(value, "")
    digits = max(1, -math.floor(math.log10(abs(100 * value)))) if value else 0
    return minus(f"{100 * value:+.{digits}f}") if text == "+0" and value else text


def upper(value: float, digits: int = 2) -> str:
    """The upper end of a factor's interval; beyond 999 the size says no more than that the seeds know none."""
    return f"{value:.{digits}f}" if value < 999 else "> 999"


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not one."""
    return f"{n} {noun}{'s' * (n != 1)}"


@dataclass(frozen=True)
class Line:
    """One printed line: what it is (run, difference, post, ceiling), its label, its n, and a text per metric."""

    kind: str
    label: str
    n: str
    texts: tuple[str, ...]
    better: tuple[int, ...]  # +1 better, -1 worse than the baseline with an interval that excludes zero, else 0


def lines(table: "Table") -> list[Line]:
    """All lines of a table, in order; a recipe has one to three."""
    found = [line for row in table.rows for line in _row(row, table.metrics)]
    if table.ceiling:
        texts = tuple(m.show(table.ceiling.get(m.name, math.nan)) for m in table.metrics)
        found.append(Line("ceiling", "real images, same judge", "", texts, (0,) * len(texts)))
    return found


def _row(row: "Row", metrics: tuple["Metric", ...]) -> list[Line]:
    none = (0,) * len(metrics)
    if not row.seeds:
        found = [Line("empty", f"{row.label}: no runs recorded", "0", (NOTHING,) * len(metrics), none)]
    else:
        found = [Line("run", row.label, str(len(row.seeds)), tuple(_value(row, m) for m in metrics), none)]
    common = max((len(row.cells[m.name].common) for m in metrics), default=0)
    if common and not row.is_baseline:
        texts = tuple(_difference(row.cells[m.name], m, common) for m in metrics)
        found.append(Line("difference", "  Δ", str(common), texts, tuple(mark(row.cells[m.name], m) for m in metrics)))
    if row.post and any(m.name in row.post.values for m in metrics):
        found.append(Line("post", f"  {row.post.label}", "1", tuple(_post(row, m) for m in metrics), none))
    return found


def _value(row: "Row", metric: "Metric") -> str:
    cell = row.cells[metric.name]
    if not cell.n:
        return NOTHING
    reached = sum(math.isfinite(value) for value in cell.values.values())
    if reached < cell.n:
        return f"{reached} of {cell.n} reach it"
    spread = "" if math.isnan(cell.sd) else f" ± {metric.show(cell.sd)}"
    return f"{metric.show(cell.mean)}{spread}" + (f" (n={cell.n})" if cell.n != len(row.seeds) else "")


def _difference(cell: "Cell", metric: "Metric", common: int) -> str:
    mean, lo, hi = cell.difference()
    if math.isnan(mean):
        return NOTHING
    fine = finer(cell, metric)
    interval = "" if math.isnan(lo) else f" [{fine.show(lo, sign=True)}, {fine.show(hi, sign=True)}]"
    return f"{fine.show(mean, sign=True)}{interval}" + (f" (n={len(cell.common)})" if len(cell.common) != common else "")


def finer(cell: "Cell", metric: "Metric") -> "Metric":
    """The metric with more digits where an interval excludes zero and a rounded bound would not."""
    if not mark(cell, metric):
        return metric
    tried = (replace(metric, digits=metric.digits + more) for more in range(FINEST))
    return next((one for one in tried if all(one.show(bound).strip("0.") for bound in cell.difference()[1:])), metric)


def mark(cell: "Cell", metric: "Metric") -> int:
    """+1 better, -1 worse than the baseline where the interval excludes zero, else 0.

    Also 0 for a timed metric, and where all differences are equal, as counts can be: that interval has no width and says nothing.
    """
    _, lo, hi = cell.difference()
    if metric.timed or math.isclose(lo, hi):
        return 0
    sign = (lo > 0) - (hi < 0)  # NaN compares false: no interval, no verdict
    return -sign if metric.lower else sign


def _post(row: "Row", metric: "Metric") -> str:
    value = row.post.values.get(metric.name, math.nan)
    moved = math.nan if row.is_baseline else change(row.post, row.post_base, metric.name)
    return metric.show(value) + ("" if math.isnan(moved) else f" ({metric.show(moved, sign=True)})")


# ------------------------------------------------------------------------------------------------ setting
def _head(table: "Table") -> list[str]:
    return [f"{table.scale} scale", "n", *(m.head for m in table.metrics)]


def text(table: "Table") -> str:
    """Aligned columns for a terminal."""
    body = [[line.label, line.n, *line.texts] for line in lines(table)]
    cells = [_head(table), *body]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    set_lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in cells]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([set_lines[0], rule, *set_lines[1:], *([rule, *table.notes] if table.notes else [])])


def markdown(table: "Table") -> str:
    """A GitHub table, then the notes as paragraphs."""
    head, found = _head(table), lines(table)
    rows = [head, [":---", *["---:"] * (len(head) - 1)]]
    notes = ["Bold Δ: its interval excludes zero, for better or for worse."] * any(any(line.better) for line in found) + list(table.notes)
    for line in found:
        label = f"**{line.label}**" if line.kind == "run" else line.label.strip()
        texts = [f"**{t}**" if better else t for t, better in zip(line.texts, line.better, strict=True)]
        rows.append([label.replace("|", "\\|"), line.n, *texts])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n" + "".join(f"\n{note}\n" for note in notes)


LINE = "border-top:1px solid #77808c55"
STYLE = {  # mid-tones that read on white and on a dark page; the theme's own colour for text
    "run": f"{LINE};font-weight:600",
    "empty": f"{LINE};opacity:.6",
    "difference": "",
    "post": "opacity:.65;font-size:90%",
    "ceiling": "border-top:1px solid #77808c;font-style:italic",
}
VERDICT = {1: "color:#3f9b6c;font-weight:600", -1: "color:#c8553d;font-weight:600", 0: ""}


def html(table: "Table") -> str:
    """A table for a notebook or the book; a difference whose interval excludes zero is green (better) or red (worse)."""
    first, *others = _head(table)
    rows = [("", [words(first, "th"), *(number(text, "th") for text in others)])]
    for line in lines(table):
        cells = [number(text, style=VERDICT[better]) for text, better in zip(line.texts, line.better, strict=True)]
        rows.append((STYLE[line.kind], [words(line.label), number(line.n), *cells]))
    return framed(rows, table.notes)


def words(text: str, tag: str = "td") -> str:
    """An HTML cell of words; spaces before them indent it, and the name of a measure stays on one line."""
    style = "text-align:left" + ";padding-left:1.6em" * text.startswith(" ") + ";white-space:nowrap" * text.endswith(("↓", "↑"))
    return _element(tag, escape(text.strip()), style)


def number(text: str, tag: str = "td", style: str = "") -> str:
    """An HTML cell of a number, broken before its interval at most, or its head, broken between words but before no sign.

    Notebooks and the book set cells to the right by themselves.
    """
    kept = r" (?=[%↓↑])" if tag == "th" else r" (?!\[|reach)"
    return _element(tag, re.sub(kept, NO_BREAK, escape(text)), style)


def _element(tag: str, content: str, style: str) -> str:
    return f'<{tag} style="{style}">{content}</{tag}>' if style else f"<{tag}>{content}</{tag}>"


def framed(rows: Sequence[tuple[str, Sequence[str]]], notes: Sequence[str]) -> str:
    """(style, HTML cells) of each row as a table that scrolls sideways where the page is narrow, the notes small below it.

    Styles stand in the elements, as JupyterLab drops style sheets from a notebook that it does not trust.
    """
    body = "".join(_element("tr", "".join(cells), style) for style, cells in rows)
    table = f'<table class="prx-table" style="border-collapse:collapse;font-variant-numeric:tabular-nums">{body}</table>'
    told = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f'<div style="overflow-x:auto">{table}</div><div style="font-size:85%;opacity:.75">{told}</div>'
