"""What a route may rely on: one transaction, committed before the response, and no leak."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from httpx import AsyncClient
from sqlalchemy import text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{ cookiecutter.package_name }}.database.url import parse_url
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep

from tests.support import Database, connect, eventually_gone, running, server_connections, serving


@pytest.fixture
async def notes(app: FastAPI, database: Database) -> AsyncIterator[str]:
    """A table whose unique key is checked at COMMIT, and routes that write to it."""
    table = f"{database.scratch}.notes"
    insert = text(f"INSERT INTO {table} VALUES (:note)")

    @app.post("/test/notes/{note}", status_code=201)
    async def write(note: str, session: SessionDep) -> dict[str, str]:
        await session.execute(insert, {"note": note})
        return {"note": note}

    @app.post("/test/failing/{note}")
    async def fail(note: str, session: SessionDep) -> None:
        await session.execute(insert, {"note": note})
        raise RuntimeError("a defect")

    @app.get("/test/pool")
    async def pool(request: Request) -> dict[str, int]:
        pool = request.state.engine.pool
        return {"checked_out": pool.checkedout(), "kept": pool.checkedin()}

    async with connect(database.url) as connection:
        await connection.execute(
            f"CREATE TABLE {table} (note text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
        )
        yield table
        await connection.execute(f"DROP TABLE {table}")


async def _stored(database: Database, table: str) -> list[Any]:
    async with connect(database.url) as connection:
        return [row["note"] for row in await connection.fetch(f"SELECT note FROM {table}")]


async def _pool(client: AsyncClient) -> dict[str, int]:
    pool: dict[str, int] = (await client.get("/test/pool")).json()
    return pool


async def test_a_failing_commit_is_not_answered_with_success(
    app: FastAPI, database: Database, notes: str
) -> None:
    """With FastAPI's default scope the commit comes after the response: 201, and no row."""
    async with running(app) as client:
        assert (await client.post("/test/notes/once")).status_code == 201
        response = await client.post("/test/notes/once")
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert await _stored(database, notes) == ["once"]


async def test_an_exception_rolls_back(app: FastAPI, database: Database, notes: str) -> None:
    async with running(app) as client:
        response = await client.post("/test/failing/never")
        assert response.status_code == 500
        assert (await _pool(client))["checked_out"] == 0
    assert await _stored(database, notes) == []


async def test_a_hundred_failing_commits_leave_the_pool_full(app: FastAPI, notes: str) -> None:
    """Where a commit raises before the session is closed, the connection never comes back."""
    async with serving(app) as client:
        await client.post("/test/notes/once")
        for _ in range(100):
            assert (await client.post("/test/notes/once")).status_code == 409
        assert await _pool(client) == {"checked_out": 0, "kept": 1}


async def test_a_route_without_a_query_takes_no_connection(app: FastAPI, notes: str) -> None:
    @app.get("/test/idle")
    async def idle(session: SessionDep, request: Request) -> int:
        checked_out: int = request.state.engine.pool.checkedout()
        return checked_out

    async with running(app) as client:
        assert (await client.get("/test/idle")).json() == 0
        assert await _pool(client) == {"checked_out": 0, "kept": 0}


async def test_the_connection_is_back_before_the_response_leaves(app: FastAPI, notes: str) -> None:
    checked_out: list[int] = []

    class Watch:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def watched_send(message: Message) -> None:
                checked_out.append(scope["state"]["engine"].pool.checkedout())
                await send(message)

            await self.app(scope, receive, watched_send if scope["type"] == "http" else send)

    app.add_middleware(Watch)
    async with running(app) as client:
        assert (await client.post("/test/notes/once")).status_code == 201
    assert checked_out == [0, 0]  # as the response starts, and with its body


async def test_no_server_connection_remains_after_shutdown(
    settings: Settings, database: Database
) -> None:
    url = f"{database.url}{'&' if '?' in database.url else '?'}application_name=shutdown"
    app = create_app(settings.model_copy(update={"database_url": parse_url(url)}))
    engines: list[object] = []  # keeps a forgotten engine from being tidied up by the collector

    @app.get("/test/engine")
    async def engine(request: Request) -> None:
        engines.append(request.state.engine)

    async with connect(database.url) as direct:
        async with running(app) as client:
            await client.get("/test/engine")
            assert (await client.get("/readyz")).status_code == 200
            assert await server_connections(direct, "application_name = 'shutdown'") == 1
        await eventually_gone(direct, "application_name = 'shutdown'")
    assert engines


async def test_cancelled_requests_leave_nothing_behind(
    app: FastAPI, database: Database, notes: str
) -> None:
    """At every point of a request, between two statements too; the pool is complete afterwards."""
    dawdling = asyncio.Event()

    @app.post("/test/dawdling/{note}")
    async def dawdle(note: str, session: SessionDep) -> None:
        await session.execute(text(f"INSERT INTO {notes} VALUES (:note)"), {"note": note})
        dawdling.set()
        await asyncio.sleep(60)  # as if asking another service

    @app.get("/test/read")
    async def read(session: ReadSessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(0.005)"))

    stuck = "datname = current_database() AND state LIKE 'idle in transaction%'"
    async with running(app) as client:
        await asyncio.gather(*(client.post(f"/test/notes/first-{number}") for number in range(20)))
        asked = [("POST", f"/test/dawdling/{number}") for number in range(5)]
        for number in range(250):
            asked += [("POST", f"/test/notes/{number}"), ("GET", "/test/read")]
        requests = [asyncio.create_task(client.request(*one)) for one in asked]
        await dawdling.wait()
        for number, request in enumerate(requests):
            if number % 5 == 0:
                await asyncio.sleep(0.001)
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        async with asyncio.timeout(5):
            while (await _pool(client))["checked_out"]:
                await asyncio.sleep(0.02)
        async with connect(database.url) as direct:
            await eventually_gone(direct, stuck)
        assert (await client.post("/test/notes/last")).status_code == 201
