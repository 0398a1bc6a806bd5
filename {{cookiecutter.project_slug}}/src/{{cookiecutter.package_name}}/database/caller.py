"""Transactions in which PostgreSQL knows who is asking, for row-level security.

Role and claims go out with BEGIN, in the same round trip, and end with the transaction: as settings of
a session (`false` instead of `true`) they would stay on the pooler's server connection, for whoever
comes next.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session, SessionTransaction

from {{ cookiecutter.package_name }}.database.connection import Connection, TransactionError
from {{ cookiecutter.package_name }}.database.engine import open_engine
from {{ cookiecutter.package_name }}.database.session import (
    GuardedSession,
    Transaction,
    make_sessions,
)
from {{ cookiecutter.package_name }}.settings import Settings

# Who is asking, in SQL: NULL if it is nobody. '' is what a setting is on a server connection that has
# had it once.
CALLER_ID = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"

# The SQLSTATEs of a role that there is not, and of one that the login may not take.
_CANT_TAKE = ("22023", "42501")

_ABOVE_POLICIES = text(
    "SELECT rolname || CASE WHEN rolsuper THEN ' is a superuser' ELSE ' has BYPASSRLS' END"
    " FROM pg_roles WHERE rolname IN (current_user, 'authenticated') AND (rolsuper OR rolbypassrls)"
)
_TAKE = text("SELECT set_config('role', 'authenticated', true)")


class RoleError(asyncpg.InterfaceError):
    """The login can't take the caller's role: the service is not set up, whoever asks."""

    sqlstate = "0P000"  # not the server's, which would be the client's fault


@dataclass(frozen=True)
class Caller:
    """Whom a transaction's statements run for. Raises a `ValueError` for what PostgreSQL can't be told."""

    id: UUID
    role: str
    claims: Mapping[str, object] = field(repr=False)
    """What policies may ask about. PostgreSQL's log has them, if it logs statements."""
    sql: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        json.dumps(self.claims, ensure_ascii=False).encode()  # refuses half a surrogate pair
        claims = json.dumps(self.claims, allow_nan=False)
        if r"\u0000" in claims.replace(r"\\", ""):
            raise ValueError("jsonb can't hold the character NUL")
        if self.role == "none":
            raise ValueError("none is the login itself")
        sql = (
            f"SELECT set_config('role', {_literal(self.role)}, true), "
            f"set_config('request.jwt.claims', {_literal(claims)}, true)"
        )
        object.__setattr__(self, "sql", sql)


def _literal(text: str) -> str:
    # E'': the same, whether standard_conforming_strings is on or off.
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class CallerConnection(Connection):
    caller: Caller | None = None
    """Whom the next transaction is for. Nobody in particular: it is the service's own."""

    def returned(self) -> None:
        self.caller = None
        super().returned()

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if self.caller is None or not query.startswith("BEGIN"):
            return await super().execute(query, *args, **options)
        try:
            return await super().execute(f"{query} {self.caller.sql}", **options)
        except asyncpg.PostgresError as error:
            # It may have begun, for nobody. asyncpg would take it for begun and SQLAlchemy for not, so
            # that a later COMMIT is not even sent.
            self.terminate()
            if error.sqlstate in _CANT_TAKE:
                raise RoleError(
                    f"the login of DATABASE_URL can't act for callers: {error}. "
                    f"GRANT {self.caller.role} to it; docs/auth.md has the roles"
                ) from error
            raise


class _CallerSession(GuardedSession):
    def __init__(self, *args: Any, caller: Caller, **options: Any) -> None:
        super().__init__(*args, **options)
        self.caller = caller


class UserSession(Transaction):
    """A transaction in which PostgreSQL knows the caller: one only, never AUTOCOMMIT."""

    sync_session_class = _CallerSession


@event.listens_for(_CallerSession, "after_begin")
def _tell(session: Session, transaction: SessionTransaction, connection: SQLConnection) -> None:
    lent: Any = connection.connection
    # Not isinstance(), which asyncpg answers with True for every connection of its own.
    ours = issubclass(type(lent.driver_connection), CallerConnection)
    if lent.dbapi_connection.autocommit or not ours:
        # Its statements would run as the login, who may see everything. The next ones too, if a route
        # catches this error.
        connection.invalidate()
        raise TransactionError(
            "a caller's statements need a transaction, on an engine that UserSessions has"
        )
    assert isinstance(session, _CallerSession)
    lent.driver_connection.caller = session.caller


class UserSessions:
    """Makes sessions of callers: `async with sessions.begin(caller) as session:` is one transaction, as
    with `Sessions`. An engine's first has to be made before the engine connects."""

    def __init__(self, engine: AsyncEngine) -> None:
        event.listen(engine.sync_engine, "do_connect", _with_callers)
        self._make = make_sessions(engine, UserSession)

    def begin(self, caller: Caller) -> AbstractAsyncContextManager[UserSession]:
        return self._make(caller=caller)


def _with_callers(dialect: object, entry: object, arguments: object, options: Any) -> None:
    options["connection_class"] = CallerConnection


async def find_fault(connection: AsyncConnection) -> str | None:
    """Why the login is not fit to act for callers. None: it is."""
    try:
        if above := await connection.scalar(_ABOVE_POLICIES):
            return f"{above}: row-level security does not hold for it"
        await connection.execute(_TAKE)
    except DBAPIError as error:
        cause: Any = error.driver_exception
        if cause.sqlstate not in _CANT_TAKE:
            raise
        return f"{cause.message}: GRANT authenticated to the login"
    finally:
        await connection.rollback()
    return None


async def warn_of_login(settings: Settings) -> None:
    """Say so if the login is not fit to act for callers: whoever forgets the caller sees everything."""
    with suppress(SQLAlchemyError):  # which database/login.py tells of
        async with open_engine(settings) as engine, engine.connect() as connection:
            if fault := await find_fault(connection):
                structlog.get_logger().warning(
                    "the login of DATABASE_URL is not fit to act for callers", reason=fault
                )
