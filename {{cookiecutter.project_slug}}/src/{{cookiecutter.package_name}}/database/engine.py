"""The engine: one pool of connections for one process, correct behind any pooler.

A transaction-mode pooler may run each transaction of a client, and in AUTOCOMMIT each statement, on
another server connection ("backend"), and a prepared statement lives on one. So both caches of them are
off. asyncpg (0.31 and newer) then prepares without a name, and parses again in the message that runs, so
that nothing depends on the backend or stays behind on it. SQLAlchemy's would keep a statement's
description meanwhile: `database/dialect.py` says what that does, and what may be kept nevertheless.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolResetState
from sqlalchemy.util import await_only

from {{ cookiecutter.package_name }}.database.connect import Connector
from {{ cookiecutter.package_name }}.database.connection import (
    Connection,
    MigrationsConnection,
)
from {{ cookiecutter.package_name }}.database.dialect import DRIVER
from {{ cookiecutter.package_name }}.database.failures import all_broke
from {{ cookiecutter.package_name }}.database.pool import Pool
from {{ cookiecutter.package_name }}.database.report import hide_values
from {{ cookiecutter.package_name }}.settings import Settings

# The SQLSTATE of a server that only reads: the primary of before a failover, for instance.
_READ_ONLY = "25006"


def create_engine(settings: Settings, *, migrations: bool = False) -> AsyncEngine:
    """Make the engine. It connects when it is first used; the caller disposes of it. With `migrations` it
    is for `DATABASE_MIGRATION_URL`, keeps no connection and lets statements take as long as they need."""
    target = settings.database_url
    if migrations:
        target = settings.database_migration_url or target
    connect_args = {
        "async_creator_fn": Connector(),
        "connection_class": MigrationsConnection if migrations else Connection,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "timeout": settings.database_connect_timeout,
        "command_timeout": None if migrations else settings.database_command_timeout,
        **target.connect_args,
        # PgBouncer's and PostgreSQL's lists of clients have the name, and Supavisor's metrics.
        "server_settings": {
            "application_name": "{{ cookiecutter.project_slug }}",
            **target.connect_args["server_settings"],
        },
    }
    pool: dict[str, Any] = {"poolclass": NullPool}
    if not migrations and settings.database_pool == "queue":
        pool = {
            "poolclass": Pool,
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_max_overflow,
            "pool_timeout": settings.database_pool_timeout,
            "pool_recycle": settings.database_pool_recycle,
            "pool_pre_ping": True,  # as database/dialect.py does it
        }
    # hide_parameters: the text of an error ends in logs, and parameters are people's data.
    engine = create_async_engine(
        target.url.set(drivername=DRIVER), connect_args=connect_args, hide_parameters=True, **pool
    )
    engine.dialect.ping_after_idle = settings.database_ping_after_idle  # type: ignore[attr-defined]
    if not migrations:  # whose statements have no value of a request
        event.listen(engine.sync_engine, "handle_error", _hide_values)
    event.listen(engine.sync_engine, "handle_error", _replace_what_is_lost)
    event.listen(engine.sync_engine, "reset", _free_the_backend)
    return engine


@asynccontextmanager
async def open_engine(
    settings: Settings, *, migrations: bool = False
) -> AsyncIterator[AsyncEngine]:
    """Make the engine, and dispose of it. Its connections can't be used in another event loop."""
    engine = create_engine(settings, migrations=migrations)
    try:
        yield engine
    finally:
        await engine.dispose()


def log_engine(settings: Settings) -> None:
    """Say once, without secrets, what this process connects with."""
    target = settings.database_url
    knobs = ("pool", "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "ping_after_idle")
    structlog.get_logger().info(
        "database engine",
        url=str(target),
        ignored_url_parameters=target.ignored,
        tls=target.tls,
        **{name: getattr(settings, f"database_{name}") for name in knobs},
    )


def _hide_values(context: ExceptionContext) -> None:
    if context.connection is not None:  # a login that is refused tells what is wrong
        hide_values(context.sqlalchemy_exception or context.original_exception)


def _replace_what_is_lost(context: ExceptionContext) -> None:
    """Throw away a connection that can't be used any more, and no more than that.

    asyncpg leaves a reset or a timeout as a bare `OSError`. Here it becomes an `OperationalError`, so that
    every failure of the database is a `SQLAlchemyError`.
    """
    error = context.original_exception
    lost = isinstance(error, OSError)
    # After a timeout too: if it was BEGIN that timed out, asyncpg believes in a transaction that
    # SQLAlchemy has forgotten, and every later one would be a savepoint in it, never committed.
    if lost or getattr(error, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True
    elif context.connection is not None and not context.connection.closed:
        context.connection.connection.driver_connection.failed = True  # type: ignore[union-attr]
    context.invalidate_pool_on_disconnect = all_broke(error)
    if lost:
        raise OperationalError(context.statement, None, error) from error


def _free_the_backend(
    connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
) -> None:
    """Let a connection that comes back hold no backend, and have no trace of who had it.

    When asyncpg refuses an argument (2**40 for an int4 column), it has sent Parse and Describe, but no
    Sync, and the pooler keeps a backend for this connection until its next statement. In a transaction
    that is the ROLLBACK; in AUTOCOMMIT, a simple query here.
    """
    driver: Connection = connection.driver_connection
    if state.asyncio_safe:
        if driver.failed and connection.autocommit:
            await_only(driver.ping())
        connection.rollback()
    connection.autocommit = False
    driver.returned()
