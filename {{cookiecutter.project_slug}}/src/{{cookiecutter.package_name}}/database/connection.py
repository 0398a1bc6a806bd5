"""The driver's connection, with what a pooler and a session make necessary."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.transaction import Transaction

from {{ cookiecutter.package_name }}.database.metrics import Use, sent
from {{ cookiecutter.package_name }}.database.sql import (
    KEPT_LENGTH,
    is_sealed,
    only_reads,
    what_lasts,
)

# A choice: more than a small service has, and about a megabyte for each connection at most.
# Lists of every length (IN, INSERT of many rows) are so many statements.
_KEPT_STATEMENTS = 100

# Seconds. A ping is a part of the time that a request waits, so it gets much less than a statement;
# 1 is several round trips to another continent.
_PING_TIMEOUT = 1

# What SQLAlchemy names of a transaction, always.
_OPTIONS = {"isolation", "readonly", "deferrable"}

# What ends a transaction, and with AND CHAIN begins another, of which nobody would know. Not what ends a
# savepoint.
_ENDS = re.compile(
    r"\s*(commit|end|abort|prepare\s+transaction|rollback(?!(\s+(work|transaction))?\s+to\b))\b",
    re.IGNORECASE,
)


class ReadOnlyError(Exception):
    """Something that reads only was asked to write, or what was read was changed."""


class TransactionError(asyncpg.InterfaceError):
    """What was asked for would not be a part of the session's transaction, or is lost with it."""


class EventLoopError(RuntimeError):
    """A connection works in the event loop that it was made in."""

    def __init__(self) -> None:
        super().__init__(
            "the engine's connections belong to another event loop, and asyncio.run() makes a new one: "
            "let the route or the task be `async def`. In a thread of a request, "
            "`anyio.from_thread.run(session.execute, statement)` runs it in the service's. A script has "
            "an open_engine() in each"
        )


