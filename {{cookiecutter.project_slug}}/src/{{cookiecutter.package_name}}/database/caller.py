"""Transactions in which PostgreSQL knows who is asking, for row-level security.

Role and claims go out with BEGIN, in the same round trip, and end with the transaction: as settings of
a session (`false` instead of `true`) they would stay on the pooler's server connection, for whoever
comes next.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.connection import (
    Connection,
    TransactionError,
)
from {{ cookiecutter.package_name }}.database.engine import open_engine
from {{ cookiecutter.package_name }}.database.session import Transaction
from {{ cookiecutter.package_name }}.settings import Settings

# Who is asking, in SQL: NULL if it is nobody. '' is what a setting is on a server connection that has
# had it once.
CALLER_ID = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"

log = structlog.get_logger()

# The SQLSTATEs of a role that there is not, and of one that the login may not take.
_CANT_TAKE = ("22023", "42501")

# What is wrong with the login, if anything is.
FAULT = """
    SELECT rolname || CASE WHEN rolsuper THEN ' is a superuser' WHEN rolbypassrls THEN ' has BYPASSRLS'
        ELSE ' is not granted authenticated' END
    FROM pg_roles WHERE rolname IN (current_user, 'authenticated') AND (rolsuper OR rolbypassrls)
        OR rolname = current_user AND pg_has_role(rolname, to_regrole('authenticated')::oid, CASE
            WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
        IS NOT TRUE
"""


class RoleError(asyncpg.InterfaceError):
    """The login can't take the caller's role, whoever asks."""

    sqlstate = "0P000"  # PostgreSQL's is that of a client's fault


@dataclass(frozen=True)
class Caller:
    """Whom a transaction's statements run for. Raises a `ValueError` for what PostgreSQL can't be told."""

    id: UUID
    role: str
    claims: dict[str, object] = field(repr=False)
    """What policies may ask about. PostgreSQL's log has them, if it logs statements."""
    sql: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        json.dumps(self.claims, ensure_ascii=False).encode()  # refuses half a surrogate pair
        claims = json.dumps(self.claims, allow_nan=False)
        if r"\u0000" in claims.replace(r"\\", ""):
            raise ValueError("jsonb can't hold the character NUL")
        if self.role == "none":
            raise ValueError("none is the login itself")
        # E'': the same, whether standard_conforming_strings is on or off.
        role, claims = (it.replace("\\", "\\\\").replace("'", "''") for it in (self.role, claims))
        settings = f"('role', E'{role}', true), set_config('request.jwt.claims', E'{claims}', true)"
        object.__setattr__(self, "sql", f"SELECT set_config{settings}")


class CallerConnection(Connection):
    caller: Caller | None = None
    """Whom the next transaction is for. Nobody in particular: it is the service's own."""

    def returned(self) -> None:
        self.caller = None
        super().returned()

    async def execute(self, query: str, *args: object, **options: object) -> str:
        if self.caller is None or not query.startswith("BEGIN"):
            return await super().execute(query, *args, **options)
        try:
            return await super().execute(f"{query} {self.caller.sql}", **options)
        except asyncpg.PostgresError as error:
            # asyncpg takes it for begun, and SQLAlchemy for not: a COMMIT would not even be sent.
            self.terminate()
            if error.sqlstate in _CANT_TAKE:
                told = f"{error}: GRANT {self.caller.role} TO the login of DATABASE_URL"
                raise RoleError(told) from error
            raise


class UserSession(Transaction):
    """A transaction in which PostgreSQL knows the caller: one only, never AUTOCOMMIT."""

    def __init__(self, sessions: UserSessions, caller: Caller) -> None:
        super().__init__(sessions.engine.execution_options(caller=caller))


class UserSessions:
    """Makes sessions of callers: `async with sessions.begin(caller) as session:` is one transaction, as
    with `Sessions`. An engine's first has to be made before the engine connects."""

    def __init__(self, engine: AsyncEngine) -> None:
        event.listen(engine.sync_engine, "do_connect", _with_callers)
        event.listen(engine.sync_engine, "begin", _tell)
        self.engine = engine

    def begin(self, caller: Caller) -> AbstractAsyncContextManager[UserSession]:
        return UserSession(self, caller)


def _with_callers(_: object, entry: object, args: object, options: dict[str, object]) -> None:
    options["connection_class"] = CallerConnection


def _tell(connection: SQLConnection) -> None:
    # At each BEGIN: SQLAlchemy goes on with another connection where one was lost.
    caller = cast(Caller | None, connection.get_execution_options().get("caller"))
    if caller is None:
        return
    lent = connection.connection
    driver = cast(CallerConnection, lent.driver_connection)
    # asyncpg's isinstance() takes every connection for one of ours.
    can_tell = issubclass(type(driver), CallerConnection)
    if not can_tell or lent.dbapi_connection.autocommit:  # type: ignore[union-attr]
        connection.invalidate()  # the pool's next one may be able to
        raise TransactionError("a caller needs a transaction, on an engine that UserSessions has")
    driver.caller, driver.lent_to = caller, "session"


async def warn_of_login(settings: Settings) -> None:
    """Say so if the login is not fit to act for callers."""
    with suppress(SQLAlchemyError):  # which database/login.py tells of
        async with open_engine(settings) as engine, engine.connect() as connection:
            if fault := await connection.scalar(text(FAULT)):
                log.warning("the login is not fit to act for callers: docs/auth.md", reason=fault)
