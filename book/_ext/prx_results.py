"""Recorded runs as parts of the landing page: number cards, scoreboards, a gallery. No number on the page is typed."""

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from prx_lab.errors import LabError
from prx_lab.images import sheet
from prx_lab.pages import tiles
from prx_lab.recipes import GLANCE
from prx_lab.record import Record
from prx_lab.record import records as find_records
from prx_lab.report import pairs, tally
from prx_lab.report.arrival import speedup
from prx_lab.report.columns import columns
from prx_lab.report.comparable import course
from prx_lab.report.forest import forest, ranked
from prx_lab.report.layout import NO_BREAK, Line, lines
from prx_lab.report.table import Cell, Row, Table
from prx_lab.scales import SCALES as SIZES

SCALES = {"gpu": "one GPU", "cpu": "minutes on a CPU", "smoke": "CI, seconds"}  # the most telling first
STACK = "speedrun-tuned"  # of which a card tells how much sooner it is
PIXELS = ("jit-muon", "jit")  # baselines of scales in pixels
EVIDENCE = "notebooks/04_the_evidence.ipynb"
CARD_ROWS, CARD_COLUMNS = 2, 4  # images of a gallery's card
FRACTION = "A fraction in the place of seconds says how many of a recipe's runs reach the baseline's quality."
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
    cards = [runs_card(records), *comparison_cards(table, records)]
    body = "\n".join(f":::{{grid-item-card}} {value}\n:class-card: prx-number\n{text}\n:::\n" for value, text in cards)
    return f"::::{{grid}} 2 2 4 4\n:gutter: 2\n\n{body}\n::::\n"


def runs_card(records: Sequence[Record]) -> tuple[str, str]:
    shown = [record for record in records if record.scale in scales(records)]
    own = {(r.scale, r.seed, course(r.recipe) if "scale" in r.recipe else r.folder) for r in shown if not r.borrows}
    recipes = len({record.name for record in shown})
    of = f"{len(own)} training{'s' * (len(own) != 1)} and {recipes} recipe{'s' * (recipes != 1)}"
    return str(len(shown)), f"recorded runs of {of} ({', '.join(scales(records))} scale)"


def challenger(table: Table) -> Row | None:
    """The technique with the lowest mean FID; a control, such as a row without guidance, only where no technique is recorded."""
    rows = [row for row in table.rows if row.cells["fid"].common and not row.is_baseline]
    rows = [row for row in rows if row.label in GLANCE] or rows
    return min(rows, key=lambda row: row.cells["fid"].mean, default=None)


def comparison_cards(table: Table, records: Sequence[Record]) -> list[tuple[str, str]]:
    metric = {m.name: m for m in table.metrics}
    base = next((row for row in table.rows if row.is_baseline and row.seeds), None)
    best = challenger(table)
    if base is None or best is None:
        return []
    fid, seeds = metric["fid"], len(best.cells["fid"].common)
    before, after = map(fid.show, pair(best.cells["fid"]))
    mean, lo, hi = best.cells["fid"].difference()
    delta = f"{fid.show(mean, True)} [{fid.show(lo, True)}, {fid.show(hi, True)}] over {seeds} seeds"
    sure = "one seed, no interval" if math.isnan(lo) else f"difference {delta}"
    cards = [(f"{before} → {after}", f"{fid.title}, baseline → {best.label}, {told(table.scale)}: {sure}")]
    cards += sooner(table.scale, base.label, fid.title, records)
    right = best.cells["composition"].mean
    if not math.isnan(right):
        real = metric["composition"].show(table.ceiling.get("composition", math.nan))
        text = f"of captioned objects are found with the right shape and colour ({best.label}; real images: {real} %)"
        cards.append((f"{metric['composition'].show(right)} %", text))
    return cards


def pair(cell: Cell) -> tuple[float, float]:
    """The means of the baseline and of a recipe over the seeds that both have; NaN where there are none."""
    return tuple(statistics.fmean(values[seed] for seed in cell.common) if cell.common else math.nan for values in (cell.base, cell.values))


