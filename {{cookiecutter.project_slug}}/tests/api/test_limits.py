"""What becomes of requests beyond the limit, and of what lasts longer than its response's beginning."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from httpx import Limits

from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings

from tests.support import new_client, running, serving


@pytest.fixture
def few(settings: Settings) -> FastAPI:
    """An application with two places."""
    return create_app(
        settings.model_copy(update={"database_pool_size": 1, "requests_per_connection": 2})
    )


async def test_what_is_too_much_at_once_is_answered_503_at_once(few: FastAPI) -> None:
    both_and_us, leave = asyncio.Barrier(3), asyncio.Event()

    @few.get("/test/long")
    async def long() -> None:
        await both_and_us.wait()
        await leave.wait()

    async with running(few) as client, asyncio.timeout(10):
        for _ in range(2):  # what was let in once is let in again
            leave.clear()
            requests = [asyncio.create_task(client.get("/test/long")) for _ in range(2)]
            await both_and_us.wait()
            busy = await client.get("/test/long")
            assert busy.status_code == 503
            assert busy.headers["retry-after"] == "1"
            assert busy.headers["content-type"] == "application/problem+json"
            for probe in ("/livez", "/readyz", "/metrics"):
                assert (await client.get(probe)).status_code == 200
            leave.set()
            assert {(await request).status_code for request in requests} == {200}


async def test_a_refusal_names_the_request_and_is_counted(few: FastAPI) -> None:
    """It is written before anything that does so for others."""
    both_and_us, leave = asyncio.Barrier(3), asyncio.Event()

    @few.get("/test/long")
    async def long() -> None:
        await both_and_us.wait()
        await leave.wait()

    sent = "0123456789abcdef0123456789abcdef"
    async with running(few) as client, asyncio.timeout(10):
        requests = [asyncio.create_task(client.get("/test/long")) for _ in range(2)]
        await both_and_us.wait()
        named = await client.get("/test/long", headers={"X-Request-ID": sent})
        nameless = await client.get("/test/long", headers={"X-Request-ID": '","marked": "'})
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
    end, both_and_us, leave = asyncio.Event(), asyncio.Barrier(3), asyncio.Event()

    @few.get("/test/events")
    async def events() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await end.wait()

        return StreamingResponse(forever(), media_type="text/event-stream")

    @few.get("/test/short")
    async def short() -> None: ...

    @few.get("/test/long")
    async def long() -> None:
        await both_and_us.wait()
        await leave.wait()

    async with serving(few) as client, asyncio.timeout(20):
        # The client's own limit is 100 connections.
        many = new_client(client.base_url, limits=Limits(max_connections=300))
        async with many, AsyncExitStack() as streams:
            for _ in range(20):
                response = await streams.enter_async_context(many.stream("GET", "/test/events"))
                assert response.status_code == 200
            for path in ("/test/short", "/readyz", "/test/short"):
                assert (await client.get(path)).status_code == 200
            end.set()
        await asyncio.sleep(0.2)
        requests = [asyncio.create_task(client.get("/test/long")) for _ in range(2)]
        await both_and_us.wait()
        refused = await client.get("/test/short")
        leave.set()
        assert refused.status_code == 503
        assert {(await request).status_code for request in requests} == {200}


async def test_background_tasks_leave_room_for_others(few: FastAPI) -> None:
    end = asyncio.Event()

    @few.post("/test/mail")
    async def mail(tasks: BackgroundTasks) -> None:
        tasks.add_task(end.wait)

    async with serving(few) as client, asyncio.timeout(10):
        try:
            for _ in range(5):
                assert (await client.post("/test/mail")).status_code == 200
        finally:
            end.set()


async def test_a_defect_gives_its_place_back(few: FastAPI) -> None:
    """Its answer is written by somebody else, outside of the limit."""

    @few.get("/test/defect")
    async def defect() -> None:
        raise RuntimeError

    async with running(few) as client:
        for _ in range(5):
            assert (await client.get("/test/defect")).status_code == 500
