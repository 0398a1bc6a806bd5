"""Transactions in which PostgreSQL knows who is asking, for row-level security.

Role and claims go out with BEGIN, in the same round trip, and end with the transaction: as settings of
a session (`false` instead of `true`) they would stay on the pooler's server connection, for whoever
comes next.
"""

import json
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, SessionTransaction

from {{ cookiecutter.package_name }}.database.connection import Connection, TransactionError
from {{ cookiecutter.package_name }}.database.session import (
    GuardedSession,
    Transaction,
    make_sessions,
)

# Who is asking, in SQL: NULL if it is nobody. '' is what a setting is on a server connection that has
# had it once.
CALLER_ID = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"

# What JSON calls NUL. Behind an odd number of backslashes more, it would be these six characters.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# The SQLSTATEs of a role that there is not, and of one that the login may not take.
_NO_SUCH_ROLE, _NOT_A_MEMBER = "22023", "42501"


class RoleError(asyncpg.InterfaceError):
    """The login can't take the caller's role: the service is not set up, whoever asks."""


@dataclass(frozen=True)
class Caller:
    """Whom a transaction's statements run for.

    Raises a `ValueError` for claims that PostgreSQL's jsonb can't hold.
    """

    id: UUID
    role: str
    claims: Mapping[str, object] = field(repr=False)
    """What policies may ask about. PostgreSQL's log has them, if it logs statements."""
    sql: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        json.dumps(self.claims, ensure_ascii=False).encode()  # refuses half a surrogate pair
        claims = json.dumps(self.claims, allow_nan=False)
        if _NUL.search(claims):
            raise ValueError("PostgreSQL can't store the character NUL")
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
            if self.is_in_transaction():
                # Begun, but for nobody. asyncpg believes it is not, and would never end it.
                self._top_xact = None
                await super().execute("ROLLBACK")
            if error.sqlstate in (_NO_SUCH_ROLE, _NOT_A_MEMBER):
                raise RoleError(
                    f"the login of DATABASE_URL can't act for callers: {error}. "
                    f"GRANT {self.caller.role} to it; docs/auth.md has the roles"
                ) from error
            raise


class _CallerSession(GuardedSession):
    caller: Caller


class UserSession(Transaction):
    """A transaction in which PostgreSQL knows the caller: one only, never AUTOCOMMIT."""

    sync_session_class = _CallerSession
    sync_session: _CallerSession


@event.listens_for(_CallerSession, "after_begin")
def _tell(session: Session, transaction: SessionTransaction, connection: SQLConnection) -> None:
    lent = connection.connection
    driver = lent.driver_connection
    # What can't be told would run as the login, which may see everything.
    if lent.dbapi_connection.autocommit or not isinstance(driver, CallerConnection):  # type: ignore[union-attr]
        raise TransactionError(
            "a caller's statements need a transaction, on an engine that UserSessions has"
        )
    assert isinstance(session, _CallerSession)
    driver.caller = session.caller


class UserSessions:
    """Makes sessions of callers: `async with sessions.begin(caller) as session:` is one transaction, as
    with `Sessions`. An engine's first has to be made before the engine connects."""

    def __init__(self, engine: AsyncEngine) -> None:
        event.listen(engine.sync_engine, "do_connect", _with_callers)
        self._make = make_sessions(engine, UserSession)

    def begin(self, caller: Caller) -> AbstractAsyncContextManager[UserSession]:
        session = self._make()
        session.sync_session.caller = caller
        return session


def _with_callers(dialect: object, entry: object, arguments: object, options: Any) -> None:
    options["connection_class"] = CallerConnection
