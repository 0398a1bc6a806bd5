"""Print the results as Markdown, and draw the chart.

    uv run --group benchmarks benchmarks/report.py           # print
    uv run --group benchmarks benchmarks/report.py --write   # into README.md, and the chart

So no figure in README.md is typed.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PHASES = ("arrival", "overload")

LABELS = {
    "raw": "raw asyncpg, in the generated app",
    "bare": "raw asyncpg, bare FastAPI",
    "service": "**this service**",
    "pre_ping": "this service with `pool_pre_ping`",
    "overflow": "this service with a pool of 5 + 10",
    "recipe": "SQLAlchemy's recipe (NullPool, uuids)",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def conditions(result: dict[str, Any]) -> str:
    """Where and with what it was measured."""
    machine, versions = result["machine"], result["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured {result['date']} on {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, {machine['system']}, {machine['kernel']}; {named}."
    )


def cell(
    result: dict[str, Any], latency: float, operation: str, connections: int, variant: str
) -> dict[str, Any]:
    """What was measured of one variant under one condition."""
    wanted = (latency, operation, connections, variant)
    keys = ("latency_ms", "operation", "connections", "variant")
    [found] = [one for one in result["cells"] if tuple(one[key] for key in keys) == wanted]
    return found


def distinct(result: dict[str, Any], key: str) -> list[Any]:
    """The values of a key, in order."""
    return list(dict.fromkeys(one[key] for one in result["cells"]))


CONFIGURATIONS = {"service": "this service", "seeds": "5 + 10, 30 s"}


def throughput(result: dict[str, Any]) -> str:
    """Requests/s and CPU at saturation, latency below it."""
    variants = distinct(result, "variant")
    many, few = distinct(result, "connections")
    parts = [conditions(result)]
    for latency in distinct(result, "latency_ms"):
        trips = result["measured_trip_ms"][str(latency)]
        parts.append(
            f"### {latency} ms\n\nAdded to each round trip to the pooler; `SELECT 1` took"
            f" {min(trips):.2f} to {max(trips):.2f} ms on an idle machine. Requests/s and CPU with"
            f" {many} connections, p50 and p99 with {few}."
        )
        for operation in distinct(result, "operation"):
            rows = []
            for variant in variants:
                full = cell(result, latency, operation, many, variant)
                calm = cell(result, latency, operation, few, variant)["median"]
                rows.append(
                    [
                        LABELS[variant],
                        number(full["median"]["requests_per_s"]),
                        number(full["ratio_to_raw"]["requests_per_s"], 2),
                        number(full["median"]["cpu_us_per_request"]),
                        number(full["median"]["service_cpu_share"] * 100) + " %",
                        number(calm["p50_ms"], 2),
                        number(calm["p99_ms"], 2),
                    ]
                )
            head = f"{operation}s|per s|of raw|CPU µs each|of a core|p50 ms|p99 ms"
            parts.append(table(head.split("|"), rows))
    return "\n\n".join(parts) + "\n"


def summary(result: dict[str, Any]) -> str:
    """Reads and writes at saturation, as shares of raw asyncpg."""
    many = distinct(result, "connections")[0]
    latencies = distinct(result, "latency_ms")
    rows = []
    for variant in distinct(result, "variant"):
        ratios = [
            cell(result, latency, operation, many, variant)["ratio_to_raw"]["requests_per_s"]
            for operation in ("read", "write")
            for latency in latencies
        ]
        rows.append([LABELS[variant], *(number(ratio, 2) for ratio in ratios)])
    names = [f"{operation}s, {one} ms" for operation in ("read", "write") for one in latencies]
    return table(["requests/s of raw asyncpg", *names], rows) + "\n"


def side_by_side(result: dict[str, Any], label: str, digits: int, *path: str) -> list[str]:
    """A row: one figure of both configurations."""
    row = [label]
    for name in CONFIGURATIONS:
        [value] = [one for one in result["medians"] if one["configuration"] == name]
        for key in path:
            value = value[key]
        row.append(number(value, digits))
    return row


def rush(result: dict[str, Any]) -> str:
    """What matters most to those who arrive."""
    row = partial(side_by_side, result)
    rows = [
        row("refused at once, to come back (503)", 0, "arrival", "shed"),
        row("longest wait for an answer, s", 1, "arrival", "longest_wait_s"),
        row("everybody served after, s", 1, "arrival", "longest_until_served_s"),
        row("overload: served per s", 0, "overload", "served_per_s"),
        row("overload: failures other than 503", 0, "overload", "errors"),
        row("overload: longest wait for an answer, s", 1, "overload", "longest_wait_s"),
        row("`/livez` p99 throughout, ms", 0, "livez", "p99_ms"),
        row("normal again after, s", 1, "recovery_s"),
    ]
    heading = f"{result['clients']:,} arrive, then an overload of {result['seconds']:g} s"
    return table([heading, *CONFIGURATIONS.values()], rows) + "\n"


def burst(result: dict[str, Any]) -> str:
    """Both configurations side by side."""
    rows = []

    def row(label: str, digits: int, *path: str) -> None:
        rows.append(side_by_side(result, label, digits, *path))

    headings = {
        "arrival": f"{result['clients']:,} arrive at once",
        "overload": f"{result['clients']:,} for {result['seconds']:g} s",
    }
    for phase, heading in headings.items():
        rows.append([f"**{heading}**", "", ""])
        row("requests", 0, phase, "sent")
        row("served (200)", 0, phase, "served")
        row("refused (503)", 0, phase, "shed")
        row("other failures", 0, phase, "errors")
        row("served per s", 0, phase, "served_per_s")
        row("served: p50, ms", 0, phase, "served_latency", "p50_ms")
        row("served: p99, ms", 0, phase, "served_latency", "p99_ms")
        row("refused: p50, ms", 0, phase, "shed_latency", "p50_ms")
        row("refused: p99, ms", 0, phase, "shed_latency", "p99_ms")
        row("longest wait for any answer, s", 1, phase, "longest_wait_s")
        row("longest until served, retries included, s", 1, phase, "longest_until_served_s")
        row("/livez: p50, ms", 1, phase, "livez", "p50_ms")
        row("/livez: p99, ms", 0, phase, "livez", "p99_ms")
        row("/livez: longest, ms", 0, phase, "livez", "max_ms")
    rows.append(["**throughout**", "", ""])
    row("/livez: p99, ms", 0, "livez", "p99_ms")
    row("normal again after, s", 1, "recovery_s")
    count = max(one["round"] for one in result["rounds"])
    head = [f"median of {count}" if count > 1 else "1 round", *CONFIGURATIONS.values()]
    return f"{conditions(result)}\n\n{table(head, rows)}\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw reads/s at saturation, as a share of raw asyncpg."""
    # Here: tables need no matplotlib.
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    latencies, variants = distinct(result, "latency_ms"), distinct(result, "variant")
    connections = distinct(result, "connections")[0]

    def share(latency: float, variant: str) -> float:
        found = cell(result, latency, "read", connections, variant)
        return found["ratio_to_raw"]["requests_per_s"] * 100

    longest = max(share(latency, variant) for latency in latencies for variant in variants)
    middle = latencies[len(latencies) // 2]
    # The same file from the same figures: no date, no random ids.
    style = {"svg.hashsalt": "benchmarks", "font.size": 10, "axes.edgecolor": "#888888"}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            1, len(latencies), figsize=(10, 3.8), sharey=True, squeeze=False, layout="constrained"
        )
        labels = [LABELS[name].replace("*", "").replace("`", "") for name in variants]
        colors = ["#2463a8" if name == "service" else "#b8bec6" for name in variants]
        for axis, latency in zip(axes[0], latencies, strict=True):
            shares = [share(latency, variant) for variant in variants]
            bars = axis.barh(labels, shares, color=colors, height=0.7)
            axis.bar_label(
                bars,
                [f"{value:.0f} %" for value in shares],
                padding=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
            axis.axvline(100, color="#444444", linewidth=0.8, linestyle=":", zorder=0)
            axis.set_xlim(0, longest * 1.25)
            axis.set_title(
                f"+{latency} ms per round trip" if latency else "on the same host", fontsize=10
            )
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
        axes[0][0].invert_yaxis()
        figure.supxlabel(
            f"reads per second with {connections} connections, % of raw asyncpg in the generated app",
            fontsize=10,
        )
        figure.suptitle(
            f"{middle} ms from its pooler, the service reads at {share(middle, 'service'):.0f} %"
            f" of raw asyncpg's rate, SQLAlchemy's recipe at {share(middle, 'recipe'):.0f} %",
            fontsize=12,
            fontweight="bold",
        )
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", default=HERE / "results")
    parser.add_argument("--write", action="store_true", help="into README.md, and draw the chart")
    options = parser.parse_args()
    readmes = {path: path.read_text() for path in (HERE / "README.md", HERE.parent / "README.md")}
    for section, name, render in (
        ("throughput", "throughput", throughput),
        ("summary", "throughput", summary),
        ("burst", "burst", burst),
        ("rush", "burst", rush),
    ):
        path = options.out / f"{name}.json"
        if not path.exists():
            print(f"There is no {path.name} yet.")
            continue
        result = json.loads(path.read_text())
        rendered = render(result)
        print(rendered)
        marked = rf"(<!-- {section} -->\n).*?(<!-- end of {section} -->)"
        for readme, text in readmes.items():
            readmes[readme] = re.sub(
                marked, lambda m, r=rendered: f"{m[1]}\n{r}\n{m[2]}", text, flags=re.DOTALL
            )
        if section == "throughput" and options.write:
            draw(result, path.with_suffix(".svg"))
    if options.write:
        for readme, text in readmes.items():
            readme.write_text(text)


if __name__ == "__main__":
    main()
