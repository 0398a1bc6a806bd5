"""Repeated queries, on every backend that a transaction-mode pooler may choose."""

import pytest
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.settings import Settings

from tests.pooler.backends import occupied, several
from tests.pooler.workload import ScratchThing, work
from tests.support import Database, make_engine

BACKEND = select(func.pg_backend_pid(), func.count(ScratchThing.id)).where(ScratchThing.amount > 0)


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
async def test_a_query_repeated_on_one_connection(
    engine: AsyncEngine, database: Database, things: str, moving: None, isolation_level: str
) -> None:
    """Guards against 'prepared statement "__asyncpg_stmt_1__" does not exist'."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=isolation_level)
        for _ in range(4):
            before, _count = (await connection.execute(BACKEND)).one()
            await connection.commit()
            async with occupied(database.pooler_url, before):
                after, _count = (await connection.execute(BACKEND)).one()
                await connection.commit()
            assert after != before


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
async def test_executemany_repeated_on_one_connection(
    engine: AsyncEngine, database: Database, things: str, moving: None, isolation_level: str
) -> None:
    """executemany uses asyncpg's own cache, which SQLAlchemy's setting does not reach."""
    rows = [{"name": "a", "amount": amount} for amount in range(3)]
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=isolation_level)
        for turn in range(1, 4):
            await connection.execute(insert(ScratchThing), rows)
            pid = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
            await connection.commit()
            async with occupied(database.pooler_url, pid):
                await connection.execute(insert(ScratchThing), rows)
                await connection.commit()
            count = await connection.scalar(select(func.count()).select_from(ScratchThing))
            await connection.commit()
            assert count == turn * 6


async def test_streaming_repeated_on_one_connection(
    engine: AsyncEngine, database: Database, things: str, moving: None
) -> None:
    """A server-side cursor lives inside its transaction, and so on one backend."""
    async with engine.connect() as connection:
        await connection.execute(
            insert(ScratchThing), [{"name": "a", "amount": n} for n in range(500)]
        )
        await connection.commit()
        for _ in range(2):
            pid = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
            await connection.commit()
            async with occupied(database.pooler_url, pid):
                query = select(ScratchThing.amount).order_by(ScratchThing.amount)
                streamed = await connection.stream(query.execution_options(yield_per=50))
                assert [row.amount async for row in streamed] == list(range(500))
                await connection.commit()


async def test_many_sessions_at_once(engine: AsyncEngine, things: str) -> None:
    """ORM, Core, executemany, streaming and AUTOCOMMIT, more clients than the pooler has backends."""
    await work(engine, "one")


async def test_a_new_connection_for_every_checkout(
    settings: Settings, database: Database, things: str
) -> None:
    """DATABASE_POOL=null. The pooler's backends have served others, who left nothing behind."""
    null = settings.model_copy(update={"database_pool": "null"})
    async with make_engine(null, database) as engine:
        await work(engine, "null", clients=10, rounds=2)


async def test_a_ping_before_every_checkout(
    settings: Settings, database: Database, things: str
) -> None:
    """A ping that fails through a pooler would replace every connection at every checkout."""
    opened: list[object] = []
    pinging = settings.model_copy(update={"database_ping_after_idle": 0})
    async with make_engine(pinging, database) as engine:
        event.listen(engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
        await work(engine, "ping", rounds=3)
    assert 10 <= len(opened) < 20  # a busy machine may answer one late


async def test_no_statement_stays_behind(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    """A unique name for every statement works too, until the backends' memory is full of them."""
    await work(engine, "one", rounds=3)
    ours = "SELECT name FROM pg_prepared_statements WHERE position($1 IN statement) > 0"
    async with several(database.pooler_url) as connections:
        for connection in connections:
            assert await connection.fetch(ours, things) == []


async def test_set_local_ends_with_the_transaction(engine: AsyncEngine, database: Database) -> None:
    """The way to set a timeout: a pooler resets nothing between clients, so SET would leak."""
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL statement_timeout = '12345ms'"))
        assert await connection.scalar(text("SHOW statement_timeout")) == "12345ms"
    async with several(database.pooler_url) as connections:
        for other in connections:
            assert await other.fetchval("SHOW statement_timeout") != "12345ms"
