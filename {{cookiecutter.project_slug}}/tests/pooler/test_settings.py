"""Every DATABASE_ variable, by what it does. Each test fails if the variable is ignored."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from {{ cookiecutter.package_name }}.settings import load_settings

from tests.pooler.proxy import counted
from tests.support import Database, connect, eventually_gone, make_engine

Configured = Callable[..., AbstractAsyncContextManager[AsyncEngine]]


def configuring(database: Database, patch: pytest.MonkeyPatch) -> Configured:
    """The engine that the service makes in an environment with these variables."""

    @asynccontextmanager
    async def configured(**variables: object) -> AsyncIterator[AsyncEngine]:
        patch.setenv("DATABASE_URL", database.pooler_url)
        for name, value in variables.items():
            patch.setenv(name, str(value))
        async with make_engine(load_settings(), database) as engine:
            yield engine

    return configured


@pytest.fixture
def configured(database: Database, monkeypatch: pytest.MonkeyPatch) -> Configured:
    return configuring(database, monkeypatch)


async def backend(connection: AsyncConnection) -> int:
    pid: int = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
    return pid


async def test_pool_size_and_pool_timeout(configured: Configured) -> None:
    limits = {"DATABASE_POOL_SIZE": 2, "DATABASE_POOL_TIMEOUT": 0.3}
    async with configured(**limits) as engine, engine.connect(), engine.connect():
        started = time.monotonic()
        with pytest.raises(PoolTimeoutError, match="size 2 overflow 0"):
            async with engine.connect():
                pass
        assert 0.3 <= time.monotonic() - started < 5  # the default


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
            first = await backend(connection)
        async with connect(database.url) as direct:
            await eventually_gone(direct, "pid = $1", first)


async def test_pool_recycle(database: Database, configured: Configured) -> None:
    async with configured(DATABASE_POOL_RECYCLE=1, DATABASE_URL=database.url) as engine:
        async with engine.connect() as connection:
            first = await backend(connection)
        await asyncio.sleep(1.1)
        async with engine.connect() as connection:
            assert await backend(connection) != first


async def _lost(database: Database, configured: Configured, **variables: object) -> float:
    """Use a connection that was forgotten on the way while it lay idle: seconds, or an error."""
    async with counted(database.url) as (proxy, url):
        variables = {"DATABASE_URL": url, "DATABASE_COMMAND_TIMEOUT": 1.5} | variables
        async with configured(**variables) as engine:
            async with engine.connect() as connection:
                await backend(connection)
            proxy.silent = True
            asyncio.get_running_loop().call_later(0.5, setattr, proxy, "silent", False)
            started = time.monotonic()
            async with engine.connect() as connection:
                await backend(connection)
            return time.monotonic() - started


async def test_an_idle_connection_is_pinged_and_replaced(
    database: Database, configured: Configured
) -> None:
    assert await _lost(database, configured, DATABASE_PING_AFTER_IDLE=0) >= 1


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
            first = await backend(connection)
        async with connect(database.url) as direct:
            await direct.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
        async with engine.connect() as connection:
            assert await backend(connection) != first


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
        assert 0.3 <= time.monotonic() - started < 5  # the default


async def test_command_timeout(configured: Configured) -> None:
    """The pool is clean afterwards: the statement was cancelled and the connection still works."""
    async with configured(DATABASE_COMMAND_TIMEOUT=0.3, DATABASE_POOL_SIZE=1) as engine:
        started = time.monotonic()
        with pytest.raises(OperationalError, match="TimeoutError"):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(20)"))
        assert 0.3 <= time.monotonic() - started < 15  # the default
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


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
