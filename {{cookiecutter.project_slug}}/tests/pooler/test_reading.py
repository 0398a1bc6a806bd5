"""ReadSessionDep: no transaction, no write, and no backend that it keeps."""

import asyncio
import time

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import Executable

from {{ cookiecutter.package_name }}.database.session import (
    ReadOnlyError,
    read_session_maker,
    session_maker,
)
from {{ cookiecutter.package_name }}.settings import Settings

from tests.pooler.workload import Thing
from tests.support import Database, connect, eventually_gone, make_engine


async def test_a_refused_argument_leaves_no_backend_pinned(
    settings: Settings, database: Database, one_backend: str
) -> None:
    """asyncpg refuses it after Parse and before Sync, and the pooler waits for the rest."""
    one = Settings.model_validate(settings.model_dump() | {"database_url": one_backend})
    async with make_engine(one, database) as engine:
        for _ in range(3):
            async with read_session_maker(engine)() as session:
                with pytest.raises(DBAPIError, match="value out of int32 range"):
                    await session.execute(text("SELECT CAST(:n AS int4)"), {"n": 2**40})
        started = time.monotonic()
        async with asyncio.timeout(5), connect(one_backend) as other:
            assert await other.fetchval("SELECT 1") == 1
        assert time.monotonic() - started < 1


async def test_a_write_after_a_read_has_its_transaction(
    settings: Settings, database: Database, things: str
) -> None:
    """On the same connection, which was in AUTOCOMMIT a moment ago."""
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine:
        read, write = read_session_maker(engine), session_maker(engine)
        count = select(func.count()).select_from(Thing)
        async with read() as session:
            assert await session.scalar(count) == 0
        with pytest.raises(ZeroDivisionError):
            async with write.begin() as session:
                await session.execute(insert(Thing).values(name="a", amount=1))
                raise ZeroDivisionError
        async with read() as session:
            assert await session.scalar(count) == 0


@pytest.mark.parametrize(
    "statement",
    [insert(Thing).values(name="a", amount=1), update(Thing).values(amount=1), delete(Thing)],
    ids=["insert", "update", "delete"],
)
async def test_a_write_is_refused(engine: AsyncEngine, things: str, statement: Executable) -> None:
    async with read_session_maker(engine)() as session:
        with pytest.raises(ReadOnlyError, match="ask for a SessionDep"):
            await session.execute(statement)
        session.add(Thing(name="a", amount=1))
        with pytest.raises(ReadOnlyError, match="ask for a SessionDep"):
            await session.scalar(select(func.count()).select_from(Thing))


async def test_every_statement_is_a_transaction_of_its_own(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    query = select(func.count()).select_from(Thing)
    async with read_session_maker(engine)() as session, connect(database.url) as writer:
        assert await session.scalar(query) == 0
        await writer.execute(f"INSERT INTO {things} (name, amount) VALUES ('a', 1)")
        assert await session.scalar(query) == 1
        await eventually_gone(
            writer, "datname = current_database() AND state LIKE 'idle in transaction%'"
        )
