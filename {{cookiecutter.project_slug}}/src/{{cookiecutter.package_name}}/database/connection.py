"""The driver's connection, with what a pooler and a session make necessary."""

from __future__ import annotations

import functools
from typing import Any, cast

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.transaction import Transaction

from {{ cookiecutter.package_name }}.database.metrics import Use
from {{ cookiecutter.package_name }}.database.sql import is_sealed, only_reads

# A choice: more than a small service has, and about a megabyte for each connection at most.
# Lists of every length (IN, INSERT of many rows) are so many statements.
_KEPT_STATEMENTS = 100
_KEPT_LENGTH = 8 * 1024  # characters


class ReadOnlyError(Exception):
    """Something that reads only was asked to write, or what was read was changed."""


class TransactionError(asyncpg.InterfaceError):
    """What was asked for would not be a part of the session's transaction, or is lost with it."""


class _Transaction(Transaction):
    async def start(self) -> None:
        connection: Connection = self._connection  # type: ignore[attr-defined]
        lent, connection.in_session = connection.in_session, False  # BEGIN is outside, of course
        try:
            await super().start()
        finally:
            connection.in_session = lent


class Connection(asyncpg.Connection):
    """A connection of asyncpg's."""

    idle = False
    """In the pool: nobody's."""
    reads = False
    """Lent to a `ReadSession`: each statement is by itself."""
    in_session = False
    """Lent to a session: everything is a part of its transaction."""
    use: Use | None = None
    """Lent, and to whom: see `database/metrics.py`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[str, PreparedStatement[Any]] = {}
        self.streams: list[Any] = []
        """Cursors of SQLAlchemy's that fetch as they go."""

    def returned(self) -> None:
        """Forget who had it."""
        self.reads = self.in_session = False
        self.idle = True
        for stream in self.streams:  # its next fetch would be an error in another's transaction
            stream.close()
        self.streams.clear()
        if self.is_in_transaction():  # begun by hand, so that SQLAlchemy does not know of it
            self.terminate()

    def transaction(self, **options: Any) -> Transaction:
        """A transaction: SQLAlchemy's, which names all options, or a savepoint in it."""
        if len(options) == 3:
            return _Transaction(
                self, *(options[it] for it in ("isolation", "readonly", "deferrable"))
            )
        self._refuse_outside()
        return super().transaction(**options)

    async def prepare(self, query: str, **options: Any) -> PreparedStatement[Any]:
        """Prepare a statement, or give back the one that is kept.

        What is kept is the description: asyncpg, with its cache off, sends the text again each time
        that the statement runs, in the same message, so nothing depends on which backend answers.
        """
        # What is long is not remembered: a list of every length is a statement of its own.
        only = only_reads if len(query) <= _KEPT_LENGTH else only_reads.__wrapped__
        if self.reads and not only(query):
            raise ReadOnlyError(
                "a session for reading runs each statement by itself: ask for a SessionDep to write, "
                "to lock or to set something for a transaction"
            )
        self._refuse_outside()
        statement = self._kept.pop(query, None)
        if statement is None:
            statement = cast("PreparedStatement[Any]", await super().prepare(query, **options))
            if len(query) > _KEPT_LENGTH or not is_sealed(query):
                return statement
            if len(self._kept) >= _KEPT_STATEMENTS:
                del self._kept[next(iter(self._kept))]  # used the longest ago
        self._kept[query] = statement
        return statement

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run a statement.

        Raises:
            TransactionError: a COMMIT that stores nothing: PostgreSQL answered it with ROLLBACK, which
                the driver takes for a success, or there is no transaction.
        """
        if query.startswith("COMMIT") and not (self.is_in_transaction() or self.is_closed()):
            raise TransactionError(
                "nothing to commit: a statement of this session has ended its transaction before"
            )
        if not query.startswith("ROLLBACK"):
            self._refuse_outside()
        status: str = await super().execute(query, *args, **options)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise TransactionError(
                "nothing was stored: a statement of this transaction failed, and its error was caught. "
                "Let the error out, or run what may fail inside `async with session.begin_nested()`"
            )
        return status

    def _refuse_outside(self) -> None:
        if self.idle:
            raise TransactionError(
                "this connection is back in the pool, and may be somebody else's"
            )
        if self.in_session and not self.is_in_transaction() and not self.is_closed():
            raise TransactionError(
                "the session's transaction has not begun, and this would not be a part of it: use the "
                "driver's connection inside `async with session.begin_nested()`"
            )


def _inside(name: str) -> Any:
    method = getattr(asyncpg.Connection, name)

    @functools.wraps(method)
    def inside(self: Connection, *args: Any, **kwargs: Any) -> Any:
        self._refuse_outside()
        if self.reads:
            raise ReadOnlyError(f"{name}() is not for reading")
        return method(self, *args, **kwargs)

    return inside


def _forgetting(name: str) -> Any:
    method = getattr(asyncpg.Connection, name)

    @functools.wraps(method)
    def forgetting(self: Connection, *args: Any, **kwargs: Any) -> Any:
        self._kept.clear()
        return method(self, *args, **kwargs)

    return forgetting


# A description has its codecs in it.
for _name in ("reset_type_codec", "set_builtin_type_codec", "set_type_codec"):
    setattr(Connection, _name, _forgetting(_name))

# SQLAlchemy sends BEGIN with its first statement. What the driver is told before that, COPY for
# instance, would be stored for good, whatever becomes of the session.
for _name in (
    *("copy_from_query", "copy_from_table", "copy_records_to_table", "copy_to_table"),
    *("cursor", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval"),
):
    setattr(Connection, _name, _inside(_name))
