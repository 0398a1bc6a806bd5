"""Many callers on few backends, among cancellations, errors, timeouts and backends that die."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import BigInteger, cast, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from orders_api.auth.dependencies import UserSessionDep
from orders_api.database.caller import Caller, UserSessions
from orders_api.database.session import Sessions
from orders_api.main import create_app
from orders_api.settings import Settings
from orders_api.web.dependencies import SessionDep

from devstack.issuer import Issuer
from tests.auth.callers import ALICE, BOB, NOTHING, is_caller, left_on_backends, who
from tests.conftest import Servers
from tests.pooler.proxy import Proxy, counted
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, make_engine, running

TASKS, ROUNDS = 20, 15
ENDS = ["commit"] * 6 + ["raise", "fail"]

# Each of these sends a cancel request. A PgBouncer of 1.18 dies of one whose backend is just being killed.
CANCELLING = ["cancel", "time out"]

# A backend of the service's: a connection of the test's own has no name.
KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name <> '' ORDER BY random() LIMIT 1
"""


class Storm:
    """What each task was told of its transactions."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.users, self.own = UserSessions(engine), Sessions(engine)
        self.stored: dict[str, Caller] = {}
        self.not_stored: set[str] = set()
        self.leaks: list[object] = []
        self.outcomes: Counter[str] = Counter()

    async def run(self, seed: int, ends: list[str]) -> None:
        chosen = random.Random(seed)
        for _ in range(ROUNDS):
            if chosen.random() < 0.2:
                await self._for_nobody()
            else:
                await self._for_a_caller(chosen.choice((ALICE, BOB)), chosen.choice(ends))

    async def _for_nobody(self) -> None:
        with suppress(SQLAlchemyError):  # a backend that was killed
            async with self.own.begin() as session:
                if not (found := await who(session)).login:
                    self.leaks.append(found)

    async def _for_a_caller(self, caller: Caller, end: str) -> None:
        name = uuid4().hex
        self.not_stored.add(name)
        work = asyncio.create_task(self._write(caller, name, end))
        if end == "cancel":
            await asyncio.sleep(random.random() * 0.02)
            work.cancel()
        try:
            await work
        except (SQLAlchemyError, ZeroDivisionError, TimeoutError, asyncio.CancelledError) as error:
            self.outcomes[f"{end}: {type(error).__name__}"] += 1
            if end in ("commit", "cancel"):  # its answer may be what was lost
                self.not_stored.discard(name)
        else:
            self.not_stored.discard(name)
            self.stored[name] = caller

    async def _write(self, caller: Caller, name: str, end: str) -> None:
        async with self.users.begin(caller) as session:
            await self._look(session, caller)
            await session.execute(insert(ScratchThing).values(name=name, amount=1))
            if end == "fail":
                await session.execute(text("SELECT 1/0"))
            elif end == "time out":
                async with asyncio.timeout(0.02):
                    await session.execute(text("SELECT pg_sleep(1)"))
            elif end == "raise":
                raise ZeroDivisionError
            await self._look(session, caller)

    async def _look(self, session: AsyncSession, caller: Caller) -> None:
        if not is_caller(found := await who(session), caller.claims):
            self.leaks.append((caller, found))


async def test_nobody_is_taken_for_another_and_nothing_is_lost(
    settings: Settings, database: Database, owned: str, servers: Servers
) -> None:
    async def kill() -> None:
        async with connect(database.url) as direct:
            while True:
                await asyncio.sleep(0.2)
                await direct.execute(KILL)

    async with make_engine(settings, database) as engine:
        storm = Storm(engine)
        await asyncio.gather(*(storm.run(task, ENDS + CANCELLING) for task in range(TASKS)))
        killer = asyncio.create_task(kill() if servers.ours else asyncio.sleep(0))
        await asyncio.gather(*(storm.run(-task, ENDS) for task in range(TASKS)))
        killer.cancel()
        assert storm.leaks == []
        async with connect(database.url) as direct:
            rows = await direct.fetch(f"SELECT name, owner FROM {owned}")
        owners = {row["name"]: row["owner"] for row in rows}
        assert {name: owners.get(name) for name in storm.stored} == {
            name: caller.id for name, caller in storm.stored.items()
        }
        assert not storm.not_stored & owners.keys()
        ends = {it.partition(":")[0] for it in storm.outcomes}
        assert ends >= {"raise", "fail", *CANCELLING} and len(storm.stored) > TASKS * ROUNDS / 2
        assert await left_on_backends(database.pooler_url) == NOTHING
        for _ in range(10):
            async with Sessions(engine).begin() as session:
                assert (await who(session)).login


@pytest.fixture
async def counting(
    settings: Settings, database: Database, issuer: Issuer, role: str
) -> AsyncIterator[tuple[AsyncClient, Proxy]]:
    def routes(app: FastAPI) -> None:
        @app.post("/test/service")
        async def service(session: SessionDep) -> None:
            await session.execute(text("SELECT 1"))

        @app.post("/test/user")
        async def user(session: UserSessionDep) -> None:
            await session.execute(text("SELECT 1"))

        @app.post("/test/sealed")
        async def sealed(session: UserSessionDep) -> None:
            await session.execute(select(cast(func.count(), BigInteger)))

        @app.post("/test/nothing")
        async def nothing(session: UserSessionDep) -> None: ...

        @app.post("/test/twice")
        async def twice(session: UserSessionDep) -> None:
            for _ in range(2):
                await session.execute(text("SELECT 1"))
                await session.commit()

    async with counted(database.pooler_url) as (proxy, url):
        app = create_app(Settings.model_validate(settings.model_dump() | {"database_url": url}))
        routes(app)
        async with running(app) as client:
            client.headers["Authorization"] = f"Bearer {issuer.token()}"
            yield client, proxy


async def test_a_callers_transaction_costs_no_more_trips(
    counting: tuple[AsyncClient, Proxy],
) -> None:
    client, proxy = counting

    async def trips(path: str) -> int:
        before = proxy.trips
        assert (await client.post(path)).status_code == 200
        return proxy.trips - before

    await trips("/test/sealed")  # opens the connection, and describes the statement
    for _ in range(3):
        assert await trips("/test/nothing") == 0
        assert await trips("/test/service") == 4
        assert await trips("/test/user") == 4
        assert await trips("/test/sealed") == 3
        assert await trips("/test/twice") == 8
