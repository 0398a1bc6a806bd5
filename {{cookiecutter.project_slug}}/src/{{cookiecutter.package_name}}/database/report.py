"""What is told of a database's error, without the values in it.

PostgreSQL writes them into its details (`Key (email)=(alice@example.com)`) and its messages (`invalid
input syntax for type integer: "alice"`), and asyncpg too, when it refuses an argument. Texts end in
logs, so an error is left with its class, its SQLSTATE, a pooler's words and the SQL.
"""

import re

import asyncpg
import structlog
from sqlalchemy.exc import EmulatedDBAPIException, SQLAlchemyError, StatementError

from {{ cookiecutter.package_name }}.database.connect import CantConnectError
from {{ cookiecutter.package_name }}.database.failures import (
    Failure,
    classify,
    classify_answer,
    pooler_words,
)
from {{ cookiecutter.package_name }}.database.metrics import failures, spent

log = structlog.get_logger()

# A column or a function that does not exist: the message repeats a name of the SQL, and no value.
_ONLY_NAMES = ("42703", "42883")

# A table or a column that does not exist: most likely not yet.
_NOT_MIGRATED = ("42703", "42P01")

# What is refused, by PostgreSQL's own words. Those of a function that raises 42501 may have values.
_REFUSED = re.compile(
    r"permission denied for (table|view|sequence|schema|function) \S+"
    r"|new row violates row-level security policy .*"
)


def hide_values(error: BaseException) -> None:
    """Replace the text of an error, if it may have values. `driver_exception.message` stays."""
    errors = [error]
    while isinstance(errors[-1], (StatementError, EmulatedDBAPIException)) and errors[-1].orig:
        errors.append(errors[-1].orig)
    cause = errors[-1]
    if isinstance(cause, asyncpg.PostgresError):
        pooler = pooler_words(cause)
        if pooler is None and classify_answer(cause) is Failure.UNAVAILABLE:
            return  # about the server, not the statement
        if cause.sqlstate in _ONLY_NAMES:
            return
        words = f"SQLSTATE {cause.sqlstate} {pooler or ''}".rstrip()
        cause.detail = cause.hint = None
    elif isinstance(error, StatementError) and not isinstance(
        cause, (OSError, asyncpg.InterfaceError, SQLAlchemyError)
    ):
        if isinstance(cause, TypeError) and str(cause).endswith("is not JSON serializable"):
            return  # the name of a type
        words = "the column's type refuses the value"
        errors = [error]
    else:
        return
    kind = f"({type(cause).__module__}.{type(cause).__name__})"
    for it in errors:
        it.args = (words if it is cause else f"{kind} {words}",)


def log_failure(error: SQLAlchemyError) -> Failure:
    """Log what a database answered, or why it did not; which kind of failure it is."""
    failure = classify(error)
    cause = getattr(error, "driver_exception", None) or error
    place = dict(vars(cause)) if isinstance(cause, CantConnectError) else {}
    request = spent.get()
    if getattr(cause, "sqlstate", None) in _NOT_MIGRATED:
        place["hint"] = "an old schema? run {{ cookiecutter.project_slug }} migrate"
    elif denied := _REFUSED.fullmatch(getattr(cause, "message", None) or ""):
        place["hint"] = denied[0]
    pooler = pooler_words(cause)
    failures.labels(failure.name.lower(), pooler or "").inc()
    log.warning(
        "database failure",
        failure=failure.name,
        route=request.route() if request else None,
        # With its module: sqlalchemy.exc.TimeoutError is a full pool, the built-in one a statement.
        error=f"{type(cause).__module__}.{type(cause).__name__}",
        sqlstate=getattr(cause, "sqlstate", None),
        pooler=pooler,
        constraint=getattr(cause, "constraint_name", None),
        **place,
    )
    return failure