def sooner(scale: str, base: str, judge: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    """How many times sooner the tuned stack has the baseline's final quality; nothing where some seed never has it.

    One recipe, named beforehand: the surest of many would flatter. Steps are exact, while seconds depend on what else the machine did.
    """
    found = speedup(*pairs.pair(tuple(records), STACK, base, scale), "step")
    if math.isnan(found.interval.mean):
        return []
    decided = "" if found.interval.lo > 1 or found.interval.hi < 1 else ", undecided"
    text = f"sooner, in steps, at the baseline's final {judge}: {STACK}, {found.text} over {found.n} seed{'s' * (found.n > 1)}{decided}"
    return [(f"{found.interval.mean:.2f} ×", text)]


# -------------------------------------------------------------------------------------------- scoreboard
def scoreboards(records: Sequence[Record], root: Path, pages: Mapping[str, str]) -> str:
    """One tab per scale, each a table whose recipes lead to the pages that `pages` names."""
    if not records:
        return NOTHING
    boards = {scale: board(scale, root, pages) for scale in scales(records)}
    if len(boards) == 1:
        return "".join(boards.values())
    tabs = "\n".join(f":::{{tab-item}} {scale}\n{text}:::\n" for scale, text in boards.items())
    return f"::::{{tab-set}}\n{tabs}::::\n"


def board(scale: str, root: Path, pages: Mapping[str, str]) -> str:
    """The table of a scale as HTML whose columns a script can sort: a body per recipe, so that its lines stay together."""
    table = Table.of(scale, baseline=compared(scale, root), root=root)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("recipe", "n", *(metric.head for metric in table.metrics)))
    some = any(" reach it" in text for line in lines(table) for text in line.texts)
    notes = "".join(f"<p>{escape(note)}</p>" for note in (*table.notes, *[FRACTION] * some)) + missing(table, pages)
    caption = f"Every recorded recipe at {told(scale)}"
    return (
        f'```{{raw}} html\n<div class="prx-board" role="region" tabindex="0" aria-label="{escape(caption)}">\n'
        f'<table class="prx-table prx-sortable">\n<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f'{"".join(bodies(table, pages))}</table>\n</div>\n<div class="prx-notes">{notes}</div>\n```\n'
    )


def compared(scale: str, root: Path) -> str:
    """What the rows of a scale are held against: the baseline or, where that is not recorded, the one in pixels with the most seeds."""
    seeds = Counter(record.name for record in find_records(root, scale))
    return "baseline" if seeds["baseline"] else max(PIXELS, key=lambda name: seeds[name]) if any(map(seeds.get, PIXELS)) else "baseline"


def missing(table: Table, wanted: Iterable[str]) -> str:
    """A fold with the recipes among `wanted` that have no run at this scale; nothing where all have one."""
    names = [name for name in wanted if name not in {row.label for row in table.rows}]
    count = f"{len(names)} recipe{'s have' if len(names) > 1 else ' has'} no run at this scale"
    return f"<details><summary>{count}</summary><p>{escape(', '.join(names))}</p></details>" if names else ""


def bodies(table: Table, pages: Mapping[str, str]) -> list[str]:
    """A table body for each recipe, with what its columns are sorted by, and one for the lines that belong to none."""
    keys = iter(sort_keys(table))
    groups: list[list[Line]] = []
    for line in lines(table):
        if line.kind in ("run", "empty", "ceiling") or not groups:
            groups.append([])
        groups[-1].append(line)
    opened = ["<tfoot>" if group[0].kind == "ceiling" else f"<tbody data-keys='{next(keys)}'>" for group in groups]
    return [f"{tag}\n{''.join(line_html(line, pages) for line in group)}</{tag[1:6]}>\n" for tag, group in zip(opened, groups, strict=True)]


def sort_keys(table: Table) -> list[str]:
    """For each recipe its label, n and means as JSON; null for what was not measured or reached, or judged otherwise than the baseline."""
    alike = (row.is_baseline or any(cell.base for cell in row.cells.values()) for row in table.rows)
    means = ([row.cells[metric.name].mean if same else math.nan for metric in table.metrics] for row, same in zip(table.rows, alike))
    plain = ([value if math.isfinite(value) else None for value in row] for row in means)
    return [escape(json.dumps([row.label, len(row.seeds), *values])) for row, values in zip(table.rows, plain)]


def broken(text: str) -> str:
    """A cell as HTML whose column stays narrow: its interval and its n on lines of their own, runs that arrive as a fraction."""
    few = re.sub(r"^(\d+) of (\d+) reach it", r'\1/\2<span class="prx-said"> reach it</span>', escape(text))
    return few.replace(" [", "<br>[").replace(" (n=", "<br>(n=")


def line_html(line: Line, pages: Mapping[str, str]) -> str:
    """One line; what is better or worse than the baseline is also said in words, not by colour alone."""
    word = {1: ' <span class="prx-better">▲<span class="prx-said"> better</span></span>', 0: ""}
    word[-1] = ' <span class="prx-worse">▼<span class="prx-said"> worse</span></span>'
    pairs = zip(line.texts, line.better, strict=True)
    cells = "".join(f"<td>{broken(text)}{word[better]}</td>" for text, better in pairs)
    label = escape(line.label.strip())
    label = f'<a href="{pages[line.label]}.html">{label}</a>' if line.kind == "run" and line.label in pages else label
    return f'<tr class="prx-{line.kind}"><th scope="row">{label}</th><td>{line.n}</td>{cells}</tr>\n'


# ------------------------------------------------------------------------------------------------- gallery
def gallery(records: Sequence[Record], out: Path, heads: Iterable[str], pages: Mapping[str, str]) -> str:
    """A card with the sample grid of the first seed of every recipe among `heads` at the most telling scale, copied to `out`.

    A card leads to the page that `pages` names.
    """
    shown = [record for record in records if record.samples.exists() and record.scale == scales(records)[0]]
    wanted = [record for record in shown if record.name in set(heads)] or shown
    first = {record.folder.parent: record for record in reversed(wanted)}
    order = sorted(first.values(), key=lambda record: (record.name != "baseline", record.name))
    if not order:
        return "No sample grids are recorded yet.\n"
    cards = [card(record, out, pages.get(record.name, "")) for record in order]
    columns = 3 if len(order) % 3 == 0 or len(order) > 4 else 2
    return f"::::{{grid}} 1 1 2 {columns}\n:gutter: 3\n:class-container: prx-gallery\n\n" + "\n".join(cards) + "\n::::\n"


def card(record: Record, out: Path, page: str) -> str:
    """A card with the first images of a run, large enough to see what they are, and its scores."""
    picture = out / "gallery" / f"{record.scale}-{record.folder.parent.name}.png"
    picture.parent.mkdir(exist_ok=True)
    sheet(tiles(record)[: CARD_ROWS * CARD_COLUMNS], CARD_COLUMNS).save(picture)
    shown = columns(("fid", "composition"), [record])
    text = ", ".join(f"{metric.title} {metric.show(record.metric(metric.name))}".replace(" ", NO_BREAK) for metric in shown)
    link = f":link: {page}\n:link-type: doc\n" if page else ""
    return (
        f":::{{grid-item-card}} {record.name}\n{link}:img-top: _generated/gallery/{picture.name}\n"
        f":img-alt: Samples of {record.name} at fixed prompts and noise\n\n{text}\n:::\n"
    )


# ------------------------------------------------------------------------------------------ how to read
def glance(records: Sequence[Record], root: Path, out: Path) -> str:
    """The recipes of the post and the stack in one figure, at the most telling scale at which one can be compared."""
    for scale in scales(records):
        try:
            names = ranked(scale=scale, root=root, among=GLANCE)
            plot = forest(names, scale=scale, root=root) if names else None
        except LabError:
            continue
        if plot:
            plot.save(out / "forest.png")
            return f"```{{image}} {out.name}/forest.png\n:alt: {plot}\n:class: prx-plot\n```\n"
    return NOTHING


def claimed(records: Sequence[Record], root: Path) -> str:
    """What became of the post's claims, in a line; no line where no pair that tests one is recorded."""
    for scale in scales(records):
        try:
            counts = tally.told(tally.verdicts(scale, root))
        except LabError:
            continue
        return f"What became of the post's claims, by a rule of intervals, one line each on [page 04]({EVIDENCE}): {counts}\n"
    return ""


def example(records: Sequence[Record], root: Path) -> str:
    """The library's own table of the baseline and of the recipe that the cards show, as every page prints it."""
    tables = [Table.of(scale, root=root) for scale in scales(records)]
    best = next(((table.scale, row.label) for table in tables if (row := challenger(table))), None)
    if best is None:
        return NOTHING
    scale, label = best
    return f'```{{raw}} html\n<div class="prx-board">{Table.of(scale, (label,), root=root)._repr_html_()}</div>\n```\n'


def scales_table() -> str:
    """The scales as the package defines them."""
    lines = ["| scale | pixels | tokens | world | images | model | steps × batch | judged on |", "|---|---|---|---|---|---|---|---|"]
    for name, scale in SIZES.items():
        model = f"{scale.depth} blocks of width {scale.width}"
        work = f"{scale.steps:,} × {scale.batch}"
        told = (f"`{name}`", scale.size, f"{scale.tokens:,}", f"`{scale.level}`", f"{scale.images:,}", model, work, f"{scale.eval_n:,}")
        lines.append("| " + " | ".join(map(str, told)) + " |")
    return "\n".join(lines) + "\n"
