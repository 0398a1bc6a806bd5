"""Every DATABASE_ variable, by what it does. Each test fails if the variable is ignored."""

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import AsyncMock

import asyncpg
import pytest
from asyncpg import connect_utils
from sqlalchemy import event, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from {{ cookiecutter.package_name }}.database.connection import Connection
from {{ cookiecutter.package_name }}.settings import load_settings

import devstack
from tests.pooler.proxy import counted
from tests.support import Database, connect, eventually_gone, make_engine

Configured = Callable[..., AbstractAsyncContextManager[AsyncEngine]]


@pytest.fixture
def configured(database: Database, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """The engine that the service makes in an environment with these variables."""

    @asynccontextmanager
    async def configured(**variables: object) -> AsyncIterator[AsyncEngine]:
        monkeypatch.setenv("DATABASE_URL", database.pooler_url)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        async with make_engine(load_settings(), database) as engine:
            yield engine

    return configured


async def _backend(connection: AsyncConnection) -> int:
    pid: int = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
    return pid


async def test_pool_size_and_pool_timeout(configured: Configured) -> None:
    limits = {"DATABASE_POOL_SIZE": 2, "DATABASE_POOL_TIMEOUT": 0.3}
    async with configured(**limits) as engine, engine.connect(), engine.connect():
        started = time.monotonic()
        with pytest.raises(PoolTimeoutError, match="size 2 overflow 0"):
            async with engine.connect():
                pass
        assert 0.3 <= time.monotonic() - started < 2


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


async def test_connections_have_the_services_name(
    database: Database, configured: Configured
) -> None:
    """By which PgBouncer, PostgreSQL and Supavisor's metrics tell services apart."""
    async with configured(DATABASE_URL=database.url) as engine, engine.connect() as connection:
        name = await connection.scalar(text("SHOW application_name"))
    assert name == "{{ cookiecutter.project_slug }}"


async def test_max_overflow(configured: Configured) -> None:
    limits = {"DATABASE_POOL_SIZE": 1, "DATABASE_MAX_OVERFLOW": 1, "DATABASE_POOL_TIMEOUT": 0.1}
    async with configured(**limits) as engine, engine.connect(), engine.connect():
        with pytest.raises(PoolTimeoutError, match="size 1 overflow 1"):
            async with engine.connect():
                pass


async def test_the_defaults_of_the_pool(configured: Configured) -> None:
    async with configured() as engine:
        assert isinstance(engine.pool, AsyncAdaptedQueuePool)
        assert (engine.pool.size(), engine.pool.timeout()) == (10, 5)
        async with AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(engine.connect())
            assert engine.pool.overflow() == 0


async def test_a_null_pool_keeps_no_connection(database: Database, configured: Configured) -> None:
    async with configured(DATABASE_POOL="null", DATABASE_URL=database.url) as engine:
        async with engine.connect() as connection:
            first = await _backend(connection)
        async with connect(database.url) as direct:
            await eventually_gone(direct, "pid = $1", first)


async def test_pool_recycle(database: Database, configured: Configured) -> None:
    async with configured(DATABASE_POOL_RECYCLE=1, DATABASE_URL=database.url) as engine:
        async with engine.connect() as connection:
            first = await _backend(connection)
        await asyncio.sleep(1.1)
        async with engine.connect() as connection:
            assert await _backend(connection) != first


async def _lost(database: Database, configured: Configured, **variables: object) -> float:
    """Use a connection that was forgotten on the way while it lay idle: seconds, or an error."""
    async with counted(database.url) as (proxy, url):
        variables = {"DATABASE_URL": url, "DATABASE_COMMAND_TIMEOUT": 1.5} | variables
        async with configured(**variables) as engine:
            async with engine.connect() as connection:
                await _backend(connection)
            proxy.silent = True
            asyncio.get_running_loop().call_later(0.5, setattr, proxy, "silent", False)
            started = time.monotonic()
            async with engine.connect() as connection:
                await _backend(connection)
            return time.monotonic() - started


async def test_an_idle_connection_is_pinged_and_replaced(
    database: Database, configured: Configured
) -> None:
    assert 1 <= await _lost(database, configured, DATABASE_PING_AFTER_IDLE=0) < 3


async def test_a_connection_that_was_in_use_a_moment_ago_is_not_pinged(
    database: Database, configured: Configured
) -> None:
    with pytest.raises(OperationalError, match="TimeoutError"):
        await _lost(database, configured, DATABASE_PING_AFTER_IDLE=30, DATABASE_COMMAND_TIMEOUT=0.3)


async def test_a_connection_that_the_server_closed_is_replaced_without_a_ping(
    database: Database, configured: Configured
) -> None:
    async with configured(DATABASE_URL=database.url) as engine:
        async with engine.connect() as connection:
            first = await _backend(connection)
        async with connect(database.url) as direct:
            await direct.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
        async with engine.connect() as connection:
            assert await _backend(connection) != first


async def test_connect_timeout(configured: Configured) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    variables = {
        "DATABASE_CONNECT_TIMEOUT": 0.3,
        "DATABASE_URL": f"postgresql://user:secret@127.0.0.1:{port}/database",
    }
    async with silent, configured(**variables) as engine:
        started = time.monotonic()
        with pytest.raises(
            OperationalError, match=f"can't connect to 127.0.0.1:{port}: no answer within 0.3 s"
        ):
            async with engine.connect():
                pass
        assert 0.3 <= time.monotonic() - started < 2


async def test_command_timeout(configured: Configured) -> None:
    """The pool is clean afterwards: the statement was cancelled and the connection still works."""
    async with configured(DATABASE_COMMAND_TIMEOUT=0.3, DATABASE_POOL_SIZE=1) as engine:
        started = time.monotonic()
        with pytest.raises(OperationalError, match="TimeoutError"):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(20)"))
        assert 0.3 <= time.monotonic() - started < 5
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


async def _backends(engine: AsyncEngine, number: int) -> set[int]:
    """The server's processes behind so many connections, which go back to the pool."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(engine.connect()) for _ in range(number)]
        return {await _backend(connection) for connection in connections}


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
            first = await _backend(connection)
        lost = AsyncMock(side_effect=asyncpg.InternalClientError("cannot switch to state 15"))
        monkeypatch.setattr(Connection, "ping", lost)
        async with engine.connect() as connection:
            assert await _backend(connection) != first


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
                await _backend(connection)
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
                        await _backend(connection)
            for _ in range(8):
                async with engine.connect() as connection:
                    await _backend(connection)
            assert proxy.connections == 5


async def test_a_timeout_of_the_role_holds_through_the_pooler(
    database: Database, configured: Configured, one_backend: str, servers_are_ours: None
) -> None:
    """The server's own timeout for every statement, where one is wanted."""
    role = "ALTER ROLE current_user IN DATABASE {} {} statement_timeout"
    async with connect(database.url) as direct:
        name = await direct.fetchval("SELECT current_database()")
        await direct.execute(role.format(name, "SET") + " = '321ms'")
        try:
            async with configured(DATABASE_URL=one_backend) as engine, engine.connect() as one:
                assert await one.scalar(text("SHOW statement_timeout")) == "321ms"
                with pytest.raises(
                    DBAPIError, match="canceling statement due to statement timeout"
                ):
                    await one.execute(text("SELECT pg_sleep(5)"))
        finally:
            await direct.execute(role.format(name, "RESET"))


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
            assert await _backend(connection)
    # The right password, where a psql would find it.
    monkeypatch.setenv("PGPASSWORD", url.password or "")
    (tmp_path / ".pgpass").touch(mode=0o600)
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{url.password}\n")
    async with configured(
        DATABASE_URL=f"postgresql://{url.username}@{url.host}:{url.port}"
    ) as engine:
        with pytest.raises(DBAPIError, match="password authentication failed"):
            await engine.connect()
