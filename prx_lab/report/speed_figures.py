"""Pictures of recorded speed: claims with their intervals, where a step's time goes, the roofline, routing against its operations."""

from collections.abc import Mapping, Sequence

from matplotlib import rc_context

from prx_lab.errors import LabError
from prx_lab.report.speed import Ratio, Record
from prx_lab.show import COLOURS, GREY, STYLE, Plot, figure

WANTED = "It is not recorded yet; measure it with `python -m benchmarks.{}`."
KINDS = {  # the same colour in every bar; what is not named here is grey
    "matrix products": COLOURS[0],
    "attention": COLOURS[4],
    "fused by the compiler": COLOURS[2],
    "other elementwise": COLOURS[1],
    "casts and copies": COLOURS[3],
}
LOOKS = {  # of a roofline's points: colour by kind of work, marker by part
    "MLP, forward": (COLOURS[0], "^", 7),
    "MLP, input gradient": (COLOURS[0], "v", 7),
    "MLP, weight gradient": (COLOURS[0], "s", 6),
    "attention, forward": (COLOURS[4], "o", 7),
    "GEGLU": (COLOURS[1], "D", 6),
    "norm and modulation": (COLOURS[1], "P", 8),
    "step, eager": (COLOURS[3], "*", 15),
    "step, compiled": (COLOURS[2], "*", 15),
}


def one(found: Mapping[str, Record], name: str) -> Record:
    """The record of that name; LabError where there is none."""
    if name not in found:
        raise LabError(WANTED.format(name.partition("-")[0]))
    return found[name]


def claims(found: Mapping[str, Record]) -> Plot:
    """Every ratio that has a goal: a dot and its interval, beside the goal as a bar."""
    rows = [r for record in found.values() for r in record.ratios if r.goal]
    if not rows:
        raise LabError(WANTED.format("step"))
    made, axes = figure(7.2, 0.9 + 0.3 * len(rows))
    axis = axes[0, 0]
    with rc_context(STYLE):
        for i, row in enumerate(rows):
            colour = COLOURS[2] if row.held().reached else COLOURS[1]
            axis.plot([row.lo, row.hi], [i, i], color=colour, lw=4, alpha=0.35, solid_capstyle="round")
            axis.plot(row.value, i, "o", color=colour, markersize=5)
            axis.plot([row.goal, row.goal], [i - 0.36, i + 0.36], color=GREY, lw=1.6)
        axis.axvline(1, color=GREY, lw=0.8, ls=":")
        axis.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("times as fast as diffusers (bar: the goal)")
    return Plot(made, f"{len(rows)} claims, {sum(row.held().reached for row in rows)} of them reached")


def _label(row: Ratio) -> str:
    arms = (row.fast.removeprefix("prx_lab").removeprefix(", "), row.slow.removeprefix("diffusers").removeprefix(", "))
    return row.group + "".join(f", {which}{arm}" for which, arm in zip(("", "against "), arms) if arm)


def shares(found: Mapping[str, Record]) -> Plot:
    """Where the time of a step goes: one bar for each way to run it, one part for each kind of work.

    Kinds without a colour of their own are grey, and `other` in the legend.
    """
    record = one(found, "breakdown")
    bars = record.facts
    made, axes = figure(7.2, 1.2 + 0.55 * len(bars))
    axis = axes[0, 0]
    with rc_context(STYLE):
        for i, values in enumerate(bars.values()):
            left = 0.0
            for kind, share in sorted(values.items(), key=lambda item: _rank(item[0])):
                colour, name = KINDS.get(kind, GREY), kind if kind in KINDS else "other"
                axis.barh(i, 100 * share, left=100 * left, color=colour, height=0.6, label=name)
                if share >= 0.06:
                    axis.text(100 * (left + share / 2), i, f"{100 * share:.0f}", ha="center", va="center", color="black", fontsize=9)
                left += share
        axis.set_yticks(range(len(bars)), [name.replace("recipe's step, ", "") for name in bars])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlim(0, 100)
        axis.set_xlabel("% of the step's time")
        named = dict(zip(*reversed(axis.get_legend_handles_labels())))
        made.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=9)
    largest = {name: max(values, key=values.__getitem__) for name, values in bars.items()}
    return Plot(made, "; ".join(f"{name}: most of the time in {kind}" for name, kind in largest.items()))


