"""Sessions: one for each request, job or script."""

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

Sessions = async_sessionmaker[AsyncSession]


class ReadOnlyError(Exception):
    """A session for reading was asked to write: use one that has a transaction."""

    def __init__(self) -> None:
        super().__init__("this session reads only: ask for a SessionDep to write")


class _ReadSession(Session):
    pass


@event.listens_for(_ReadSession, "do_orm_execute")
def _refuse_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise ReadOnlyError


@event.listens_for(_ReadSession, "before_flush")
def _refuse_flush(session: Session, context: UOWTransaction, instances: object) -> None:
    raise ReadOnlyError


@event.listens_for(_ReadSession, "after_begin")
def _autocommit(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    # Before the first statement, with which BEGIN would go out. SQLAlchemy's own way, an engine with
    # another isolation level, costs a read 183 function calls (counted with 2.1.9).
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.autocommit = True


def _end_autocommit(
    connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
) -> None:
    connection.autocommit = False


def session_maker(engine: AsyncEngine) -> Sessions:
    """Make sessions that read and write.

    `async with sessions.begin() as session:` is one transaction: it takes a connection at the first
    statement and not before, commits at the end, and rolls back on any error.
    """
    # Without expire_on_commit=False, reading an attribute after the commit is one more query, which
    # asyncio can't do behind an attribute (MissingGreenlet).
    return async_sessionmaker(engine, expire_on_commit=False)


def read_session_maker(engine: AsyncEngine) -> Sessions:
    """Make sessions that only read, in AUTOCOMMIT: 2 round trips for a statement instead of 4.

    Every statement is a transaction of its own, so two of them may see different data, and a pooler
    may serve them from different backends. INSERT, UPDATE, DELETE and changed objects are refused
    with `ReadOnlyError` before anything is sent. That guards against mistakes and is no boundary: textual
    SQL, functions and a Core connection are not looked into, since to have PostgreSQL itself refuse
    would cost the round trips that this saves. `FOR UPDATE` locks nothing here, and `stream()` needs a
    transaction.
    """
    if not event.contains(engine.pool, "reset", _end_autocommit):
        event.listen(engine.pool, "reset", _end_autocommit)
    return async_sessionmaker(engine, sync_session_class=_ReadSession, expire_on_commit=False)
