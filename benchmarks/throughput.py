"""Compare the generated service with other ways to reach PostgreSQL from FastAPI.

    uv run --group benchmarks benchmarks/throughput.py

Every variant serves `GET /items/{id}` and `POST /items`, as a process of its own behind PgBouncer in
transaction mode, with 0, 1 and 5 ms of round trip to it. With 32 connections it is asked for as much as
it can do, with 4 for how fast it answers. See README.md for how, and for what the figures don't say.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import report
import stack
import uvloop
from load import Slice, closed_loop, get, percentile, post

# Module of services/, and the environment.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "raw": ("raw", {}),
    "bare": ("bare", {}),
    "service": ("orders_api.main", {}),
    "pre_ping": ("pre_ping", {}),
    "overflow": ("orders_api.main", {"DATABASE_POOL_SIZE": "5", "DATABASE_MAX_OVERFLOW": "10"}),
    "recipe": ("recipe", {}),
}
ROWS = 1000
FIGURES = ("requests_per_s", "cpu_us_per_request", "p50_ms", "p99_ms")
# Shares of one core, to see that the service is the bottleneck and the load generator is not.
SHARES = ("service_cpu_share", "generator_cpu_share")


@dataclass(frozen=True)
class Plan:
    """How long, and how often."""

    rounds: int = 5
    latencies_ms: tuple[float, ...] = (0, 1, 5)
    connections: tuple[int, ...] = (32, 4)
    warm_up: float = 0.5
    seconds: float = 2.5


QUICK = Plan(rounds=1, latencies_ms=(1,), connections=(8, 2), warm_up=0.05, seconds=0.1)

chance = random.Random(2026)
NEW_ITEM = post("/items", b'{"name": "benchmark", "description": "an item like any other"}')


def read() -> bytes:
    """Ask for any of the items."""
    return get(f"/items/{chance.randint(1, ROWS)}")


def write() -> bytes:
    """Create an item."""
    return NEW_ITEM


OPERATIONS = {"read": read, "write": write}

Cell = dict[str, Any]
Cells = dict[tuple[float, str, int, str], Cell]


def measure(
    runner: asyncio.Runner, service: stack.Service, operation: str, connections: int, plan: Plan
) -> tuple[Slice, dict[str, float]]:
    """One slice: what it saw, and its figures.

    Raises:
        BenchmarkError: an answer was not 2xx, so the figures would mean nothing.
    """
    cpu: list[tuple[float, float]] = []
    try:
        seen = runner.run(
            closed_loop(
                service.port,
                OPERATIONS[operation],
                connections=connections,
                warm_up=plan.warm_up,
                seconds=plan.seconds,
                edge=lambda: cpu.append((service.cpu_seconds(), time.process_time())),
            )
        )
    except OSError as error:  # a timeout is one too
        raise service.fail(f"{operation}: {error!r}") from None
    if any(not 200 <= status < 300 for status in seen.statuses):
        raise service.fail(f"{operation} was answered {dict(seen.statuses)} (status: how often).")
    answered = len(seen.latencies)
    (service_before, own_before), (service_after, own_after) = cpu
    return seen, {
        "requests_per_s": answered / seen.seconds,
        "cpu_us_per_request": (service_after - service_before) / answered * 1e6,
        "p50_ms": percentile(seen.latencies, 50) * 1000,
        "p99_ms": percentile(seen.latencies, 99) * 1000,
        "service_cpu_share": (service_after - service_before) / seen.seconds,
        "generator_cpu_share": (own_after - own_before) / seen.seconds,
    }


def run_round(
    runner: asyncio.Runner, project: stack.Project, latency: float, plan: Plan, cells: Cells
) -> float:
    """Measure every variant once at one latency, on a new database; return what a trip takes.

    New for each round, because some variants leave something behind, rows or prepared statements,
    that would slow down whoever comes after them.
    """
    with stack.servers(project) as servers, stack.delayed(project, servers, latency) as url:
        project.run("-m", stack.PACKAGE, "migrate", DATABASE_URL=servers.database_url)
        prepare = str(stack.SERVICES / "prepare.py")
        prepared = project.run(prepare, str(ROWS), DATABASE_URL=servers.database_url, TRIP_URL=url)
        with stack.services(project, VARIANTS, url) as services:
            for operation in OPERATIONS:
                for connections in plan.connections:
                    for name in chance.sample(list(VARIANTS), len(VARIANTS)):
                        seen, figures = measure(
                            runner, services[name], operation, connections, plan
                        )
                        cell = cells.setdefault(
                            (latency, operation, connections, name),
                            {"statuses": Counter(), "rounds": {f: [] for f in figures}},
                        )
                        cell["statuses"] += seen.statuses
                        for figure, value in figures.items():
                            cell["rounds"][figure].append(round(value, 3))
    return json.loads(prepared)["trip_ms"]


def summary(cells: Cells) -> list[Cell]:
    """Medians over the rounds, and medians of each round's ratio to `raw`."""
    rows = []
    for (latency, operation, connections, variant), cell in cells.items():
        rounds = cell["rounds"]
        raw = cells[latency, operation, connections, "raw"]["rounds"]
        rows.append(
            {
                "latency_ms": latency,
                "operation": operation,
                "connections": connections,
                "variant": variant,
                "statuses": dict(cell["statuses"]),
                "median": {f: round(statistics.median(rounds[f]), 3) for f in rounds},
                "ratio_to_raw": {
                    figure: round(
                        statistics.median(
                            one / other
                            for one, other in zip(rounds[figure], raw[figure], strict=True)
                            if other
                        ),
                        3,
                    )
                    for figure in FIGURES
                },
                "rounds": rounds,
            }
        )
    order = list(VARIANTS)
    rows.sort(
        key=lambda row: (
            row["latency_ms"],
            row["operation"],
            -row["connections"],
            order.index(row["variant"]),
        )
    )
    return rows


def main() -> None:
    options = stack.arguments(__doc__).parse_args()
    plan = QUICK if options.quick else Plan()
    given = {"rounds": options.rounds, "seconds": options.seconds}
    plan = replace(plan, **{name: value for name, value in given.items() if value})
    cells: Cells = {}
    trips: dict[str, list[float]] = {str(latency): [] for latency in plan.latencies_ms}
    begun = time.monotonic()
    with stack.project(options.project) as project:
        facts = stack.facts(project)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for number in range(1, plan.rounds + 1):
                for latency in chance.sample(plan.latencies_ms, len(plan.latencies_ms)):
                    print(
                        f"{time.monotonic() - begun:5.0f} s: round {number} of {plan.rounds},"
                        f" {latency} ms",
                        file=sys.stderr,
                        flush=True,
                    )
                    trip = run_round(runner, project, latency, plan, cells)
                    trips[str(latency)].append(trip)
    result = {
        **facts,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "warm_up": plan.warm_up,
        "measured_trip_ms": trips,
        "cells": summary(cells),
    }
    path = stack.write(options.out, "throughput.json", result)
    report.draw(result, options.out / "throughput.svg")
    print(report.throughput(result))
    print(f"{path.name} and throughput.svg are written.", file=sys.stderr)


if __name__ == "__main__":
    stack.command(main)
