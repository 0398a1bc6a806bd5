"""`tune`'s page: one file with the chart, the figures and the command that made them."""

import math
import re
from datetime import datetime
from html import escape
from io import StringIO
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from {{ cookiecutter.package_name }}.observe.sizing import (
    NEAR,
    Choice,
    Limits,
    Size,
    cells,
    milliseconds,
)
from {{ cookiecutter.package_name }}.observe.tune import Tuning

# The page's colours, light and dark. In the drawing each has a colour that means it, since an SVG in a
# page can ask for the page's own.
INK, FAINT, GRID, LINE, CHOSEN, LIMIT, CARD = COLOURS = [f"#0000f{n}" for n in range(7)]
NAMES = ("ink", "faint", "grid", "line", "chosen", "limit", "card")

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tune",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(sizes: list[Size], choice: Choice, limits: Limits, target: float) -> str:
    """The chart, as SVG for a page: rates above, times below, against the pool's size."""
    chosen, largest = choice.size.connections, sizes[-1].connections
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        rate, wait = figure.subplots(2, 1, sharex=True)
        _curve(rate, sizes, choice, "rate")
        rate.axhspan(NEAR * choice.best.rate, choice.best.rate, color=LINE, alpha=0.15, lw=0)
        rate.set(ylim=(0, 1.15 * choice.best.rate), ylabel="requests/s")
        rate.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _curve(wait, sizes, choice, "p99")
        wait.axhline(target, color=LIMIT, lw=1.5, ls="--")
        wait.set(xscale="log", yscale="log", xlabel="connections of the pool")
        wait.set_ylabel("p99, with the wait for a connection")
        wait.yaxis.set_major_formatter(lambda value, _: milliseconds(value))
        wait.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        wait.yaxis.set_minor_locator(NullLocator())
        lines = {}
        if limits.free <= 2 * largest:
            lines[limits.free] = f"PostgreSQL has {limits.free} free"
        else:  # the line would leave the rest no room
            words = f"PostgreSQL has {limits.free} free \N{RIGHTWARDS ARROW}"
            _label(rate, (1, 0), words, LIMIT, xycoords="axes fraction", ha="right")
        if limits.backends:
            lines[limits.backends] = f"the pooler has {limits.backends}"
        for at, words in lines.items():
            for axes in (rate, wait):
                axes.axvline(at, color=LIMIT, lw=1.5, ls="--")
            _label(rate, (at, 0), words, LIMIT, rotation=90)
        best = choice.best.rate
        _label(rate, (1, NEAR * best), "within 5 % of the best", FAINT, va="top")
        _label(rate, (chosen, 1.06 * best), f"{chosen}", CHOSEN, weight="bold", size=13)
        _label(wait, (1, target), f"target: {milliseconds(target)}", LIMIT)
        ticks = _apart([size.connections for size in sizes], chosen)
        wait.set_xticks(ticks, [str(number) for number in ticks])
        wait.set_xticks([], minor=True)
        drawn = StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    svg = drawn.getvalue()
    for colour, name in zip(COLOURS, NAMES, strict=True):
        svg = svg.replace(colour, f"var(--{name})")
    return svg[svg.index("<svg") :]


def _curve(axes: Axes, sizes: list[Size], choice: Choice, what: str) -> None:
    """The medians as a line, each trial as a faint dot, and the choice."""
    trials = [(size.connections, getattr(trial, what)) for size in sizes for trial in size.trials]
    axes.plot(*zip(*trials, strict=True), "o", color=LINE, ms=4, alpha=0.35, mew=0)
    medians = [getattr(size, what) for size in sizes]
    axes.plot([size.connections for size in sizes], medians, "-o", color=LINE, lw=2, ms=5)
    axes.axvline(choice.size.connections, color=CHOSEN, lw=1)
    axes.plot(choice.size.connections, getattr(choice.size, what), "o", color=CHOSEN, ms=11)


def _label(axes: Axes, at: tuple[float, float], words: str, colour: str, **how: Any) -> None:
    away = (
        -4 if how.get("ha") == "right" or how.get("rotation") else 4,
        -4 if how.get("va") == "top" else 4,
    )
    how = {"ha": "right" if how.get("rotation") else "left", "va": "bottom"} | how
    how["bbox"] = {"facecolor": CARD, "edgecolor": "none", "pad": 1}
    axes.annotate(words, at, away, textcoords="offset points", color=colour, **how)


def _apart(numbers: list[int], chosen: int) -> list[int]:
    """The numbers that can stand on a logarithmic axis side by side, the chosen one among them."""
    room = math.log(numbers[-1]) / 25
    kept = [chosen]
    for number in numbers:
        if all(abs(math.log(number / other)) > room for other in kept):
            kept.append(number)
    return sorted(kept)


def write(path: Path, tuning: Tuning, choice: Choice, sentences: list[str], command: str) -> None:
    """Write the page. It needs no network, and whoever opens it no Python."""
    rows = "\n".join(
        f"<tr{' class=chosen' * (size == choice.size)}>"
        + "".join(f"<td>{cell}</td>" for cell in cells(size))
        + "</tr>"
        for size in tuning.sizes
    )
    answer, *reasons = sentences
    assert tuning.limits is not None
    page = Template(Path(__file__).with_name("tune.html").read_text()).substitute(
        title=f"The pool of {command.partition(' ')[0]}",
        load=escape(tuning.title),
        answer=escape(answer),
        reasons=_paragraphs([tuning.stopped, *reasons]),
        chart=draw(tuning.sizes, choice, tuning.limits, tuning.load.target),
        rows=rows,
        background=_paragraphs([tuning.budget, tuning.guess], "faint"),
        command=escape(command),
        when=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )
    path.write_text(page)


def _paragraphs(sentences: list[str], kind: str = "") -> str:
    marked = (re.sub("`(.+?)`", r"<code>\1</code>", escape(it)) for it in sentences if it)
    return "\n".join(f'<p class="{kind}">{it}</p>' for it in marked)
