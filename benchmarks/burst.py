"""Let 2,000 people arrive at once, at this service and at one as the outage had it.

    uv run --group benchmarks benchmarks/burst.py

Each is a process of its own with up to 15 connections to PgBouncer in transaction mode. `GET /hold` keeps
one for 50 ms, so 300 requests a second is all that either can do. First, 2,000 clients arrive at the same
moment; whoever is refused (503) comes back after Retry-After until it is served. Then 2,000 clients keep
asking for 30 s. All the while /livez is asked every 20 ms, and in the end we wait until the service is
normal again.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import report
import stack
import uvloop
from load import PATIENCE, Client, Crowd, crowd, get, percentile

POOL = 15
# Module of services/. "service" has DATABASE_POOL_SIZE=15, the seeds 5 + 10.
CONFIGURATIONS = {"service": "hold", "seeds": "seeds"}
HOLD = get("/hold")

# Normal again: so many requests in a row, one after the other, each with at most so many seconds more
# than it holds a connection.
NORMAL_REQUESTS = 20
NORMAL_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """How many, how long, and how often."""

    rounds: int = 3
    clients: int = 2000
    seconds: float = 30
    hold: float = 0.05
    variables: tuple[tuple[str, str], ...] = ()
    """Of the service, beyond DATABASE_POOL_SIZE."""


# So few that a pool is only overloaded if it is impatient.
QUICK = Plan(rounds=1, clients=100, seconds=1, variables=(("DATABASE_POOL_TIMEOUT", "0.2"),))


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def quantiles(latencies: list[float]) -> dict[str, float | None]:
    """In milliseconds."""
    return {
        "p50_ms": milliseconds(percentile(latencies, 50)),
        "p99_ms": milliseconds(percentile(latencies, 99)),
    }


def figures(seen: Crowd, probes: list[tuple[float, float, int]]) -> dict[str, Any]:
    """What a phase comes to."""
    others = {k: n for k, n in seen.statuses.items() if k not in (200, 503)}
    return {
        "sent": seen.sent,
        "served": len(seen.served),
        "shed": len(seen.shed),
        "errors": sum(others.values()),
        "errors_by_status": others,
        "served_per_s": round(seen.served_in_time / seen.seconds, 1),
        "served_latency": quantiles(seen.served),
        "shed_latency": quantiles(seen.shed),
        "longest_wait_s": round(seen.longest_wait, 3),
        "longest_until_served_s": round(seen.longest_until_served, 3),
        "unserved": seen.unserved,
        "livez": alive(probes),
    }


def alive(probes: list[tuple[float, float, int]]) -> dict[str, Any]:
    """How /livez was answered."""
    latencies = [latency for _, latency, _ in probes]
    return {
        **quantiles(latencies),
        "max_ms": milliseconds(max(latencies, default=None)),
        "probes": len(probes),
        "failed": sum(status != 200 for _, _, status in probes),
    }


async def recovery(port: int, since: float, hold: float) -> float | None:
    """Seconds from `since` until the first of enough normal answers in a row was asked for."""
    client = Client(port)
    normal, began = 0, since
    try:
        while normal < NORMAL_REQUESTS:
            asked = time.monotonic()
            if asked - since > PATIENCE:
                return None
            async with asyncio.timeout(PATIENCE):
                status = await client.ask(HOLD)
            if status == 200 and time.monotonic() - asked < hold + NORMAL_SECONDS:
                began = began if normal else asked
                normal += 1
            else:
                normal = 0
                await asyncio.sleep(0.02)
        return round(began - since, 3)
    finally:
        client.close()


async def load(port: int, plan: Plan) -> tuple[list[tuple[float, Crowd]], float | None]:
    """Both phases, each with when it began, and the recovery."""
    phases = []
    warm = Client(port)
    for _ in range(10):  # what a process does once: caches, the pool's first connection
        await warm.ask(HOLD)
    warm.close()
    begun = time.monotonic()
    arrival = await crowd(port, HOLD, plan.clients, None)
    phases.append((begun, arrival))
    await asyncio.sleep(1)
    begun = time.monotonic()
    overload = asyncio.create_task(crowd(port, HOLD, plan.clients, plan.seconds))
    await asyncio.sleep(plan.seconds)
    # From when nobody new arrives, while some may still wait.
    recovered = await recovery(port, begun + plan.seconds, plan.hold)
    phases.append((begun, await overload))
    return phases, recovered


def run(runner: asyncio.Runner, project: stack.Project, name: str, plan: Plan) -> dict[str, Any]:
    """One configuration, on servers of its own: what both phases and the recovery come to."""
    variables = {"DATABASE_POOL_SIZE": str(POOL), **dict(plan.variables)}
    variables["HOLD_SECONDS"] = str(plan.hold)
    log = project.scratch / "probe.log"
    with (
        stack.servers(project) as servers,
        stack.services(
            project, {name: (CONFIGURATIONS[name], variables)}, servers.pooler_url
        ) as services,
    ):
        port = services[name].port
        script = [sys.executable, str(stack.HERE / "probe.py"), str(port)]
        with stack.process(script, log=log, cwd=project.scratch) as probe:
            try:
                phases, recovered = runner.run(load(port, plan))
            except TimeoutError:
                raise services[name].fail(f"no answer for {PATIENCE} s.") from None
            probes = finish(probe)
        return {
            **{
                phase: figures(seen, [one for one in probes if begun <= one[0] <= seen.ended])
                for phase, (begun, seen) in zip(report.PHASES, phases, strict=True)
            },
            "livez": alive([one for one in probes if one[0] >= phases[0][0]]),
            "recovery_s": recovered,
        }


def finish(probe: subprocess.Popen[str]) -> list[tuple[float, float, int]]:
    """End the prober and read what it saw."""
    assert probe.stdin
    assert probe.stdout
    probe.stdin.close()
    return json.loads(probe.stdout.read())


def median(values: list[Any]) -> Any:
    """Of numbers, or key by key. None where it is None in more than half."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: median([value.get(key) for value in values]) for key in keys}
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if 2 * len(known) > len(values) else None


