"""Errors of the database in a log, without the values that their texts hold.

PostgreSQL writes them into its details (`Key (email)=(alice@example.com)`) and into the message itself
(`invalid input syntax for type integer: "alice"`), and asyncpg too, when it refuses an argument. Which
part of a text is a value can't be told. So of such an error the log has the class, the SQLSTATE, a
pooler's words and the SQL, which has no values in it.
"""

import sys
import traceback
from collections.abc import Iterator
from textwrap import indent

import asyncpg
from sqlalchemy.exc import (
    EmulatedDBAPIException,
    PendingRollbackError,
    SQLAlchemyError,
    StatementError,
)
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from {{ cookiecutter.package_name }}.database.failures import pooler_words

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def hide_values(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """A processor: whatever logs an error, as a traceback or in the line itself."""
    arguments = event.pop("positional_args", ())  # of a line that a library, or `logging`, wrote
    errors = [*event.values(), *(arguments if isinstance(arguments, tuple) else ())]
    match event.get("exc_info"):
        case BaseException() as error:
            errors.append(error)
        case (_, BaseException() as error, _):
            errors.append(error)
        case True:
            errors.append(sys.exc_info()[1])
    secrets = _secrets(*(error for error in errors if isinstance(error, BaseException)))
    if secrets:
        for key, value in event.items():
            if isinstance(value, BaseException):
                event[key] = told_of(value) or _without(secrets, str(value))
            elif isinstance(value, str):
                event[key] = _without(secrets, value)
    return event


def format_traceback(exc_info: ExcInfo) -> str:
    """A traceback as Python prints it, but for the texts of a database's errors."""
    error = exc_info[1]
    return "".join(_lines(error, _secrets(error), set(), below=False)).rstrip("\n")


def _lines(
    error: BaseException, secrets: dict[str, str], seen: set[int], *, below: bool
) -> Iterator[str]:
    """The lines of an error and of what led to it; `below`: it led to a database's error."""
    seen.add(id(error))
    told = told_of(error)
    cause = error.__cause__
    context = None if error.__suppress_context__ else error.__context__
    before = cause or context
    if before is not None and id(before) not in seen:
        yield from _lines(before, secrets, seen, below=below or told is not None)
        yield _CAUSE if cause else _CONTEXT
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    label = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        label = f"{kind.__module__}.{label}"
    if told is None:
        # What led to it may be a codec that was given the value.
        told = "" if below and not isinstance(error, OSError) else _text(error)
    yield f"{label}: {_without(secrets, told)}\n" if told else f"{label}\n"
    for note in getattr(error, "__notes__", ()):
        yield f"{_without(secrets, str(note))}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, part in enumerate(error.exceptions, start=1):
            lines = "".join(_lines(part, secrets, seen, below=below))
            yield indent(f"---------------- {number} ----------------\n{lines}", "  | ")


def told_of(error: BaseException) -> str | None:
    """What may be said of a database's error. None for any other, whose text is its own."""
    driver: BaseException = error
    while isinstance(driver, (StatementError, EmulatedDBAPIException)) and driver.orig is not None:
        driver = driver.orig
    if isinstance(driver, asyncpg.PostgresError):
        words = f"SQLSTATE {driver.sqlstate}"
        if (pooler := pooler_words(driver)) is not None:
            words += f" {pooler}"
    elif isinstance(error, StatementError) and not isinstance(
        driver, (OSError, asyncpg.InterfaceError, SQLAlchemyError)
    ):
        words = "the column's type refuses the value"
    else:
        return None
    if driver is not error:
        words = f"({type(driver).__module__}.{type(driver).__name__}) {words}"
    if isinstance(error, StatementError) and error.statement:
        words += f"\n[SQL: {error.statement}]"
    return words


def _text(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, PendingRollbackError):  # it repeats the error that came before
        text = text.partition("Original exception was")[0]
    return text


def _secrets(*errors: BaseException) -> dict[str, str]:
    """Each text of a database's errors, which other errors and lines may repeat, and what may be said."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    waiting = list(errors)
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [it for it in (error.__cause__, error.__context__) if it is not None]
        waiting += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        if isinstance(error, StatementError) and error.orig is not None:
            waiting.append(error.orig)
        told = told_of(error)
        if told is not None:
            texts = (repr(error), str(error), *map(str, error.args[:1]))
            found |= {text: told for text in texts if len(text) > 3}
        elif isinstance(error, PendingRollbackError):
            found |= {repr(error): _text(error), str(error): _text(error)}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _without(secrets: dict[str, str], text: str) -> str:
    for secret, told in secrets.items():
        text = text.replace(secret, told)
    return text
