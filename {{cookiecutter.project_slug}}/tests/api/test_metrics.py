"""What the service tells of itself: the pool in /metrics, and where a request's time went in the log."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from httpx import AsyncClient, HTTPError
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from structlog.testing import capture_logs

from {{ cookiecutter.package_name }}.database import metrics
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web import requests
from {{ cookiecutter.package_name }}.web.dependencies import SessionDep

from tests.documents import OPERATIONS
from tests.support import ROOT, Database, running, served

Samples = dict[str, float]


def _parse(exported: str) -> Samples:
    """Every sample, by its name and what its labels are, without the prefix that all have."""
    return {
        " ".join([it.name.removeprefix("db_client_connection_"), *it.labels.values()]): it.value
        for family in text_string_to_metric_families(exported)
        for it in family.samples
    }


def now() -> Samples:
    return _parse(generate_latest(metrics.METRICS).decode())


def since(before: Samples) -> Samples:
    return {name: value - before.get(name, 0) for name, value in now().items()}


@pytest.fixture
def leave() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def holding(settings: Settings, leave: asyncio.Event) -> FastAPI:
    """An application with a pool of two, and a route that holds a connection without a statement."""
    few = {"database_pool_size": 2, "database_pool_timeout": 1}
    app = create_app(settings.model_copy(update=few))

    @app.get("/test/hold/{name}")
    async def hold(name: str, session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        await leave.wait()

    return app


async def _scrape(client: AsyncClient) -> Samples:
    return _parse((await client.get("/metrics")).text)


async def test_the_pool_at_work(holding: FastAPI, leave: asyncio.Event) -> None:
    before = now()
    async with running(holding) as client, asyncio.timeout(20):
        requests = [asyncio.create_task(client.get(f"/test/hold/{name}")) for name in "abc"]
        while (busy := await _scrape(client))["pending_requests"] != 1:
            await asyncio.sleep(0.01)
        while (await _scrape(client))["timeouts_total"] == before["timeouts_total"]:
            await asyncio.sleep(0.01)
        leave.set()
        assert sorted([(await it).status_code for it in requests]) == [200, 200, 503]
        free = await _scrape(client)
    names = ("count used", "count idle", "pending_requests", "max")
    assert [busy[it] for it in names] == [before["count used"] + 2, before["count idle"], 1, 2]
    assert [free[it] for it in names] == [before["count used"], before["count idle"] + 2, 0, 2]
    after = since(before)
    assert after["count idle"] == 0  # the engine is gone, and its connections are
    assert after["timeouts_total"] == 1
    assert after["db_client_failures_total unavailable "] == 1
    assert after["create_time_seconds_count"] == 2
    assert after["use_time_seconds_count"] == 2
    assert after["use_time_seconds_sum"] >= 1
    assert after["wait_time_seconds_count"] == 3
    assert after["wait_time_seconds_sum"] >= 1


async def test_what_is_watched_is_exported(app: FastAPI) -> None:
    """A dashboard or an alert for a metric that nobody exports is silent for ever."""
    async with running(app) as client:
        await client.get("/nowhere")
        exported = (await client.get("/metrics")).text
    families = list(text_string_to_metric_families(exported))
    known = {it.name for it in families} | {it.name for family in families for it in family.samples}
    for file in (ROOT / "monitoring").iterdir():
        named = set(re.findall(r"\b(?:db_client|http|process)_\w+", file.read_text()))
        assert named - {"db_client_connection_state"} <= known, file.name
        assert named
    alerts = re.findall(r"alert: (\w+)", (ROOT / "monitoring" / "alerts.yaml").read_text())
    assert alerts == re.findall(
        r"^\| `(\w+)` \|", OPERATIONS.read_text().partition("| alert |")[2], re.MULTILINE
    )


async def test_a_held_connection_is_told_with_its_route(
    holding: FastAPI, leave: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HELD_TOO_LONG", 0.2)
    with capture_logs() as logs:
        async with running(holding) as client, asyncio.timeout(20):
            request = asyncio.create_task(client.get("/test/hold/a"))
            while not (held := [it for it in logs if "without a statement" in it["event"]]):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            leave.set()
            response = await request
    assert len(held) == 1
    assert (held[0]["log_level"], held[0]["route"]) == ("warning", "/test/hold/{name}")
    assert held[0]["request_id"] == response.headers["x-request-id"]
    assert held[0]["seconds"] >= 0.2


async def test_where_a_request_spent_its_time(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(requests, "SLOW", 0.0)
    caplog.set_level("INFO")

    @app.get("/test/reads/{n}")
    async def reads(n: int, session: SessionDep) -> None:
        for _ in range(n):
            await session.execute(text("SELECT pg_sleep(0.1)"))

    with capture_logs() as logs:
        async with running(app) as client:
            await client.get("/test/reads/2")
    [line] = [it for it in logs if it["event"] == "request"]
    assert line["log_level"] == "info"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/test/reads/{n}", 200)
    assert line["statements"] == 2
    assert 0.2 <= line["database"] <= line["seconds"]
    assert 0 < line["waited"] <= line["seconds"]


async def test_the_line_of_a_request_that_did_not_end_well(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer is not sent by the service's own code, or was begun and is not ended."""
    caplog.set_level("INFO")

    @app.get("/test/raises")
    async def raises() -> None:
        raise ZeroDivisionError

    @app.get("/test/breaks")
    async def breaks() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "a"
            raise ZeroDivisionError

        return StreamingResponse(pieces())

    with capture_logs() as logs:
        async with running(app) as client:
            await client.get("/test/raises")
            with suppress(HTTPError, ZeroDivisionError):
                await client.get("/test/breaks")
    lines = [it for it in logs if it["event"] == "request"]
    told = [(it["route"], it["status"], it["unfinished"]) for it in lines]
    assert told == [("/test/raises", 500, True), ("/test/breaks", 200, True)]


async def test_what_is_refused_at_the_limit_writes_no_line(
    holding: FastAPI, leave: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand of them would cost more than they are refused for."""
    caplog.set_level("INFO")
    with capture_logs() as logs:
        async with running(holding) as client:
            requests = [asyncio.create_task(client.get(f"/test/hold/{n}")) for n in range(250)]
            while sum(it.done() for it in requests) < 50:
                await asyncio.sleep(0.01)
            leave.set()
            statuses = [(await it).status_code for it in requests]
    assert statuses.count(503) >= 50
    assert [it for it in logs if it.get("status") == 503 and it["waited"] < 0.5] == []


async def test_a_healthy_service_has_a_short_log(database: Database, tmp_path: Path) -> None:
    """Without LOG_LEVEL=debug, no line for a request: neither ours nor uvicorn's."""
    async with served(database.pooler_url, tmp_path, LOG_LEVEL="debug") as service:
        await service.client.get("/readyz")
        await service.client.get("/nowhere")
    lines = [json.loads(it) for it in service.output.splitlines()]
    told = [it for it in lines if it["event"] == "request" or "GET /" in it["event"]]
    assert {it["level"] for it in told} == {"debug"}
    assert len([it for it in told if it.get("route") == "/readyz" or it.get("status") == 404]) == 2
