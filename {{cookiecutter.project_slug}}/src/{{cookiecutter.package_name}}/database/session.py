"""Sessions: `Sessions` for transactions, `ReadSession` for reading without one.

Both are SQLAlchemy's, closed where ordinary code on top of it loses rows without a word or leaks
connections: a statement after the session's end, two tasks at once, a change to what was only read.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, TypeVarTuple, overload

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Column, Connection, Executable, Result, ScalarResult, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.selectable import TypedReturnsRows
from sqlalchemy.util import greenlet_spawn

from {{ cookiecutter.package_name }}.database.connection import ReadOnlyError

__all__ = ["ReadOnlyError", "ReadSession", "SessionEndedError", "SessionInUseError", "Sessions"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Params = Mapping[str, Any] | None


class SessionEndedError(Exception):
    """The session's transaction has ended: what is asked of it now would never be stored."""


class SessionInUseError(Exception):
    """Two tasks used one session at the same time."""


_ENDED = (
    "this session has ended with its request: ask for SessionsDep, and open a session of its own "
    "(`async with sessions.begin() as session`) for what comes later"
)
_IN_USE = (
    "another task is using this session: a session does one thing at a time. Ask for SessionsDep and "
    "give each task a session of its own, or read with a ReadSessionDep, which many can use"
)


class GuardedSession(Session):
    """Does one thing at a time, and nothing after its end."""

    # The greenlet that is in the middle of something: each call on a task's behalf has one.
    _user: object = None
    _disturbed = False
    _ended = False

    def end(self, *, commit: bool) -> None:
        """Commit or roll back, and close for good. No commit if something is on its way, or was refused."""
        self._ended = True
        if self._user is not None:  # who closes it, too
            if commit:
                raise SessionInUseError(_IN_USE)
            return
        self._user = getcurrent()
        try:
            if not commit:
                self.rollback()
            elif self._disturbed:
                raise SessionInUseError(_IN_USE)
            else:
                self.commit()
        finally:
            self.close()
            self._user = None


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: GuardedSession, *args: Any, **kwargs: Any) -> Any:
        user = getcurrent()
        if self._user is user:  # a call within a call
            return method(self, *args, **kwargs)
        if self._ended:
            raise SessionEndedError(_ENDED)
        if self._user is not None:
            self._disturbed = True
            raise SessionInUseError(_IN_USE)
        self._user = user
        try:
            return method(self, *args, **kwargs)
        finally:
            self._user = None
            if self._ended:  # meanwhile
                self.close()

    return guarded


# Everything that AsyncSession hands on and that changes, sends or begins something.
_GUARDED = """
    add add_all begin begin_nested commit connection delete delete_all execute flush get get_one merge
    merge_all refresh rollback scalar scalars bulk_insert_mappings bulk_save_objects bulk_update_mappings
"""
for _name in _GUARDED.split():
    setattr(GuardedSession, _name, _guarded(getattr(Session, _name)))


