"""Recorded runs as parts of the landing page: number cards, scoreboards, a gallery. No number on the page is typed."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from prx_lab.columns import columns
from prx_lab.record import Record
from prx_lab.table import Row, Table

SCALES = {"gpu": "one GPU", "cpu": "two laptop cores", "smoke": "CI, seconds"}  # the most telling first
NOTHING = "No runs are recorded yet: `make run` records a first pair.\n"


def scales(records: Sequence[Record]) -> list[str]:
    """Recorded scales, the most telling first; smoke proves only that the code runs, so it shows where nothing else is."""
    found = {record.scale for record in records}
    order = [scale for scale in SCALES if scale in found] + sorted(found - SCALES.keys())
    return [scale for scale in order if scale != "smoke"] or order


def told(scale: str) -> str:
    return f"{scale} scale ({SCALES[scale]})" if scale in SCALES else f"{scale} scale"


# ------------------------------------------------------------------------------------------------- cards
def number_cards(records: Sequence[Record], root: Path) -> str:
    """Up to four cards: runs on record, and the best recipe against the baseline at the most telling scale."""
    if not records:
        return NOTHING
    tables = [Table.of(scale, root=root) for scale in scales(records)]
    table = next((t for t in tables if challenger(t)), tables[0])
    cards = [runs_card(records), *comparison_cards(table)]
    body = "\n".join(f":::{{grid-item-card}} {value}\n:class-card: prx-number\n{text}\n:::\n" for value, text in cards)
    return f"::::{{grid}} 2 2 4 4\n:gutter: 2\n\n{body}\n::::\n"


def runs_card(records: Sequence[Record]) -> tuple[str, str]:
    shown = [record for record in records if record.scale in scales(records)]
    recipes = {record.name for record in shown}
    return str(len(shown)), f"recorded runs of {len(recipes)} recipe{'s' * (len(recipes) > 1)} ({', '.join(scales(records))} scale)"


def challenger(table: Table) -> Row | None:
    """The recorded recipe with the lowest mean FID, the baseline set aside."""
    rows = [row for row in table.rows if row.cells["fid"].common and not row.is_baseline]
    return min(rows, key=lambda row: row.cells["fid"].mean, default=None)


def comparison_cards(table: Table) -> list[tuple[str, str]]:
    metric = {m.name: m for m in table.metrics}
    base = next((row for row in table.rows if row.is_baseline and row.seeds), None)
    best = challenger(table)
    if base is None or best is None:
        return []
    fid, seeds = metric["fid"], len(best.cells["fid"].common)
    before, after = fid.show(base.cells["fid"].mean), fid.show(best.cells["fid"].mean)
    mean, lo, hi = best.cells["fid"].difference()
    delta = f"{fid.show(mean, True)} [{fid.show(lo, True)}, {fid.show(hi, True)}] over {seeds} seeds"
    sure = "one seed, no interval" if math.isnan(lo) else f"difference {delta}"
    cards = [(f"{before} → {after}", f"{fid.title}, baseline → {best.label}, {told(table.scale)}: {sure}")]
    cards += faster(base, best, fid.title)
    right = best.cells["composition"].mean
    if not math.isnan(right):
        real = metric["composition"].show(table.ceiling.get("composition", math.nan))
        text = f"of what the caption says is in the picture ({best.label}; real images: {real} %)"
        cards.append((f"{metric['composition'].show(right)} %", text))
    return cards


def faster(base: Row, best: Row, judge: str) -> list[tuple[str, str]]:
    """How much sooner the challenger has the baseline's final quality; nothing where it never has it."""
    ours, theirs = best.cells["seconds_to_baseline"], base.cells["seconds_to_baseline"]
    if not (ours.n and theirs.n and math.isfinite(ours.mean) and math.isfinite(theirs.mean)):
        return []
    text = f"sooner at the baseline's final {judge}: {ours.mean:.0f} s for {best.label}, {theirs.mean:.0f} s for the baseline"
    return [(f"{theirs.mean / ours.mean:.2f} ×", text)]


# -------------------------------------------------------------------------------------------- scoreboard
def scoreboards(records: Sequence[Record], root: Path) -> str:
    """One tab per scale, each the library's own table."""
    if not records:
        return NOTHING
    boards = {scale: board(scale, root) for scale in scales(records)}
    if len(boards) == 1:
        return "".join(boards.values())
    tabs = "\n".join(f":::{{tab-item}} {told(scale)}\n{text}:::\n" for scale, text in boards.items())
    return f"::::{{tab-set}}\n{tabs}::::\n"


def board(scale: str, root: Path) -> str:
    """The library's own table, with intervals below their differences so that it fits the page."""
    table, end, notes = Table.of(scale, root=root)._repr_html_().partition("</table>")
    return f'```{{raw}} html\n<div class="prx-board">{table.replace(" [", "<br>[")}{end}{notes}</div>\n```\n'


# ------------------------------------------------------------------------------------------------- gallery
def gallery(records: Sequence[Record], out: Path) -> str:
    """A card with the sample grid of each recipe's first seed at the most telling scale; pictures are copied to `out`."""
    shown = [record for record in records if record.samples.exists() and record.scale == scales(records)[0]]
    first = {record.folder.parent: record for record in reversed(shown)}
    order = sorted(first.values(), key=lambda record: (record.name != "baseline", record.name))
    if not order:
        return "No sample grids are recorded yet.\n"
    cards = [card(record, out) for record in order]
    columns = 3 if len(order) % 3 == 0 else 2
    return f"::::{{grid}} 1 1 2 {columns}\n:gutter: 3\n:class-container: prx-gallery\n\n" + "\n".join(cards) + "\n::::\n"


def card(record: Record, out: Path) -> str:
    picture = out / "gallery" / f"{record.scale}-{record.folder.parent.name}.png"
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(record.samples, picture)
    shown = columns(("fid", "composition"), [record])
    numbers = [f"{metric.title} {metric.show(record.metric(metric.name))}" for metric in shown]
    text = f"{told(record.scale)}, seed {record.seed}: {', '.join(numbers)}"
    return (
        f":::{{grid-item-card}} {record.name}\n:img-top: _generated/gallery/{picture.name}\n"
        f":img-alt: Samples of {record.name} at fixed prompts and noise\n\n{text}\n:::\n"
    )
