"""The engine: one pool of connections for one process, correct behind any pooler.

A transaction-mode pooler may run each transaction of a client, and in AUTOCOMMIT each statement,
on another server connection ("backend"), and a prepared statement lives on one. So both caches of
prepared statements are off:

- Without its own, asyncpg (0.31 and newer) prepares a statement without a name, and parses it again in
  the message that runs it. Nothing depends on the backend, and nothing is left behind on it.
- With SQLAlchemy's, the client keeps a statement's description while the server parses anew. After a
  column went from int8 to float8, SELECT returned 4631248529308778496 for 43.0 and an UPDATE to 44
  stored 2.17e-322, without any error. What may be kept nevertheless is in `database/dialect.py`.
"""

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import structlog
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection, PoolResetState
from sqlalchemy.util import await_only

from {{ cookiecutter.package_name }}.database.connect import Connector
from {{ cookiecutter.package_name }}.database.connection import Connection
from {{ cookiecutter.package_name }}.database.dialect import DRIVER
from {{ cookiecutter.package_name }}.database.report import hide_values
from {{ cookiecutter.package_name }}.settings import Settings

# The SQLSTATE of a server that only reads: the primary of before a failover, for instance.
_READ_ONLY = "25006"

# Seconds. A ping is a part of the time that a request waits, so it gets much less than a statement;
# 1 is several round trips to another continent.
_ANSWER_TIMEOUT = 1


def create_engine(settings: Settings, *, migrations: bool = False) -> AsyncEngine:
    """Make the engine. It connects when it is first used; the caller disposes of it.

    `migrations`: connect to `DATABASE_MIGRATION_URL`, keep no connection and let statements take as
    long as they need.
    """
    target = settings.database_url
    if migrations and settings.database_migration_url is not None:
        target = settings.database_migration_url
    connect_args = {
        "async_creator_fn": Connector(),
        "connection_class": Connection,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "timeout": settings.database_connect_timeout,
        "command_timeout": None if migrations else settings.database_command_timeout,
        **target.connect_args,
    }
    pool: dict[str, Any]
    if migrations or settings.database_pool == "null":
        pool = {"poolclass": NullPool}
    else:
        pool = {
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_max_overflow,
            "pool_timeout": settings.database_pool_timeout,
            "pool_recycle": settings.database_pool_recycle,
        }
    # hide_parameters: the text of an error ends in logs, and parameters are people's data.
    engine = create_async_engine(
        target.url.set(drivername=DRIVER), connect_args=connect_args, hide_parameters=True, **pool
    )
    if not migrations:  # whose statements have no value of a request
        event.listen(engine.sync_engine, "handle_error", _hide_values)
    _replace_lost_connections(engine)
    _ping_after_idle(engine, settings.database_ping_after_idle)
    _free_backends(engine)
    return engine


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Make the engine, and dispose of it. Its connections can't be used in another event loop."""
    engine = create_engine(settings)
    try:
        yield engine
    finally:
        await engine.dispose()


def log_engine(engine: AsyncEngine, settings: Settings) -> None:
    """Say once, without secrets, what this process connects with."""
    target = settings.database_url
    pool = {
        name.removeprefix("database_"): value
        for name, value in settings.model_dump().items()
        if name.startswith(("database_pool", "database_max", "database_ping"))
    }
    structlog.get_logger().info(
        "database engine",
        url=str(target),
        ignored_url_parameters=target.ignored,
        tls=target.tls,
        **pool,
    )


def _hide_values(context: ExceptionContext) -> None:
    if context.connection is not None:  # a login that is refused tells what is wrong
        hide_values(context.sqlalchemy_exception or context.original_exception)


def _replace_lost_connections(engine: AsyncEngine) -> None:
    """Throw away what can't be used any more, and no more than that.

    asyncpg leaves a reset or a timeout as a bare `OSError`. Here it becomes an `OperationalError`, so that
    every failure of the database is a `SQLAlchemyError`.
    """

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        error = context.original_exception
        lost = isinstance(error, OSError)
        # After a timeout too: if it was BEGIN that timed out, asyncpg believes in a transaction that
        # SQLAlchemy has forgotten, and every later one would be a savepoint in it, never committed.
        if lost or getattr(error, "sqlstate", None) == _READ_ONLY:
            context.is_disconnect = True
        context.invalidate_pool_on_disconnect = _all_broke(error)
        if lost:
            raise OperationalError(context.statement, None, error) from error


def _all_broke(error: BaseException) -> bool:
    """Whether the other connections have to go, too: after a reset, as a rule. A timeout, or what a
    pooler says, is about one, and a busy pooler must not get all of them opened anew."""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)


def _ping_after_idle(engine: AsyncEngine, idle: float) -> None:
    """Ping a connection before use, if it lay in the pool for so many seconds.

    `pool_pre_ping` would add 4 round trips to every checkout; this is one, and only where a pooler, a
    firewall or a load balancer may have closed the connection meanwhile.
    """

    @event.listens_for(engine.sync_engine, "checkin")
    def checkin(connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info["idle_since"] = time.monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def checkout(
        connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        connection.driver_connection.idle = False
        if connection.driver_connection.is_closed():  # the server said so while it lay idle
            raise DisconnectionError
        idle_since = entry.info.get("idle_since")  # None: it was opened just now
        if idle_since is None or time.monotonic() - idle_since < idle:
            return
        try:
            await_only(_answer(connection))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Ended here, or the pool would try to say goodbye for 2 s.
            connection.driver_connection.terminate()
            raise (InvalidatePoolError if _all_broke(error) else DisconnectionError) from error


def _free_backends(engine: AsyncEngine) -> None:
    """Let a connection that comes back hold no backend, and have no trace of who had it.

    When asyncpg refuses an argument (2**40 for an int4 column), it has sent Parse and Describe, but no
    Sync, and the pooler keeps a backend for this connection until its next statement. In a transaction
    that is the ROLLBACK; in AUTOCOMMIT, a simple query here.
    """

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        if context.connection is not None and not context.is_disconnect:
            driver = context.connection.connection.dbapi_connection
            autocommit = getattr(driver, "isolation_level", None) == "autocommit"
            context.connection.info["failed"] = autocommit

    @event.listens_for(engine.sync_engine, "reset")
    def reset(
        connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        if entry.info.pop("failed", False) and state.asyncio_safe:
            await_only(_answer(connection))
        if state.asyncio_safe:
            connection.rollback()
        connection.autocommit = False
        connection.driver_connection.returned()


def _answer(connection: DBAPIConnection) -> Awaitable[object]:
    """One round trip, without a transaction or a prepared statement."""
    driver_connection: asyncpg.Connection = connection.driver_connection
    return driver_connection.execute("SELECT 1", timeout=_ANSWER_TIMEOUT)
