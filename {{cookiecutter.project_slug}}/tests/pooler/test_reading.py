"""ReadSessionDep: no transaction, no write, and no backend that it keeps."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import Executable

from {{ cookiecutter.package_name }}.database.session import ReadOnlyError, read_session_maker
from {{ cookiecutter.package_name }}.settings import Settings

import devstack
from tests.pooler.workload import Thing
from tests.support import Database, connect, eventually_gone, make_engine


@pytest.fixture
async def one_backend(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[AsyncEngine, str]]:
    """The service's engine behind a pooler that has one backend, and that pooler's URL."""
    monkeypatch.setenv("ONE_BACKEND", database.url)
    # 5 s: the default of 120 is how long a client would wait for a backend that is pinned.
    limits = ("--set", "default_pool_size=1", "--set", "query_wait_timeout=5")
    arguments = ("--pooler-for", "ONE_BACKEND", *limits)
    with devstack.running(*arguments) as stack:
        one = Settings.model_validate(settings.model_dump() | {"database_url": stack.pooler_url})
        async with make_engine(one, database) as engine:
            yield engine, stack.pooler_url


async def test_a_refused_argument_leaves_no_backend_pinned(
    one_backend: tuple[AsyncEngine, str],
) -> None:
    """asyncpg refuses it after Parse and before Sync, and the pooler waits for the rest."""
    engine, pooler_url = one_backend
    sessions = read_session_maker(engine)

    async def refused() -> None:
        async with sessions() as session:
            with pytest.raises(DBAPIError, match="value out of int32 range"):
                await session.execute(text("SELECT CAST(:number AS int4)"), {"number": 2**40})

    for _ in range(3):
        await refused()
    started = time.monotonic()
    async with asyncio.timeout(5), connect(pooler_url) as other:
        assert await other.fetchval("SELECT 1") == 1
    assert time.monotonic() - started < 1


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
