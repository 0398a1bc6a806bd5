"""What becomes of requests beyond the limit, and of what lasts longer than its response's beginning."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from httpx import Limits

from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web import limits
from {{ cookiecutter.package_name }}.web.limits import LONGEST, Tickets

from tests.support import ROOT, Database, new_client, running, served, serving


@pytest.fixture
def few(settings: Settings) -> FastAPI:
    """An application with two places."""
    return create_app(
        settings.model_copy(update={"database_pool_size": 1, "requests_per_connection": 2})
    )


async def test_what_is_too_much_at_once_is_answered_503_at_once(few: FastAPI) -> None:
    arrived, leave = asyncio.Event(), asyncio.Event()

    @few.get("/long")
    async def long() -> None:
        arrived.set()
        await leave.wait()

    async with running(few) as client, asyncio.timeout(10):
        for _ in range(2):  # what was let in once is let in again
            arrived.clear()
            leave.clear()
            requests = [asyncio.create_task(client.get("/long")) for _ in range(2)]
            await arrived.wait()
            busy = await client.get("/long")
            assert busy.status_code == 503
            assert busy.headers["retry-after"] == "1"
            assert busy.headers["content-type"] == "application/problem+json"
            for probe in ("/livez", "/readyz", "/metrics"):
                assert (await client.get(probe)).status_code == 200
            leave.set()
            assert {(await request).status_code for request in requests} == {200}


async def test_a_refusal_names_the_request_and_is_counted(few: FastAPI) -> None:
    """It is written before anything that does so for others."""
    leave = asyncio.Event()

    @few.get("/long")
    async def long() -> None:
        await leave.wait()

    sent = "0123456789abcdef0123456789abcdef"
    async with running(few) as client, asyncio.timeout(10):
        requests = [asyncio.create_task(client.get("/long")) for _ in range(2)]
        await asyncio.sleep(0.1)
        named = await client.get("/long", headers={"X-Request-ID": sent})
        nameless = await client.get("/long", headers={"X-Request-ID": '","marked": "'})
        metrics = (await client.get("/metrics")).text
        leave.set()
        await asyncio.gather(*requests)
    assert named.json()["request_id"] == named.headers["x-request-id"] == sent
    assert nameless.json()["request_id"] == nameless.headers["x-request-id"]
    assert nameless.json() == named.json() | {"request_id": nameless.headers["x-request-id"]}
    assert nameless.json()["status"] == nameless.status_code == 503
    assert "\nhttp_requests_refused_total 2.0\n" in metrics


async def test_streams_leave_room_for_others(few: FastAPI) -> None:
    """Each of them may last for hours. Once they have ended there are as many places as before."""
    end = asyncio.Event()

    @few.get("/events")
    async def events() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await end.wait()

        return StreamingResponse(forever(), media_type="text/event-stream")

    @few.get("/short")
    async def short() -> None: ...

    @few.get("/long")
    async def long() -> None:
        await asyncio.sleep(0.5)

    async with serving(few) as client, asyncio.timeout(20):
        # The client's own limit is 100 connections.
        many = new_client(client.base_url, limits=Limits(max_connections=300))
        async with many, AsyncExitStack() as streams:
            for _ in range(200):
                response = await streams.enter_async_context(many.stream("GET", "/events"))
                assert response.status_code == 200
            for path in ("/short", "/readyz", "/short"):
                assert (await client.get(path)).status_code == 200
            end.set()
        await asyncio.sleep(0.2)
        responses = await asyncio.gather(*(client.get("/long") for _ in range(3)))
    assert sorted(response.status_code for response in responses) == [200, 200, 503]


async def test_background_tasks_leave_room_for_others(few: FastAPI) -> None:
    end = asyncio.Event()

    @few.post("/mail")
    async def mail(tasks: BackgroundTasks) -> None:
        tasks.add_task(end.wait)

    async with serving(few) as client, asyncio.timeout(10):
        try:
            for _ in range(5):
                assert (await client.post("/mail")).status_code == 200
        finally:
            end.set()


async def test_a_defect_gives_its_place_back(few: FastAPI) -> None:
    """Its answer is written by somebody else, outside of the limit."""

    @few.get("/defect")
    async def defect() -> None:
        raise RuntimeError

    async with running(few) as client:
        for _ in range(5):
            assert (await client.get("/defect")).status_code == 500


async def test_sigterm_ends_open_streams(database: Database, tmp_path: Path) -> None:
    """With `GRACE_PERIOD` for those that end by themselves; here it is a second."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    async with AsyncExitStack() as streams:
        async with served(
            database.pooler_url, tmp_path, module="tests.api.streams", PYTHONPATH=path
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