def main() -> None:
    parser = stack.arguments(__doc__)
    parser.add_argument("--clients", type=int, metavar="N", help="how many arrive")
    parser.add_argument("--hold", type=float, metavar="N", help="seconds, of each request")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    names = ("rounds", "clients", "seconds", "hold")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    plan = replace(plan, **given)
    stack.raise_file_limit(plan.clients + 500)
    rounds: list[dict[str, Any]] = []
    with stack.project(options.project) as project:
        facts = stack.facts(project)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for number in range(1, plan.rounds + 1):
                # Whoever is second finds a warmer machine: in turns.
                names = list(CONFIGURATIONS)[:: 1 if number % 2 else -1]
                for name in names:
                    print(f"Round {number} of {plan.rounds}: {name}", file=sys.stderr, flush=True)
                    seen = run(runner, project, name, plan)
                    rounds.append({"round": number, "configuration": name, **seen})
    result = {
        **facts,
        "clients": plan.clients,
        "seconds": plan.seconds,
        "hold_s": plan.hold,
        "service_variables": {"DATABASE_POOL_SIZE": str(POOL), **dict(plan.variables)},
        "medians": [
            {
                "configuration": name,
                **median([values(r) for r in rounds if r["configuration"] == name]),
            }
            for name in CONFIGURATIONS
        ],
        "rounds": rounds,
    }
    path = stack.write(options.out, "burst.json", result)
    print(report.burst(result))
    print(f"{path.name} is written.", file=sys.stderr)
    for one in rounds:
        if one["configuration"] == "service":
            check(one)


def values(one: dict[str, Any]) -> dict[str, Any]:
    """A round without its labels."""
    return {k: v for k, v in one.items() if k not in ("round", "configuration")}


def check(one: dict[str, Any]) -> None:
    """This service serves or says 503, and stays alive.

    Raises:
        BenchmarkError: it did neither.
    """
    for phase in report.PHASES:
        if one[phase]["errors"]:
            raise stack.BenchmarkError(
                f"This service failed in {phase}: {one[phase]['errors_by_status']}"
                " (status, 0 for a lost connection: how often)."
            )
        if one[phase]["livez"]["failed"]:
            raise stack.BenchmarkError(f"This service's /livez failed in {phase}.")


if __name__ == "__main__":
    stack.command(main)
