"""What stands beside a scoreboard: a plain table with a head, rows and notes, and lines of text; for a terminal and for a notebook."""

from dataclasses import dataclass

from prx_lab.report.layout import LINE, NOTHING, framed, number, words


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
        head = [self._cell(name, name, "th") for name in self.head]
        body = [(LINE, [self._cell(name, text or NOTHING) for name, text in zip(self.head, row, strict=True)]) for row in self.rows]
        return framed([("", head), *body], self.notes)

    def _cell(self, name: str, text: str, tag: str = "td") -> str:
        return number(text, tag) if name in self.right else words(text, tag)


@dataclass(frozen=True)
class Note:
    """Lines of text: what records say in words, or in the place of something that is not recorded yet."""

    text: str

    def _repr_markdown_(self) -> str:
        return "<br>\n".join(f"*{line}*" for line in self.text.splitlines())

    def __repr__(self) -> str:
        return self.text
