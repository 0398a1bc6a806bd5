"""`tune`'s page: one file with the chart, the figures and the command that made them."""

from datetime import datetime
from html import escape
from io import StringIO
from pathlib import Path
from string import Template

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from {{ cookiecutter.package_name }}.observe.sizing import (
    NEAR,
    Limits,
    Size,
    best_of,
    cells,
    milliseconds,
)
from {{ cookiecutter.package_name }}.observe.tune import Tuning

LINE, CHOSEN, LIMIT = "#2f6feb", "#d9480f", "#8a3ffc"


def draw(sizes: list[Size], choice: Size, limits: Limits, target: float) -> str:
    """The chart, as SVG: rates above, times below, against the pool's size."""
    chosen = choice.connections
    # Text stays text, in the page's font.
    with mpl.rc_context({"svg.fonttype": "none", "axes.grid": True, "grid.color": "#e4e7ec"}):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        rate, wait = figure.subplots(2, 1, sharex=True)
        _curve(rate, sizes, "rate")
        _curve(wait, sizes, "p99")
        best = best_of(sizes).rate
        near = rate.axhspan(NEAR * best, best, color=LINE, alpha=0.15, lw=0)
        near.set_label("within 5 % of the best")
        wait.axhline(target, color=LIMIT, ls=":", label=f"target: {milliseconds(target)}")
        for axes in (rate, wait):
            axes.axvline(chosen, color=CHOSEN, label=f"chosen: {chosen}")
            told = f"PostgreSQL has {limits.free} free"
            axes.axvline(limits.free, color=LIMIT, ls="--", label=told)
            if limits.backends:
                told = f"the pooler has {limits.backends}"
                axes.axvline(limits.backends, color=LIMIT, ls="-.", label=told)
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
        rate.set(ylim=(0, 1.1 * best), ylabel="requests/s")
        wait.set(xscale="log", yscale="log", xlabel="connections of the pool")
        wait.set_ylabel("p99, with the wait for a connection")
        rate.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        wait.yaxis.set_major_formatter(lambda value, _: milliseconds(value))
        wait.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        for axis in (wait.xaxis, wait.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_formatter(NullFormatter())
        drawn = StringIO()
        figure.savefig(drawn, format="svg", transparent=True)
    svg = drawn.getvalue()
    return svg[svg.index("<svg") :]


def _curve(axes: Axes, sizes: list[Size], what: str) -> None:
    """The medians as a line, and each trial as a faint dot."""
    trials = [(size.connections, getattr(trial, what)) for size in sizes for trial in size.trials]
    axes.plot(*zip(*trials, strict=True), "o", color=LINE, ms=4, alpha=0.35)
    medians = [(size.connections, getattr(size, what)) for size in sizes]
    axes.plot(*zip(*medians, strict=True), "-o", color=LINE, lw=2, ms=5)


def write(path: Path, tuning: Tuning, choice: Size, sentences: list[str], command: str) -> None:
    """Write the page. It needs no network, and whoever opens it no Python."""
    rows = "\n".join(
        f"<tr{' class=chosen' * (size.connections == choice.connections)}>"
        + "".join(f"<td>{cell}</td>" for cell in cells(size))
        + "</tr>"
        for size in tuning.sizes
    )
    answer, *reasons = sentences
    assert tuning.limits is not None
    page = Template(Path(__file__).with_name("tune.html").read_text()).substitute(
        title=f"The pool of {command.partition(' ')[0]}",
        load=escape(tuning.told[0]),
        answer=escape(answer),
        reasons=_paragraphs([tuning.stopped, *reasons]),
        chart=draw(tuning.sizes, choice, tuning.limits, tuning.load.target),
        rows=rows,
        background=_paragraphs(tuning.told[1:]),
        command=escape(command),
        when=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )
    path.write_text(page)


def _paragraphs(sentences: list[str]) -> str:
    return "\n".join(f"<p>{escape(it)}</p>" for it in sentences if it)
