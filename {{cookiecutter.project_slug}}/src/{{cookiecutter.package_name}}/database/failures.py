"""What can go wrong with a database behind a pooler, by kind.

SQLAlchemy maps nothing of asyncpg to `OperationalError`: most of it arrives as a plain `DBAPIError`,
and what the network does as a bare `OSError`. So failures are told apart by PostgreSQL's error code
(SQLSTATE), and where a pooler has none of its own, by its text.
"""

import re
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError


class Failure(Enum):
    """What the caller can do about it."""

    UNAVAILABLE = auto()  # nothing is wrong with the request: try again later
    CONFLICT = auto()  # it contradicts what is stored
    INVALID = auto()  # the database can't store such a value
    FORBIDDEN = auto()  # the role, or row-level security, does not allow it
    LOGIN = auto()  # user, password, database or project are wrong: to try again does harm
    UNKNOWN = auto()  # a defect, of this service or of its configuration


# By SQLSTATE, or by its first two characters for a whole class. What is not here is UNKNOWN: wrong SQL
# (42), a swallowed error (25P02), what no request's value can cause.
_BY_SQLSTATE = {
    "08": Failure.UNAVAILABLE,  # connection exception; Supavisor: PostgreSQL itself is down
    "0P": Failure.UNKNOWN,  # a role that there is not, or that the login may not take
    "21": Failure.INVALID,  # ON CONFLICT meets one row twice: two values of one request are the same
    "22": Failure.INVALID,  # a value that the type doesn't have: text, JSON, date, encoding ...
    "22012": Failure.UNKNOWN,  # division by zero
    "2200H": Failure.UNKNOWN,  # a sequence has reached its end
    "23": Failure.CONFLICT,  # unique, foreign key, exclusion, restrict
    "23502": Failure.INVALID,  # not null
    "23514": Failure.INVALID,  # check
    "25006": Failure.UNAVAILABLE,  # read-only: a standby, after a failover
    "25P03": Failure.UNAVAILABLE,  # idle in a transaction for too long
    "25P04": Failure.UNAVAILABLE,  # transaction_timeout
    "28": Failure.LOGIN,  # wrong password, no such user, not allowed by pg_hba.conf
    "3D": Failure.LOGIN,  # no such database
    "40": Failure.UNAVAILABLE,  # serialization failure, deadlock, a standby's conflict
    "42501": Failure.FORBIDDEN,  # insufficient privilege, row-level security
    "44": Failure.INVALID,  # a view's WITH CHECK OPTION
    "53": Failure.UNAVAILABLE,  # too many connections, out of memory, disk full
    "54": Failure.INVALID,  # too long for an index, too deep for JSON
    "55P03": Failure.UNAVAILABLE,  # lock not available
    "57": Failure.UNAVAILABLE,  # cancelled, shutting down, starting up
    "58030": Failure.UNAVAILABLE,  # the disk failed
    "HV00N": Failure.UNAVAILABLE,  # a foreign server can't be reached
    "P0001": Failure.INVALID,  # RAISE EXCEPTION: a rule that the database checks
}