@event.listens_for(GuardedSession, "after_begin")
def _lend(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    lent = connection.connection
    if not lent.dbapi_connection.autocommit:  # type: ignore[union-attr]
        lent.driver_connection.lent_to = "session"  # type: ignore[union-attr]


class Transaction(AsyncSession):
    """A session that commits at its end, or rolls back on any error."""

    sync_session_class = GuardedSession
    sync_session: GuardedSession

    def __init__(self, engine: AsyncEngine) -> None:
        # Without expire_on_commit=False, reading an attribute after the commit is one more query, which
        # asyncio can't do behind an attribute (MissingGreenlet).
        super().__init__(engine, expire_on_commit=False, close_resets_only=False)

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        await greenlet_spawn(self.sync_session.end, commit=kind is None)


class Sessions:
    """Makes sessions: `async with sessions.begin() as session:` is one transaction. It takes a connection
    at the first statement and not before, commits at the end, and rolls back on any error. After that
    the session can't be used again."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def begin(self) -> AbstractAsyncContextManager[AsyncSession]:
        """One transaction. It ends with a `SessionInUseError` if two tasks used it at once."""
        return Transaction(self._engine)


class ReadSession:
    """Reads, each statement by itself, in AUTOCOMMIT.

    A statement takes a connection, costs one round trip if it is sealed (`database/dialect.py`) and
    two if not, and gives the connection back. So there is nothing to close: one `ReadSession` serves
    all requests, many tasks at once, streams and background tasks too.

    Two statements may see different data, and a pooler may serve them from different backends.
    Objects come detached: what they are related to has to be loaded with them (`selectinload`), and
    changing one is a `ReadOnlyError`. So are statements that write, lock rows or set something for a
    transaction; what a function does can't be seen.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine

    @overload
    async def execute(
        self, statement: TypedReturnsRows[*Ts], params: Params = None
    ) -> Result[*Ts]: ...
    @overload
    async def execute(
        self, statement: Executable, params: Params = None
    ) -> Result[*tuple[Any, ...]]: ...
    async def execute(self, statement: Executable, params: Params = None) -> Any:
        """Run a statement; the result has all its rows."""
        return await greenlet_spawn(self._execute, statement, params)

    @overload
    async def scalars(
        self, statement: TypedReturnsRows[T], params: Params = None
    ) -> ScalarResult[T]: ...
    @overload
    async def scalars(self, statement: Executable, params: Params = None) -> ScalarResult[Any]: ...
    async def scalars(self, statement: Executable, params: Params = None) -> Any:
        """Run a statement; the first column of each row."""
        return (await self.execute(statement, params)).scalars()

    @overload
    async def scalar(self, statement: TypedReturnsRows[T], params: Params = None) -> T | None: ...
    @overload
    async def scalar(self, statement: Executable, params: Params = None) -> Any: ...
    async def scalar(self, statement: Executable, params: Params = None) -> Any:
        """Run a statement; the first column of its first row, None without a row."""
        return (await self.execute(statement, params)).scalar()

    async def get(self, entity: type[T], key: Any, *, options: Sequence[Any] = ()) -> T | None:
        """The object with this primary key."""
        return await greenlet_spawn(self._get, entity, key, options)

    def _execute(self, statement: Executable, params: Params) -> Any:
        with self._engine.connect() as connection:
            _lend_for_reading(connection)
            if _has_only_columns(statement):
                return connection.execute(statement, params, execution_options=_COMPLETE)
            with Session(connection) as session:
                return session.execute(statement, params, execution_options=_COMPLETE)

    def _get(self, entity: type[T], key: Any, options: Sequence[Any]) -> T | None:
        with self._engine.connect() as connection:
            _lend_for_reading(connection)
            with Session(connection) as session:
                return session.get(entity, key, options=options)

    if not TYPE_CHECKING:  # a type checker says by itself that there is no such method

        def __getattr__(self, name: str) -> NoReturn:
            if hasattr(AsyncSession, name):
                raise ReadOnlyError(f"a session for reading has no {name}(): ask for a SessionDep")
            raise AttributeError(name)


def _lend_for_reading(connection: Connection) -> None:
    # Before the first statement, with which BEGIN would go out. SQLAlchemy's own way, an engine with
    # another isolation level, costs a read 183 function calls (counted with 2.1.9).
    lent = connection.connection
    lent.dbapi_connection.autocommit = True  # type: ignore[union-attr]
    lent.driver_connection.lent_to = "reader"  # type: ignore[union-attr]


# All rows at once, whatever the statement says of itself: its connection does not stay.
_COMPLETE = {"prebuffer_rows": True, "stream_results": False, "yield_per": None}


def _has_only_columns(statement: Executable) -> bool:
    """Whether its results are columns of tables, with which the ORM has nothing to do. Its machinery is
    spared then: about a third of what a read costs."""
    described = getattr(statement, "column_descriptions", ())
    return bool(described) and all(
        isinstance(it["expr"], Column) and "entity" not in it for it in described
    )
