"""Sessions: `Sessions` for transactions, `ReadSession` for reading without one.

Both are SQLAlchemy's, closed where ordinary code on top of it loses rows without a word or leaks
connections: a statement after the session's end, two tasks at once, a change to what was only read.
"""

import asyncio
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, TypeVarTuple, overload

from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Column, Connection, Executable, Result, ScalarResult, event
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlalchemy.sql.selectable import TypedReturnsRows
from sqlalchemy.util import greenlet_spawn

from {{ cookiecutter.package_name }}.database.connection import ReadOnlyError
from {{ cookiecutter.package_name }}.database.metrics import spent

__all__ = ["ReadOnlyError", "ReadSession", "SessionEndedError", "SessionInUseError", "Sessions"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Params = Mapping[str, Any] | None

# An object that is related to one of the session's, and was not added: it would not be stored.
warnings.filterwarnings("error", "Object of type .* not in session", SAWarning)


class SessionEndedError(Exception):
    """The session's transaction has ended, or not begun: what is asked of it would never be stored."""


class SessionInUseError(Exception):
    """Two tasks used one session at the same time, or something that was asked of it never ran."""


_NOT_BEGUN = "this session has not begun: open it with `async with sessions.begin() as session:`"
_ENDED = (
    "this session has ended with its request: ask for SessionsDep, and open a session of its own "
    "(`async with sessions.begin() as session`) for what comes later"
)
_IN_USE = (
    "another task is using this session: a session does one thing at a time. Ask for SessionsDep and "
    "give each task a session of its own, or read with a ReadSessionDep, which many can use"
)
_NEVER_RAN = (
    "something that was asked of this session never ran: an `await` is missing before it, or nobody "
    "waited for its task"
)
_NOT_YOURS = (
    "a session is committed and closed by who opened it, which a SessionDep does by itself: leave out "
    "close(), `async with session`, and what ends its connection"
)
_ROLLED_BACK = (
    "an exception rolls back, and this one would tell the caller that all went well: return a response, "
    "such as a RedirectResponse, instead of raising it"
)


def _not_yours() -> NoReturn:
    raise SessionInUseError(_NOT_YOURS)


class GuardedSession(Session):
    """Does one thing at a time, and nothing after its end."""

    # The greenlet that is in the middle of something: each call on a task's behalf has one.
    _user: object = None
    over: str = _NOT_BEGUN
    """Why nothing can be asked of it."""
    _refusal: str = ""
    """Why nothing may be committed."""
    waiting = 0
    """What was asked of it and has not run yet."""
    _wrote = False
    _old = False
    """What it has may be older than its transaction."""

    @property
    def uncommitted(self) -> bool:
        """Whether something would be lost without a commit. What a function in a SELECT does can't be seen."""
        return self._wrote or bool(self.new or self.dirty or self.deleted)

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        connection = super().connection(*args, **kwargs)
        connection.commit = _not_yours  # type: ignore[method-assign]
        self._wrote = True  # nobody knows what with it
        return connection

    def get(self, *args: Any, **kwargs: Any) -> Any:
        if self._old and self.autoflush:
            kwargs["populate_existing"] = True
        return super().get(*args, **kwargs)

    def close(self) -> None:
        """Nothing before the end, but for what plain SQLAlchemy would give up without a word."""
        if self.over:
            super().close()
        elif self.uncommitted:
            self._refusal = _NOT_YOURS

    reset = close

    def end(self, *, commit: bool) -> None:
        """Commit or roll back, and close for good. No commit if something is on its way, or was refused."""
        self.over = _ENDED
        if self._user is not None:  # who closes it, too
            if commit:
                raise SessionInUseError(_IN_USE)
            return
        self._user = getcurrent()
        try:
            if commit:
                self.commit()
            else:
                self.rollback()
        finally:
            self.close()
            self._user = None


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: GuardedSession, *args: Any, **kwargs: Any) -> Any:
        user = getcurrent()
        if self._user is user:  # a call within a call
            return method(self, *args, **kwargs)
        if self.over:
            raise SessionEndedError(self.over)
        if self._user is not None:
            self._refusal = _IN_USE
            raise SessionInUseError(_IN_USE)
        self._user = user
        try:
            return method(self, *args, **kwargs)
        finally:
            self._user = None
            if self.over:  # meanwhile
                self.close()

    return guarded


