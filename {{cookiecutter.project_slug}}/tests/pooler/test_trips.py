"""Round trips, which cost the same on a fast machine: counted, and asserted exactly."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import pytest
from fastapi import FastAPI, Request
from httpx import AsyncClient
from sqlalchemy import MetaData, Table, func, insert, select, text

from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep

from tests.pooler.proxy import Proxy, counted
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, running


def _app(settings: Settings, things: Table) -> FastAPI:
    app = create_app(settings)

    @app.get("/test/read")
    async def read(session: ReadSessionDep) -> int:
        return len((await session.execute(select(things.c.amount))).all())

    @app.get("/test/unsealed")
    async def unsealed(session: ReadSessionDep) -> int:
        return await session.scalar(select(func.count()).select_from(things)) or 0

    @app.post("/test/write")
    async def write(session: SessionDep) -> None:
        await session.execute(insert(things).values(name="a", amount=1).returning(things.c.id))

    @app.get("/test/nothing")
    async def nothing(session: SessionDep, read: ReadSessionDep) -> None: ...

    @app.get("/test/two-at-once")
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

    async def trips(self, method: str, path: str) -> int:
        """How many a request costs."""
        before = self.proxy.trips
        assert (await self.client.request(method, path)).status_code == 200
        return self.proxy.trips - before


@pytest.fixture
async def service(settings: Settings, database: Database, things: str) -> AsyncIterator[Service]:
    table = cast(Table, ScratchThing.__table__).to_metadata(MetaData(), schema=database.scratch)
    async with counted(database.pooler_url) as (proxy, url):
        settings = Settings.model_validate(settings.model_dump() | {"database_url": url})
        async with running(_app(settings, table)) as client:
            yield Service(client, proxy, url)


async def test_a_request_costs_no_more_trips_than_it_must(service: Service) -> None:
    await service.trips("GET", "/test/read")  # opens the connection, and learns the types
    opened = service.proxy.connections  # 2 for one login, where no TLS is offered
    await service.trips("POST", "/test/write")
    for _ in range(3):
        assert await service.trips("GET", "/livez") == 0
        assert await service.trips("GET", "/test/nothing") == 0
        assert await service.trips("GET", "/readyz") == 2
        assert await service.trips("GET", "/test/read") == 1
        assert await service.trips("GET", "/test/unsealed") == 2
        assert await service.trips("POST", "/test/write") == 3
    assert service.proxy.connections == opened


async def test_a_further_connection_only_logs_in(service: Service) -> None:
    """SQLAlchemy asks 10 questions on an engine's first connection, and none on later ones."""
    await service.trips("GET", "/test/read")
    opened = service.proxy.connections
    before = await service.trips("GET", "/test/two-at-once")
    after = await service.trips("GET", "/test/two-at-once")
    assert service.proxy.connections == 2 * opened
    start = service.proxy.trips
    async with connect(service.url):
        login = service.proxy.trips - start
    assert before - after == login
