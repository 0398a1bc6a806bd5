"""Round trips, which cost the same on a fast machine: counted, and asserted exactly."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from fastapi import FastAPI, Request
from httpx import AsyncClient
from sqlalchemy import text

from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep

from tests.pooler.proxy import Proxy, counted
from tests.support import Database, connect, running


def _app(settings: Settings, things: str) -> FastAPI:
    app = create_app(settings)

    @app.get("/read")
    async def read(session: ReadSessionDep) -> int:
        result = await session.execute(text(f"SELECT count(*) FROM {things}"))
        return int(result.scalar_one())

    @app.post("/write")
    async def write(session: SessionDep) -> None:
        await session.execute(text(f"INSERT INTO {things} (name, amount) VALUES ('a', 1)"))

    @app.get("/nothing")
    async def nothing(session: SessionDep, read: ReadSessionDep) -> None: ...

    @app.get("/two-at-once")
    async def two_at_once(request: Request) -> None:
        engine = request.state.engine
        async with engine.connect() as one, engine.connect() as two:
            await one.execute(text("SELECT 1"))
            await two.execute(text("SELECT 1"))

    return app


@dataclass
class Service:
    client: AsyncClient
    proxy: Proxy
    url: str
    named: bool
    """Whether it uses named statements, directly, or unnamed ones through the pooler."""

    async def trips(self, method: str, path: str) -> int:
        """How many a request costs."""
        before = self.proxy.trips
        assert (await self.client.request(method, path)).status_code == 200
        return self.proxy.trips - before


@pytest.fixture(params=[False, True], ids=["unnamed", "named"])
async def service(
    request: pytest.FixtureRequest, settings: Settings, database: Database, things: str
) -> AsyncIterator[Service]:
    named: bool = request.param
    async with counted(database.url if named else database.pooler_url) as (proxy, url):
        values = {"database_url": url, "database_prepared_statements": named}
        settings = Settings.model_validate(settings.model_dump() | values)
        async with running(_app(settings, things)) as client:
            yield Service(client, proxy, url, named)


async def test_a_request_costs_no_more_trips_than_it_must(service: Service) -> None:
    for method, path in (("GET", "/read"), ("POST", "/write"), ("GET", "/readyz")):
        await service.trips(method, path)  # opens the connection, and names the statement
    for _ in range(3):
        assert await service.trips("GET", "/livez") == 0
        assert await service.trips("GET", "/nothing") == 0
        assert await service.trips("GET", "/readyz") == (1 if service.named else 2)
        assert await service.trips("GET", "/read") == (1 if service.named else 2)
        assert await service.trips("POST", "/write") == (3 if service.named else 4)
    assert service.proxy.connections == 1


async def test_a_further_connection_only_logs_in(service: Service) -> None:
    """SQLAlchemy asks 10 questions on an engine's first connection, and none on later ones."""
    await service.trips("GET", "/read")
    before = await service.trips("GET", "/two-at-once")
    after = await service.trips("GET", "/two-at-once")
    assert service.proxy.connections == 2
    start = service.proxy.trips
    async with connect(service.url):
        login = service.proxy.trips - start
    # Named, both connections prepare "SELECT 1" the first time.
    assert before - after == login + (2 if service.named else 0)
