"""A plain table with a head, rows and notes: aligned text in a terminal, HTML that reads on white and on dark in a notebook."""

from dataclasses import dataclass
from html import escape

from prx_lab.layout import NOTHING


@dataclass(frozen=True, repr=False)
class Listing:
    """Rows of texts under a head; columns named in `right` hold numbers. It scrolls sideways where the page is narrow."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        cells = [self.head, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.head))]
        lines = ["  ".join(self._pad(row, i, widths[i]) for i in range(len(row))).rstrip() for row in cells]
        return "\n".join([lines[0], "─" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:], *self.notes])

    def _pad(self, row: tuple[str, ...], i: int, width: int) -> str:
        text = row[i] or NOTHING
        return text.rjust(width) if self.head[i] in self.right else text.ljust(width)

    def _repr_html_(self) -> str:
        styles = [f"text-align:{'right' if name in self.right else 'left'};padding:.15em .7em;white-space:nowrap" for name in self.head]
        head = "".join(f'<th style="{style}">{escape(name)}</th>' for name, style in zip(self.head, styles, strict=True))
        body = []
        for row in self.rows:
            cells = "".join(f'<td style="{style}">{escape(text or NOTHING)}</td>' for text, style in zip(row, styles, strict=True))
            body.append(f'<tr style="border-top:1px solid #77808c55">{cells}</tr>')
        table = '<table class="prx-table" style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        rows = f"<tr>{head}</tr>{''.join(body)}"
        return f'<div style="overflow-x:auto">{table}{rows}</table></div><div style="font-size:85%;opacity:.75">{notes}</div>'