# The words of poolers, which put nearly all under XX000 (Supavisor) or 08P01 (PgBouncer). The first
# that fits counts.
_POOLER_SQLSTATES = ("XX000", "08P01", "08006", "26000", "42P05")
_ANY_CODE = r"\(E[A-Z]+\)"
_POOLERS = {
    r"\((?:ENOTFOUND|ENOIDENTIFIER|EINVALIDUSERINFO|EMULTIPLEUSERS|EBANNED|EADDRNOTALLOWED"
    r"|ESSLREQUIRED)\)": Failure.LOGIN,
    # Two codes that stand for a wrong login with some words, and for an outage with others.
    r"\(EAUTHQUERY\) (?:user not found|no auth_query|unsupported|MD5"
    r"|authentication query returned wrong format|failed to parse)": Failure.LOGIN,
    r"\(ECIRCUITBREAKER\) too many authentication failures": Failure.LOGIN,
    # A protocol that nobody should speak to them.
    r"\((?:EMAXPREPARED|EMAXPREPAREDMEM|EPSSIMPLEQUERY|EPREPAREDDUP|EPREPAREDNOTFOUND|ESTARTUPMESSAGE"
    r"|ESTARTUPPACKETTOOLARGE|EAUTHPROTOCOL|ESSLHANDSHAKE)\)": Failure.UNKNOWN,
    # All others are full, or moving, or can't reach something. A code that nobody knows yet too: a
    # pooler that refuses is no defect of this service.
    _ANY_CODE: Failure.UNAVAILABLE,
    r"Tenant or user not found": Failure.LOGIN,  # Supavisor, before it had codes
    # PgBouncer. Its own login at PostgreSQL, which it quotes, comes before its clients'.
    r"server login": Failure.UNAVAILABLE,
    r"server conn crashed": Failure.UNAVAILABLE,
    r"no more connections allowed": Failure.UNAVAILABLE,
    r"query_wait_timeout": Failure.UNAVAILABLE,
    r"(?:password|SASL|certificate) authentication failed": Failure.LOGIN,
    r"no such (?:user|database)": Failure.LOGIN,
    r"database \"[^\"]*\" does not exist": Failure.LOGIN,
    r"unsupported startup parameter": Failure.LOGIN,
    r"SSL required": Failure.LOGIN,
    # PostgreSQL itself, of a client that counts wrong.
    r"bind message supplies": Failure.UNKNOWN,
}


def related(error: BaseException) -> list[BaseException]:
    """An error, what it holds and what it was raised from."""
    found = [error]
    for it in found:  # grows meanwhile
        held = it.exceptions if isinstance(it, BaseExceptionGroup) else ()
        for other in (it.__cause__, it.__context__, *held):
            if other is not None and not any(other is one for one in found):
                found.append(other)
    return found


def classify(error: SQLAlchemyError) -> Failure:
    """Which kind of failure an error is."""
    if isinstance(error, PoolTimeoutError):
        return Failure.UNAVAILABLE
    if isinstance(error, StaleDataError):  # somebody else has changed or deleted the row meanwhile
        return Failure.CONFLICT
    if not isinstance(error, DBAPIError):
        # A column's type that can't take the value, and says so before anything is sent.
        value = isinstance(error, StatementError) and isinstance(
            error.orig, (ValueError, LookupError, ArithmeticError)
        )
        return Failure.INVALID if value else Failure.UNKNOWN
    if isinstance(error.orig, OSError):
        return Failure.UNAVAILABLE
    failure = classify_answer(error.driver_exception)
    if failure is Failure.LOGIN and error.statement is not None:
        # This login succeeded: what was refused is the pooler's own, at PostgreSQL.
        return Failure.UNAVAILABLE
    return failure or (Failure.UNAVAILABLE if error.connection_invalidated else Failure.UNKNOWN)


def classify_answer(error: BaseException | None) -> Failure | None:
    """Which kind of failure a server's answer is, by a pooler's words and its SQLSTATE."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    found = _pooler(error)[1]
    return found or _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])


def pooler_words(error: BaseException) -> str | None:
    """What a pooler calls its refusal, such as `EMAXCONN` or `query_wait_timeout`. None for an error of
    anybody else: its text may hold people's data, and these words never do."""
    return _pooler(error)[0]


def _pooler(error: BaseException | None) -> tuple[str | None, Failure | None]:
    sqlstate = getattr(error, "sqlstate", None)
    for pattern, failure in _POOLERS.items() if sqlstate in _POOLER_SQLSTATES else ():
        if found := re.search(pattern, getattr(error, "message", None) or str(error)):
            # Under another SQLSTATE, an unknown code is what that says.
            known = sqlstate == "XX000" or pattern != _ANY_CODE
            return re.sub(r"[()]|\"[^\"]*\" ", "", found[0]), failure if known else None
    return None, None


def all_broke(error: BaseException) -> bool:
    """Whether the other connections have to go, too: after a reset, as a rule. A timeout, or what a
    pooler says, is about one, and a busy pooler must not get all of them opened anew."""
    return isinstance(error, OSError) and not isinstance(error, TimeoutError)
