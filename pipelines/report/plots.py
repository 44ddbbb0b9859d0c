"""Plots as inline SVG in the text colour of the page."""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

WIDTH_IN, HEIGHT_IN = 4.4, 2.5
MAX_TICKS = 9
FEW = 10  # points of a line that are marked
ACCENT, SECOND = "#4f7cac", "#c8793b"
# A placeholder for the page's text colour, replaced by `currentColor` in the SVG.
INK = "#010203"
PARTS = (ACCENT, SECOND, "#5b9a68", "#a05195", "#8c6d46", "#6b7a8f", "#c44e52", "#3a9ea5")
RAMP = ("#3b5f86", "#4f7cac", "#7d8fb8", "#a58fb0", "#bd8a97", "#c8817a", "#c8793b", "#9c5a22")
STYLES = ("-", "--", ":")
CURVES = {"loss": ("training", ACCENT), "validation_loss": ("held out", SECOND)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unclip",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "axes.grid": True,
    "axes.axisbelow": True,
}


def curve(history: Sequence[Mapping[str, float]], title: str) -> str:
    """The losses over the steps of a training, on a log scale if all are positive."""
    curves = {
        name: [(entry["step"], entry[name]) for entry in history if name in entry]
        for name in CURVES
    }

    def draw(axes: Axes) -> None:
        for name, points in curves.items():
            if points:
                label, color = CURVES[name]
                axes.plot(*zip(*points, strict=True), label=label, color=color, linewidth=1.4)
        if min(loss for points in curves.values() for _, loss in points) > 0:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            digits = (1, 2, 5) if high > 10 * low else range(1, 10)
            axes.yaxis.set_major_locator(LogLocator(subs=digits))
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_locator(NullLocator())
        if curves["validation_loss"]:
            axes.legend(frameon=False)
        axes.set(title=title, xlabel="step", ylabel="loss")

    return svg(draw)


TIMESTEPS = {"loss": "loss of training rows", "validation_loss": "loss of held-out rows"}
HEALTH = {  # the values of `unclip.training.health`
    "grad_norm": "norm of the gradients",
    "update_ratio": "update / weights",
    "ema_distance": "distance of the average / weights",
}


def by_part(
    history: Sequence[Mapping[str, float]],
    title: str,
    kinds: Mapping[str, str],
    colors: Sequence[str],
) -> str:
    """Values `kind/part` over the steps of a training: a plot for each kind, a line for each part.

    kinds: the label of each kind. Returns "" if the history has no such values.
    """
    names = {name for entry in history for name in entry if name.split("/")[0] in kinds}
    parts = sorted({name.split("/")[1] for name in names if "/" in name})
    looks = dict(zip(parts, itertools.cycle(itertools.product(STYLES, colors)), strict=False))

    def draw(figure: Figure) -> None:
        lines: dict[str, Any] = {}
        for number, (kind, label) in enumerate(kinds.items(), 1):
            axes = figure.add_subplot(1, len(kinds), number)
            for part, (style, color) in looks.items():
                name = f"{kind}/{part}"
                points = [(e["step"], e[name]) for e in history if e.get(name, 0) > 0]
                if points:
                    marker = "." if len(points) < FEW else None  # one point makes no line
                    steps, values = zip(*points, strict=True)
                    (lines[part],) = axes.plot(steps, values, style, color=color, marker=marker)
            axes.set_yscale("log")
            axes.set(title=label, xlabel="step")
        figure.suptitle(title, fontsize=10)
        shown = [part for part in parts if part in lines]
        handles = [lines[part] for part in shown]
        figure.legend(handles, shown, loc="outside right center", frameon=False, fontsize=7)

    return svg_figure(draw, width_in=len(kinds) * WIDTH_IN, height_in=HEIGHT_IN) if parts else ""


class Point(NamedTuple):
    """One setting of a sweep."""

    alignment: float
    fidelity: Mapping[str, float]  # value, low and high
    label: str


def sweeps(curves: Mapping[str, Sequence[Point]], fidelity: str) -> str:
    """Fidelity against alignment, a line for each sweep; "" if all are empty."""
    drawn = {title: points for title, points in curves.items() if points}

    def draw(axes: Axes) -> None:
        for (title, points), color in zip(drawn.items(), (ACCENT, SECOND), strict=False):
            x = [point.alignment for point in points]
            y = [point.fidelity["value"] for point in points]
            ends = [
                [p.fidelity["value"] - p.fidelity["low"] for p in points],
                [p.fidelity["high"] - p.fidelity["value"] for p in points],
            ]
            axes.errorbar(x, y, ends, label=title, color=color, linewidth=1.4, marker="o", ms=3.5)
            for point in points:
                at = (point.alignment, point.fidelity["value"])
                axes.annotate(
                    point.label, at, xytext=(4, 4), textcoords="offset points", color=color
                )
        axes.set(
            title="Guidance scales", xlabel="closer in colour to own original", ylabel=fidelity
        )
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)

    return svg(draw) if drawn else ""


def histogram(edges: Sequence[float], counts: Sequence[int], title: str, label: str) -> str:
    """Bars of equal width between edges, without the empty bins at both ends.

    counts: one more than edges; the first is below the first edge, the last above the last one.
    """
    filled = [i for i, count in enumerate(counts) if count] or [0]
    first, last = filled[0], filled[-1]
    shown = counts[first : last + 1]
    # Edge i is at the left of bar i + 1; every n-th has a tick, so that numbers do not collide.
    inside = [i for i in range(len(edges)) if first <= i + 1 <= last + 1]
    ticks = inside[:: -(-len(inside) // MAX_TICKS)] if inside else []

    def draw(axes: Axes) -> None:
        axes.bar(range(len(shown)), shown, width=0.92, align="edge", color=ACCENT)
        axes.set_xticks([i + 1 - first - 0.04 for i in ticks], [f"{edges[i]:g}" for i in ticks])
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(visible=False, axis="x")
        axes.set(title=title, xlabel=label, ylabel="pairs")

    return svg(draw)


def explained(eigenvalues: np.ndarray, dimensions: int) -> str:
    """The share of the variance that the first components keep, with a line at `dimensions`."""
    shares = np.cumsum(eigenvalues) / eigenvalues.sum()

    def draw(axes: Axes) -> None:
        axes.plot(np.arange(1, len(shares) + 1), shares, color=ACCENT, linewidth=1.4)
        axes.axvline(dimensions, color=INK, linestyle=":", linewidth=1)
        axes.set(title="Explained variance", xlabel="components", ylabel="share", ylim=(0, 1.03))

    return svg(draw)


def svg(draw: Callable[[Axes], None]) -> str:
    """A figure of one plot that `draw` draws, as an SVG element."""
    return svg_figure(
        lambda figure: draw(figure.add_subplot()), width_in=WIDTH_IN, height_in=HEIGHT_IN
    )


def svg_figure(draw: Callable[[Figure], None], *, width_in: float, height_in: float) -> str:
    """A figure that `draw` fills, as an SVG element without the XML prologue."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