def _rank(kind: str) -> int:
    return [*KINDS, kind].index(kind)


def roofline(found: Mapping[str, Record]) -> Plot:
    """Operations per byte against operations a second: the two measured ceilings, the step, and its parts."""
    record = one(found, "roofline")
    roof = record.facts["roof"]
    points = {name: v for name, v in record.facts.items() if "FLOP per byte" in v}
    peak, band = roof["GFLOP/s"], roof["GB/s"]
    xs = [v["FLOP per byte"] for v in points.values()]
    lo, hi = min(*xs, peak / band) / 3, max(*xs, peak / band) * 3
    made, axes = figure(7.2, 4.2)
    axis = axes[0, 0]
    with rc_context(STYLE):
        axis.loglog([lo, peak / band, hi], [lo * band, peak, peak], color=GREY, lw=2)
        axis.text(hi, peak * 1.06, f"matrix products: {peak:,.0f} GFLOP/s", ha="right", fontsize=8)
        axis.text(lo * 2.2, lo * band * 1.8, f"memory: {band:,.0f} GB/s", fontsize=8)
        for name, v in points.items():
            colour, marker, size = LOOKS.get(name, (GREY, "o", 6))
            axis.plot(v["FLOP per byte"], v["GFLOP/s"], marker, markersize=size, color=colour, alpha=0.85, ls="", label=name)
        axis.set_xlabel("operations per byte")
        axis.set_ylabel("GFLOP/s")
        axis.legend(fontsize=8, loc="lower right")
    reached = ", ".join(f"{name} {v['GFLOP/s'] / peak:.0%}" for name, v in points.items() if name.startswith("step"))
    return Plot(made, f"roofline: {peak:,.0f} GFLOP/s and {band:,.0f} GB/s; of the first, {reached}")


def routed(found: Mapping[str, Record]) -> Plot:
    """How many times faster a routed step is than a dense one, by tokens: measured with its interval, and by its operations."""
    records = sorted((r for name, r in found.items() if name.startswith("routing-")), key=lambda r: int(r.name.partition("-")[2]))
    if not records:
        raise LabError(WANTED.format("routing"))
    if len(places := sorted({record.where for record in records})) > 1:
        raise LabError(f"The routing benchmarks are of different machines ({'; '.join(places)}): run `make bench` on one.")
    tokens = [int(record.name.partition("-")[2]) for record in records]
    made, axes = figure(6.6, 3.2)
    axis = axes[0, 0]
    with rc_context(STYLE):
        for method, colour in zip([ratio.fast for ratio in records[0].ratios], COLOURS):
            rows = [next(r for r in record.ratios if r.fast == method) for record in records]
            few = [_facts(record, method)["times fewer operations"] for record in records]
            values = [r.value for r in rows]
            axis.plot(tokens, few, color=colour, ls="--", lw=1.2, label=f"{method}, by operations")
            errors = [[max(0.0, r.value - r.lo) for r in rows], [max(0.0, r.hi - r.value) for r in rows]]
            axis.errorbar(tokens, values, errors, color=colour, marker="o", markersize=5, capsize=3, label=f"{method}, measured")
        axis.set_xscale("log", base=2)
        axis.set_xticks(tokens, [str(n) for n in tokens])
        axis.minorticks_off()
        axis.axhline(1, color=GREY, lw=0.8, ls=":")
        axis.set_xlabel("image tokens")
        axis.set_ylabel("times as fast as dense")
        axis.legend(fontsize=8)
    return Plot(made, "routing: " + "; ".join(f"{n} tokens {_words(record.ratios)}" for n, record in zip(tokens, records)))


def _facts(record: Record, method: str) -> Mapping[str, float]:
    return next(values for group, values in record.facts.items() if group.endswith(f", {method}"))


def _words(ratios: Sequence[Ratio]) -> str:
    return ", ".join(f"{r.fast} {r.value:.2f}" for r in ratios)