# Everything that AsyncSession hands on and that changes, sends or begins something.
_GUARDED = """
    add add_all begin begin_nested commit connection delete delete_all execute flush get get_one merge
    merge_all refresh rollback scalar scalars bulk_insert_mappings bulk_save_objects bulk_update_mappings
"""
for _name in _GUARDED.split():
    setattr(GuardedSession, _name, _guarded(getattr(GuardedSession, _name)))


@event.listens_for(GuardedSession, "after_begin")
def _lend(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    lent = connection.connection
    if not lent.dbapi_connection.autocommit:  # type: ignore[union-attr]
        lent.driver_connection.lent_to = "session"  # type: ignore[union-attr]


@event.listens_for(GuardedSession, "before_commit")
def _refuse(session: GuardedSession) -> None:
    if session.waiting or session._refusal:
        raise SessionInUseError(session._refusal or _NEVER_RAN)


@event.listens_for(GuardedSession, "after_flush")
def _note(session: GuardedSession, context: object) -> None:
    session._wrote = True


@event.listens_for(GuardedSession, "after_transaction_end")
def _grow_old(session: GuardedSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session._wrote, session._old = False, True


@event.listens_for(GuardedSession, "do_orm_execute")
def _read_anew(state: ORMExecuteState) -> None:
    """Objects that were read before a commit, or before a lock, are as the database has them now. Their
    own changes go there first, by autoflush."""
    session: Any = state.session
    if not state.is_select:
        session._wrote = True
    elif session.autoflush and not state.is_column_load:
        locks = getattr(state.statement, "_for_update_arg", None) is not None
        if session._old or locks:
            state.update_execution_options(populate_existing=True)


class Transaction(AsyncSession):
    """A session that commits at its end, or rolls back on any error."""

    sync_session_class = GuardedSession
    sync_session: GuardedSession

    def __init__(self, engine: AsyncEngine) -> None:
        # Without expire_on_commit=False, reading an attribute after the commit is one more query, which
        # asyncio can't do behind an attribute (MissingGreenlet).
        super().__init__(engine, expire_on_commit=False, close_resets_only=False)

    async def __aenter__(self) -> Self:
        if self.sync_session.over != _NOT_BEGUN:
            raise SessionEndedError(self.sync_session.over or _NOT_YOURS)
        self.sync_session.over = ""
        self._task, self._request = asyncio.current_task(), spent.get()
        if self._request is not None:
            self._request.open.append(self._task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *traceback: object
    ) -> None:
        if self._request is not None:
            self._request.open.remove(self._task)
        # As web frameworks have it: an exception that is an answer.
        well = getattr(error, "status_code", None) in range(400)
        lost = well and self.sync_session.uncommitted
        await greenlet_spawn(self.sync_session.end, commit=kind is None)
        if lost:
            raise SessionEndedError(_ROLLED_BACK) from error


def _counted(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def run(self: Transaction, *args: Any, **kwargs: Any) -> Any:
        self.sync_session.waiting -= 1
        return await method(self, *args, **kwargs)

    @functools.wraps(method)
    def asked(self: Transaction, *args: Any, **kwargs: Any) -> Any:
        if self.sync_session.over:
            raise SessionEndedError(self.sync_session.over)
        self.sync_session.waiting += 1
        return run(self, *args, **kwargs)

    return asked


# A call that nobody awaits does nothing, and says so in a warning at most.
for _name in f"{_GUARDED} run_sync stream stream_scalars".split():
    if inspect.iscoroutinefunction(_method := getattr(AsyncSession, _name, None)):
        setattr(Transaction, _name, _counted(_method))


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
