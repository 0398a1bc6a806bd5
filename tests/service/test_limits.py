"""What becomes of requests beyond the limit: when each is told to come back. And of open streams."""

import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orders_api.web import limits
from orders_api.web.limits import LONGEST, Tickets

from tests.support import ROOT, Database, served


async def test_sigterm_ends_open_streams(database: Database, tmp_path: Path) -> None:
    """With `GRACE_PERIOD` for those that end by themselves; here it is a second."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    async with AsyncExitStack() as streams:
        async with served(
            database.pooler_url, tmp_path, module="tests.service.streams", PYTHONPATH=path
        ) as service:
            opened = []  # httpx closes a stream whose iterator is gone
            for _ in range(10):
                stream = service.client.stream("GET", "/events")
                opened.append((await streams.enter_async_context(stream)).aiter_lines())
                assert await anext(opened[-1]) == "data: 1"
            ended = time.monotonic()
            service.process.terminate()
            assert await service.process.wait() == 0
        assert time.monotonic() - ended < 5


class Clock:
    """`monotonic()`, but it moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "monotonic", clock)
    return clock


def learnt(seconds: float, in_flight: float, connections: int = 15) -> Tickets:
    """Tickets after many requests that took so long, beside so many."""
    tickets = Tickets(connections)
    for _ in range(100):
        tickets.learn(seconds, in_flight)
    return tickets


@pytest.mark.parametrize(
    ("seconds", "in_flight", "rate"),
    [
        (0.05, 3, 300),  # nobody waits: 15 connections, each of them 20 times a second
        (1, 300, 300),  # everybody waits: 300 are through in a second
        (2, 300, 150),
        (0.005, 15, 3000),
    ],
)
def test_who_is_refused_comes_back_as_fast_as_others_are_served(
    clock: Clock, seconds: float, in_flight: float, rate: int
) -> None:
    """After a second everybody would be refused again, in step; after ten nobody would be there."""
    tickets = learnt(seconds, in_flight)
    told = Counter(tickets.take() for _ in range(5 * rate))
    assert 5 <= max(told) <= 6
    for second in (2, 3, 4):
        assert told[second] == pytest.approx(rate, rel=0.2)


def test_the_queue_of_the_refused_empties_with_time(clock: Clock) -> None:
    tickets = learnt(0.05, 1)
    for _ in range(2):  # the second rush is not told what was left of the first
        for _ in range(1500):
            last = tickets.take()
        assert last in (5, 6)
        clock.now += 3
        assert tickets.take() in (2, 3)
        clock.now += 60
        assert tickets.take() == 1


def test_nobody_is_sent_away_for_long(clock: Clock) -> None:
    """An estimate may be wrong: a report of a minute is not what the next ones will be."""
    tickets = learnt(60, 1)
    told = Counter(tickets.take() for _ in range(10_000))
    assert min(told) >= 1
    assert max(told) <= LONGEST
    assert max(told.values()) < 4_000, "they would come back in step"
    clock.now += LONGEST
    for _ in range(100):
        tickets.learn(0.05, 1)
    assert tickets.take() == 1
