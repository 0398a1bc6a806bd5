"""A pooler that is restarted, and SIGTERM: no request fails that need not, and no write is lost."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy import insert

from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import SessionDep

import devstack
from tests.pooler.proxy import counted
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, running, served


class Pooler:
    """A PgBouncer of the test's own, to stop and to start again at the same address."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._port = devstack.free_port()
        self._running = ExitStack()
        self.url = ""

    async def start(self) -> None:
        pgbouncer = devstack.pgbouncer(self._database_url, listen_port=self._port)
        self.url = await asyncio.to_thread(self._running.enter_context, pgbouncer)

    async def stop(self) -> None:
        await asyncio.to_thread(self._running.close)


@pytest.fixture
async def pooler(database: Database) -> AsyncIterator[Pooler]:
    pooler = Pooler(database.url)
    await pooler.start()
    yield pooler
    await pooler.stop()


@pytest.fixture
def settings(settings: Settings, pooler: Pooler) -> Settings:
    """The service's settings, through that pooler."""
    return Settings.model_validate(settings.model_dump() | {"database_url": pooler.url})


async def test_the_pooler_is_restarted(
    app: FastAPI, database: Database, pooler: Pooler, things: str
) -> None:
    """Under load, and while nobody asks: every connection in the pool is closed then."""
    amounts = itertools.count()
    answers: list[int] = []
    acknowledged: set[int] = set()

    @app.post("/test/things/{amount}", status_code=201)
    async def write(amount: int, session: SessionDep) -> None:
        await session.execute(insert(ScratchThing).values(name="a", amount=amount))

    async with running(app) as client:

        async def ask() -> None:
            while True:
                amount = next(amounts)
                answers.append((await client.post(f"/test/things/{amount}")).status_code)
                if answers[-1] == 201:
                    acknowledged.add(amount)
                await asyncio.sleep(0)

        async def told(count: int) -> set[int]:
            """What the next requests are answered."""
            before = len(answers)
            async with asyncio.timeout(20):
                while len(answers) < before + count:
                    await asyncio.sleep(0.01)
            return set(answers[before:])

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        assert await told(50) == {201}
        await pooler.stop()
        assert await told(50) <= {201, 503}
        await pooler.start()
        await told(8)  # those that were on their way
        assert await told(200) == {201}
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

        await client.post("/test/things/-1")  # so that there is a connection in the pool
        await pooler.stop()
        await pooler.start()
        for amount in range(-11, -1):
            assert (await client.post(f"/test/things/{amount}")).status_code == 201

    async with connect(database.url) as direct:
        stored = {row["amount"] for row in await direct.fetch(f"SELECT amount FROM {things}")}
    assert acknowledged <= stored


async def test_sigterm(database: Database, tmp_path: Path) -> None:
    """A request in flight is finished, and the exit code is 0."""
    async with (
        counted(database.pooler_url) as (proxy, url),
        served(url, tmp_path) as service,
        asyncio.timeout(10),
    ):
        assert (await service.client.get("/readyz")).status_code == 200
        proxy.passing.clear()
        before = proxy.asked
        slow = asyncio.create_task(service.client.get("/readyz"))
        while proxy.asked == before:
            await asyncio.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        proxy.passing.set()
        assert (await slow).status_code == 200
        assert await service.process.wait() == 0
