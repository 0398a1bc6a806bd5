"""Connections are counted once, however they end, and work is no idleness."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from structlog.testing import capture_logs

from orders_api.database import metrics
from orders_api.database.session import Sessions
from orders_api.settings import Settings

from tests.api.test_metrics import now, since
from tests.support import Database, connect, eventually_gone, make_engine

Watched = Callable[..., AbstractAsyncContextManager[AsyncEngine]]


@pytest.fixture
def watched(settings: Settings, database: Database) -> Watched:
    """The service's engine, watched, with a pool of one directly on PostgreSQL."""

    @asynccontextmanager
    async def watched(**values: object) -> AsyncIterator[AsyncEngine]:
        values = {"database_url": database.url, "database_pool_size": 1} | values
        ours = Settings.model_validate(settings.model_dump() | values)
        async with make_engine(ours, database) as engine:
            metrics.watch(engine, ours)
            yield engine

    return watched


async def _pid(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        pid: int = await connection.scalar(text("SELECT pg_backend_pid()"))
        return pid


async def _end(database: Database, pid: int) -> None:
    async with connect(database.url) as direct:
        await direct.execute("SELECT pg_terminate_backend($1)", pid)
        await eventually_gone(direct, "pid = $1", pid)
    await asyncio.sleep(0.1)  # until this process has been told


async def test_a_recycled_connection_is_counted_as_one(watched: Watched) -> None:
    async with watched(database_pool_recycle=1) as engine:
        await _pid(engine)
        await asyncio.sleep(1.1)
        before = now()
        await _pid(engine)
        assert since(before)["closed_total recycled"] == 1


async def test_a_connection_that_the_server_closed_is_counted_as_one(
    watched: Watched, database: Database
) -> None:
    async with watched() as engine:
        await _end(database, await _pid(engine))
        before = now()
        await _pid(engine)
        after = since(before)
    assert after["closed_total server_closed"] == 1
    assert (after["count idle"], after["count used"]) == (0, 0)


async def test_a_failure_is_counted_as_one(watched: Watched, database: Database) -> None:
    before = now()
    async with watched() as engine:
        with pytest.raises(DBAPIError):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        after = since(before)
    assert after["closed_total failure"] == 1
    assert (after["count idle"], after["count used"]) == (0, 0)


async def test_overflow_is_counted_as_surplus(watched: Watched) -> None:
    before = now()
    async with watched(database_max_overflow=1) as engine:
        async with engine.connect(), engine.connect():
            assert since(before)["count used"] == 2
        after = since(before)
    assert after["closed_total surplus"] == 1
    assert (after["count idle"], after["count used"]) == (1, 0)


async def test_a_connection_that_leaves_the_pool_is_not_in_use(watched: Watched) -> None:
    """As one does that nobody gave back, when the garbage collector finds it."""
    before = now()
    async with watched() as engine, engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        assert since(before)["count used"] == 1
        connection.sync_connection.detach()  # type: ignore[union-attr]
        after = since(before)
    assert (after["count idle"], after["count used"]) == (0, 0)


@pytest.mark.parametrize(
    "sql", ["SELECT pg_sleep(1)", "SELECT pg_terminate_backend(pg_backend_pid())"]
)
async def test_a_failure_of_one_connection_is_none_of_the_others(
    watched: Watched, sql: str
) -> None:
    few = {"database_pool_size": 2, "database_pool_recycle": 1, "database_command_timeout": 0.3}
    async with watched(**few) as engine:
        async with engine.connect() as one, engine.connect() as other:
            await other.execute(text("SELECT 1"))
            with pytest.raises(DBAPIError):
                await one.execute(text(sql))
        await asyncio.sleep(1.1)
        before = now()
        async with engine.connect(), engine.connect():
            pass
        assert since(before)["closed_total recycled"] == 1


async def test_a_pool_that_keeps_none_is_counted_too(watched: Watched) -> None:
    before = now()
    async with watched(database_pool="null") as engine, engine.connect():
        assert since(before)["count used"] == 1
    after = since(before)
    assert (after["count idle"], after["count used"]) == (0, 0)
    assert after["closed_total surplus"] == 1


async def _statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT pg_sleep(0.6)"))


async def _ignore(data: bytes) -> None: ...


async def _copy(session: AsyncSession) -> None:
    async with session.begin_nested():
        raw = await (await session.connection()).get_raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        await driver.copy_from_query("SELECT pg_sleep(0.6)", output=_ignore)


async def _stream(session: AsyncSession) -> None:
    numbers = text("SELECT generate_series(1, 1000)").execution_options(yield_per=10)
    async for number in await session.stream(numbers):
        if number[0] % 10 == 0:
            await asyncio.sleep(0.006)


@pytest.mark.parametrize("work", [_statement, _copy, _stream])
async def test_work_that_takes_long_is_no_idle_connection(
    work: Callable[[AsyncSession], Awaitable[None]],
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "HELD_TOO_LONG", 0.2)
    with capture_logs() as logs:
        async with watched() as engine, Sessions(engine).begin() as session:
            await work(session)
    assert logs == []
