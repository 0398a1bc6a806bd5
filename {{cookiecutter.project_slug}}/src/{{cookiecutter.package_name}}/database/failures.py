"""What can go wrong with a database behind a pooler, by kind.

SQLAlchemy maps nothing of asyncpg to `OperationalError`: most of it arrives as a plain `DBAPIError`,
and what the network does as a bare `OSError`. So failures are told apart by PostgreSQL's error code
(SQLSTATE), and where a pooler has none of its own, by its text.
"""

import re
from enum import Enum, auto
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry


class Failure(Enum):
    """What the caller can do about it."""

    UNAVAILABLE = auto()
    """Nothing is wrong with the request: try again later."""

    CONFLICT = auto()
    """It contradicts what is stored."""

    INVALID = auto()
    """The database can't store such a value."""

    LOGIN = auto()
    """The user, the password, the database or the project is wrong: to try again does harm."""

    UNKNOWN = auto()
    """A defect, of this service or of its configuration."""


# By SQLSTATE, or its first two characters for a whole class.
_BY_SQLSTATE = {
    "28": Failure.LOGIN,  # wrong password, no such user, not allowed by pg_hba.conf
    "3D000": Failure.LOGIN,  # no such database
    "08": Failure.UNAVAILABLE,  # connection exception; Supavisor: PostgreSQL itself is down
    "53": Failure.UNAVAILABLE,  # too many connections, out of memory, disk full
    "57P": Failure.UNAVAILABLE,  # shutting down, starting up
    "57014": Failure.UNAVAILABLE,  # cancelled, by a timeout
    "55P03": Failure.UNAVAILABLE,  # lock not available
    "40001": Failure.UNAVAILABLE,  # serialization failure
    "40P01": Failure.UNAVAILABLE,  # deadlock
    "23505": Failure.CONFLICT,  # unique
    "23503": Failure.CONFLICT,  # foreign key
    "23P01": Failure.CONFLICT,  # exclusion
    "23514": Failure.INVALID,  # check
    "23502": Failure.INVALID,  # not null
    "22000": Failure.INVALID,  # asyncpg: an argument that doesn't fit its type
    "22001": Failure.INVALID,  # text too long
    "22003": Failure.INVALID,  # number out of range
    "22021": Failure.INVALID,  # a character that the encoding doesn't have, such as NUL
}

# PgBouncer answers a wrong login with 08P01, a protocol violation.
_PGBOUNCER_LOGIN = re.compile(
    r"authentication failed|no such (user|database)|does not exist|unsupported startup"
)

# Supavisor's own refusals have SQLSTATE XX000 and a code in the text; older ones have the text only.
_SUPAVISOR_LOGIN = re.compile(
    r"\((ENOTFOUND|ENOIDENTIFIER|EAUTHQUERY|ECIRCUITBREAKER)\)|Tenant or user not found"
)
_SUPAVISOR_IS_FULL = re.compile(r"\((EMAXCONN|EMAXCONNSESSION|ECHECKOUTTIMEOUT)\)")

# Of Supavisor and of PgBouncer.
_POOLER_WORDS = re.compile(
    r"\((E[A-Z]+)\)|Tenant or user not found|no more connections allowed|query_wait_timeout"
    r"|server login has been failing|server conn crashed|authentication failed"
    r"|no such (user|database)|unsupported startup parameter"
)


def classify(error: SQLAlchemyError) -> Failure:
    """Which kind of failure an error is."""
    if isinstance(error, PoolTimeoutError):
        return Failure.UNAVAILABLE
    if not isinstance(error, DBAPIError):
        return Failure.UNKNOWN
    if isinstance(error.orig, OSError) or error.connection_invalidated:
        return Failure.UNAVAILABLE
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate == "08P01" and _PGBOUNCER_LOGIN.search(str(error.orig)):
        return Failure.LOGIN
    if sqlstate == "XX000" and _SUPAVISOR_LOGIN.search(str(error.orig)):
        return Failure.LOGIN
    if sqlstate == "XX000" and _SUPAVISOR_IS_FULL.search(str(error.orig)):
        return Failure.UNAVAILABLE
    for known in (sqlstate, sqlstate[:3], sqlstate[:2]):
        if known in _BY_SQLSTATE:
            return _BY_SQLSTATE[known]
    return Failure.UNKNOWN


def pooler_words(error: BaseException) -> str | None:
    """What a pooler calls its refusal, such as `EMAXCONN` or `query_wait_timeout`.

    None for an error of anybody else: its text may hold people's data, and these words never do.
    """
    if getattr(error, "sqlstate", None) not in ("XX000", "08P01"):
        return None
    found = _POOLER_WORDS.search(str(error))
    return found[0].strip("()") if found else None


def report_lost_connections(engine: AsyncEngine) -> None:
    """Make the engine raise `OperationalError` where asyncpg leaves a bare `OSError`.

    A refused connection, a name that can't be resolved, a reset, a timeout: whoever catches
    `SQLAlchemyError` then has every failure of the database, and nothing else.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(
        dialect: Dialect, entry: ConnectionPoolEntry, args: list[Any], kwargs: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*args, **kwargs)
        except OSError as error:
            problem = str(error) or f"no answer within {kwargs['timeout']} s"
            place = f"{kwargs['host']}:{kwargs['port']}"
            told = ConnectionError(f"can't connect to {place}: {problem}")
            raise OperationalError(None, None, told) from error

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, OSError):
            # After a timeout too: if it was BEGIN that timed out, asyncpg believes in a transaction
            # that SQLAlchemy has forgotten, and every later one on this connection would be a
            # savepoint in it, acknowledged and never committed. Other connections are sound then.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = not isinstance(error, TimeoutError)
            raise OperationalError(context.statement, None, error) from error
