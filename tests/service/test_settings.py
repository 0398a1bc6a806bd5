"""What a variable does not say: whom a failure costs a connection, and what is left of it."""

import asyncio
import inspect
import re
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import AsyncMock

import asyncpg
import pytest
from asyncpg import connect_utils
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from orders_api.database.connection import Connection

import devstack
from tests.pooler.proxy import counted
from tests.pooler.test_settings import Configured, backend, configuring
from tests.support import Database, connect


@pytest.fixture
def configured(database: Database, monkeypatch: pytest.MonkeyPatch) -> Configured:
    return configuring(database, monkeypatch)


async def test_who_waits_for_a_connection_keeps_their_place(configured: Configured) -> None:
    """SQLAlchemy's queue gives what comes back to whoever asks next, and sends who waited to its end."""
    order: list[str] = []
    asking: list[asyncio.Task[None]] = []
    async with configured(DATABASE_POOL_SIZE=1) as engine:

        async def ask(name: str) -> None:
            async with engine.connect():
                order.append(name)

        def come(name: str) -> None:
            asking.append(asyncio.create_task(ask(name)))

        async with engine.connect():
            for name in "abc":
                come(name)
            await asyncio.sleep(0.1)
            event.listen(engine.sync_engine, "checkin", lambda *_: come("late"), once=True)
        while asking:
            await asking.pop()
    assert order == ["a", "b", "c", "late"]


async def _backends(engine: AsyncEngine, number: int) -> set[int]:
    """The server's processes behind so many connections, which go back to the pool."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(engine.connect()) for _ in range(number)]
        return {await backend(connection) for connection in connections}


async def test_a_statement_that_timed_out_costs_one_connection(
    database: Database, configured: Configured
) -> None:
    """A pooler that is only busy would have to open all of them anew."""
    limits = {"DATABASE_COMMAND_TIMEOUT": 0.3, "DATABASE_POOL_SIZE": 4}
    async with configured(DATABASE_URL=database.url, **limits) as engine:
        before = await _backends(engine, 4)
        with pytest.raises(OperationalError, match="TimeoutError"):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(20)"))
        assert len(before & await _backends(engine, 4)) == 3


async def test_a_ping_may_fail_in_the_driver_itself(
    configured: Configured, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen of backends that were killed while many were cancelled: an error of no common class."""
    async with configured(DATABASE_URL=database.url, DATABASE_PING_AFTER_IDLE=0) as engine:
        async with engine.connect() as connection:
            first = await backend(connection)
        lost = AsyncMock(side_effect=asyncpg.InternalClientError("cannot switch to state 15"))
        monkeypatch.setattr(Connection, "ping", lost)
        async with engine.connect() as connection:
            assert await backend(connection) != first


async def test_a_ping_that_timed_out_costs_one_connection(
    database: Database, configured: Configured
) -> None:
    async with counted(database.url) as (proxy, url):
        limits = {"DATABASE_PING_AFTER_IDLE": 0, "DATABASE_POOL_SIZE": 4}
        async with configured(DATABASE_URL=url, **limits) as engine:
            before = await _backends(engine, 4)
            proxy.silent = True
            asyncio.get_running_loop().call_later(0.5, setattr, proxy, "silent", False)
            async with engine.connect() as connection:
                await backend(connection)
            assert len(before & await _backends(engine, 4)) == 3


async def test_a_refusal_of_a_busy_pooler_costs_one_connection(
    database: Database, configured: Configured
) -> None:
    """Which closes the connection, as Supavisor does too after 60 s."""
    with devstack.pgbouncer(database.url, default_pool_size=1, query_wait_timeout=1) as busy:
        async with (
            counted(f"{busy}?sslmode=disable") as (proxy, url),
            configured(DATABASE_URL=url, DATABASE_POOL_SIZE=4) as engine,
        ):
            async with AsyncExitStack() as all_four:
                for _ in range(4):
                    await all_four.enter_async_context(engine.connect())
            async with connect(busy) as other, other.transaction():
                await other.execute("SELECT 1")
                with pytest.raises(DBAPIError, match="query_wait_timeout"):
                    async with engine.connect() as connection:
                        await backend(connection)
            for _ in range(8):
                async with engine.connect() as connection:
                    await backend(connection)
            assert proxy.connections == 5


async def test_a_timeout_in_the_login_does_not_hold(database: Database) -> None:
    """PgBouncer refuses the parameter; Supavisor takes it and forgets it."""
    try:
        async with connect(
            database.pooler_url, server_settings={"statement_timeout": "321"}
        ) as one:
            assert await one.fetchval("SHOW statement_timeout") != "321ms"
    except asyncpg.ProtocolViolationError as error:
        assert "unsupported startup parameter" in str(error)


async def test_a_transaction_whose_begin_timed_out_swallows_no_later_one(
    database: Database, configured: Configured, things: str
) -> None:
    """asyncpg believes it is still in that transaction: what came later on the same connection was
    a savepoint in it, answered with success and never committed."""
    insert = text(f"INSERT INTO {things} (name, amount) VALUES ('a', 1)")
    limits = {"DATABASE_COMMAND_TIMEOUT": 0.3, "DATABASE_POOL_SIZE": 1}
    async with (
        counted(database.pooler_url) as (proxy, url),
        configured(DATABASE_URL=url, **limits) as engine,
    ):
        async with engine.begin() as connection:
            await connection.execute(insert)
        proxy.passing.clear()  # as if the pooler had no backend for it now
        asyncio.get_running_loop().call_later(0.5, proxy.passing.set)
        with pytest.raises(OperationalError, match="TimeoutError"):
            async with engine.begin() as connection:
                await connection.execute(insert)
        for _ in range(3):
            async with engine.begin() as connection:
                await connection.execute(insert)
    async with connect(database.url) as direct:
        assert await direct.fetchval(f"SELECT count(*) FROM {things}") == 4


async def test_what_is_meant_for_other_clients_changes_nothing(
    database: Database,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    servers_are_ours: None,
) -> None:
    """asyncpg takes from PG* variables, and from files in the home, what it is not told."""
    variables = set(
        re.findall(r"(?:getenv|environ.get)\(\s*.(PG\w+)", inspect.getsource(connect_utils))
    )
    assert variables >= {"PGSSLMODE", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS", "PGPASSWORD"}
    for name in variables:
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").mkdir()
    for file in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (tmp_path / ".postgresql" / file).write_text("nonsense")
    url = make_url(database.url)
    for query in ({}, {"sslmode": "disable"}, {"sslmode": "allow"}):
        text = url.set(query=query).render_as_string(hide_password=False)
        async with configured(DATABASE_URL=text) as engine, engine.connect() as connection:
            assert await backend(connection)
    # The right password, where a psql would find it.
    monkeypatch.setenv("PGPASSWORD", url.password or "")
    (tmp_path / ".pgpass").touch(mode=0o600)
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{url.password}\n")
    async with configured(
        DATABASE_URL=f"postgresql://{url.username}@{url.host}:{url.port}"
    ) as engine:
        with pytest.raises(DBAPIError, match="password authentication failed"):
            await engine.connect()