class Connection(asyncpg.Connection):
    lent_to: Literal["anybody", "reader", "session", "nobody"] = "anybody"
    """A reader's statements are each by itself, all of a session's are a part of its transaction. What is
    nobody's is back in the pool."""
    failed = False
    returned_at = 0.0

    use: Use | None = None
    """Who has it, for `database/metrics.py`."""

    _pool_release_ctr: int  # asyncpg's own, of which it has no types
    _top_xact: Transaction | None
    _loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[str, PreparedStatement[Any]] = {}

    async def ping(self) -> None:
        """One round trip, without a transaction or a prepared statement."""
        await super().execute("SELECT 1", timeout=_PING_TIMEOUT)

    def returned(self) -> None:
        """Forget who had it."""
        self.lent_to, self.failed, self.returned_at = "nobody", False, time.monotonic()
        # As asyncpg's own pool: a cursor's next fetch would be an error in another's transaction.
        self._pool_release_ctr += 1
        # Begun by hand, or by a BEGIN that failed on its way, so that SQLAlchemy does not know of it:
        # the next transaction would be a savepoint in it, which nobody commits.
        if self.is_in_transaction() or self._top_xact is not None:
            self.terminate()

    def transaction(self, **options: Any) -> Transaction:
        """A transaction: SQLAlchemy's, or a savepoint in it."""
        if options.keys() != _OPTIONS:
            self._refuse_outside()
        self._refuse_another_loop()
        return super().transaction(**options)

    async def prepare(self, query: str, **options: Any) -> PreparedStatement[Any]:
        """Prepare a statement, or give back the one that is kept. That is its description: asyncpg sends
        the text again each time that it runs, as `database/engine.py` says."""
        if self.lent_to == "reader" and not only_reads(query):
            raise ReadOnlyError(
                "a session for reading runs each statement by itself: ask for a SessionDep to write, "
                "to lock or to set something for a transaction"
            )
        self._refuse_outside(query)
        statement = self._kept.pop(query, None)
        if statement is None:
            statement = cast("PreparedStatement[Any]", await super().prepare(query, **options))
            if len(query) > KEPT_LENGTH or not is_sealed(query):
                return statement
            if len(self._kept) >= _KEPT_STATEMENTS:
                del self._kept[next(iter(self._kept))]  # used the longest ago
        statement._con_release_ctr = self._pool_release_ctr  # type: ignore[attr-defined]
        self._kept[query] = statement
        return statement

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run a statement. A COMMIT that stores nothing is an error: of an aborted transaction PostgreSQL
        answers it with ROLLBACK, which the driver takes for a success."""
        self._refuse_another_loop()
        if query.startswith("COMMIT") and not (self.is_in_transaction() or self.is_closed()):
            raise TransactionError(
                "nothing to commit: a statement of this session has ended its transaction before"
            )
        # asyncpg has a transaction by the time that it begins one.
        begins = query.startswith("BEGIN") and self._top_xact is not None
        begins = begins and not self.is_in_transaction()
        if not begins and query not in ("COMMIT;", "ROLLBACK;"):  # the driver's own
            self._refuse_outside(query, args)
        status: str = await super().execute(query, *args, **options)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise TransactionError(
                "nothing was stored: a statement of this transaction failed, and its error was caught. "
                "Let the error out, or run what may fail inside `async with session.begin_nested()`"
            )
        return status

    def _refuse_another_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise EventLoopError

    def refuse_what_lasts(self, query: str, *rows: Sequence[Any]) -> None:
        """Each row has the parameters of the query, once."""
        lasts, numbers = what_lasts(query)
        if lasts or (
            numbers and any(row[it - 1] is not True for it in numbers for row in rows if row)
        ):
            raise TransactionError(
                "this would stay on the server connection, for whoever comes next: write SET LOCAL, "
                "set_config(..., true), pg_advisory_xact_lock or ON COMMIT DROP, or ALTER ROLE ... SET for "
                "good. What needs a session has a connection of its own, to DATABASE_MIGRATION_URL"
            )

    def _refuse_outside(self, query: str = "", row: Sequence[Any] = ()) -> None:
        self._refuse_another_loop()
        if self.lent_to == "nobody":
            raise TransactionError("this connection is back in the pool, maybe somebody else's")
        if self.lent_to == "session" and not self.is_in_transaction() and not self.is_closed():
            raise TransactionError(
                "the session's transaction has not begun, and this would not be a part of it: use the "
                "driver's connection inside `async with session.begin_nested()`"
            )
        if self.lent_to == "session" and _ENDS.match(query):
            raise TransactionError("a session ends its transaction itself, and begins the next one")
        self.refuse_what_lasts(query, row)

    def _drop_local_statement_cache(self) -> None:
        """asyncpg asks for it when a codec is registered, which a description has in it."""
        self._kept.clear()
        super()._drop_local_statement_cache()  # type: ignore[misc]


class MigrationsConnection(Connection):
    """Nobody has it after a migration, which may set what it likes."""

    def refuse_what_lasts(self, query: str, *rows: Sequence[Any]) -> None:
        pass


def _inside(method: Callable[..., Any]) -> Callable[..., Any]:
    names_a_table = method.__name__.endswith("_table")
    has_rows = method.__name__.endswith("many")

    def refuse(
        connection: Connection, query: str = "", *row: Any, command: str = "", **_: Any
    ) -> None:
        text = "" if names_a_table else query or command
        connection._refuse_outside(text, () if has_rows else row)
        if connection.lent_to == "reader":
            raise ReadOnlyError(f"{method.__name__}() is not for reading")

    @functools.wraps(method)
    async def inside(self: Connection, *args: Any, **kwargs: Any) -> Any:
        refuse(self, *args, **kwargs)
        with sent(self.use, method.__name__):
            return await method(self, *args, **kwargs)

    @functools.wraps(method)
    def at_once(self: Connection, *args: Any, **kwargs: Any) -> Any:
        refuse(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return inside if inspect.iscoroutinefunction(method) else at_once


# SQLAlchemy sends BEGIN with its first statement. What the driver is told before that, COPY for
# instance, would be stored for good, whatever becomes of the session.
for _name in dir(asyncpg.Connection):
    if _name.startswith(("copy_", "cursor", "executemany", "fetch")):
        setattr(Connection, _name, _inside(getattr(asyncpg.Connection, _name)))
