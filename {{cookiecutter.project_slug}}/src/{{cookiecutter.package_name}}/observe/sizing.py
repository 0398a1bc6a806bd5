"""Which size a pool should have, from what was measured. Nothing here connects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

# Of the best rate: a pool that is twice as large for 5 % more is a bad bargain.
NEAR = 0.95

# Of one core, above which the process itself is what takes the time.
BUSY = 0.9


@dataclass(frozen=True)
class Trial:
    """One size, measured once. Times are seconds, and begin with the wait for a connection."""

    rate: float
    """Requests answered per second."""
    p50: float
    p99: float
    refused: int = 0
    """Requests that found no connection within `DATABASE_POOL_TIMEOUT`: the service would answer 503."""
    cpu: float = 0
    """Seconds of CPU that this process used per second."""


class Size:
    """One size, measured several times: the medians."""

    def __init__(self, connections: int, trials: Sequence[Trial]) -> None:
        self.connections, self.trials = connections, trials
        self.rate = median(it.rate for it in trials)
        self.p50 = median(it.p50 for it in trials)
        self.p99 = median(it.p99 for it in trials)
        self.cpu = median(it.cpu for it in trials)
        self.refused = sum(it.refused for it in trials)

    def meets(self, target: float) -> bool:
        return self.p99 <= target and not self.refused

    def is_near(self, best: Size) -> bool:
        return self.rate >= NEAR * best.rate


def best_of(sizes: Iterable[Size]) -> Size:
    return max(sizes, key=lambda size: size.rate)


def choose(sizes: Iterable[Size], target: float) -> Size | None:
    """The smallest size near the best rate whose p99 meets the target.

    If none does both, the smallest of the fast ones among those that meet the target; if none meets it,
    among all. None, if nothing was answered.
    """
    tried = sorted((it for it in sizes if it.rate), key=lambda size: size.connections)
    meeting = [it for it in tried if it.meets(target)]
    for among in ([it for it in meeting if it.is_near(best_of(tried))], meeting, tried):
        if among:
            return next(it for it in among if it.is_near(best_of(among)))
    return None


def ladder(most: int, *also: int) -> list[int]:
    """The sizes to try: each about 1.4 times the one before, up to `most`, and some more."""
    steps = {round(2 ** (half / 2)) for half in range(2 * most.bit_length())}
    # The last step before `most` would be nearly the same.
    near = {n for n in steps if n < 0.85 * most}
    return sorted({1, most} | near | {n for n in also if 0 < n < most})


def milliseconds(seconds: float) -> str:
    """A time as people read it: 4.2 ms, 38 ms, 1.25 s."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"


HEAD = ("connections", "requests/s", "p50", "p99", "refused", "CPU")


def cells(size: Size) -> list[str]:
    """A row of the table below `HEAD`."""
    rate, p50, p99 = f"{size.rate:,.0f}", milliseconds(size.p50), milliseconds(size.p99)
    return [f"{size.connections}", rate, p50, p99, f"{size.refused}", f"{size.cpu:.0%}"]


@dataclass(frozen=True)
class Limits:
    """What bounds the sizes that are tried."""

    most: int
    """The largest size."""
    why: str
    """The reason for that, as a sentence."""
    free: int
    """Connections that PostgreSQL has left."""
    backends: int | None = None
    """Server connections that the pooler gave at once, if they were fewer than the clients."""
    requests_per_connection: int = 20


def advice(
    size: Size, sizes: Iterable[Size], limits: Limits, concurrency: int, target: float
) -> list[str]:
    """What to set and why, in sentences; the first says it all."""
    best = best_of(sizes)
    variables = [f"DATABASE_POOL_SIZE={size.connections}", "DATABASE_MAX_OVERFLOW=0"]
    if size.connections * limits.requests_per_connection < concurrency:
        # Or the service would refuse what was measured here.
        variables.append(f"REQUESTS_PER_CONNECTION={math.ceil(concurrency / size.connections)}")
    told = f"Set {', '.join(variables)}: {size.rate:,.0f} requests/s with a p99 of {milliseconds(size.p99)}"
    if size.is_near(best) and size.connections < best.connections:
        told += f", within 5 % of the best ({best.rate:,.0f}/s with {best.connections})"
    sentences = [f"{told}."]
    if not size.meets(target):
        sentences.append(
            f"No size meets the target of {milliseconds(target)} with {concurrency} requests at once: make the "
            "requests shorter, or share them among more processes."
        )
    elif not size.is_near(best):
        sentences.append(
            f"It is the fastest that meets the target of {milliseconds(target)}; {best.connections} connections "
            f"answer {best.rate:,.0f}/s, with a p99 of {milliseconds(best.p99)}."
        )
    if limits.backends is not None and size.connections >= limits.backends:
        sentences.append(
            f"The pooler is the limit: its server connections for this login are {limits.backends}, however many "
            "a service opens. More need a larger pool there: default_pool_size in PgBouncer, "
            "Pool Size in Supabase's dashboard."
        )
    elif size.cpu >= BUSY:
        sentences.append(
            f"This process is the limit: it used {size.cpu:.0%} of a core. More connections don't help it; "
            "more processes do."
        )
    elif best.connections == limits.most < concurrency:
        sentences.append(f"More connections might be faster still, but {limits.why}.")
    sentences.append(
        f"That is one process. Replicas x workers x {size.connections}, old and new pods together, have to stay "
        "below what the pooler, or PostgreSQL, has for clients: `doctor` counts it."
    )
    return sentences
