"""ReadSession: no transaction, no write, no backend that it keeps, and nothing to misuse."""

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import event, exists, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.sql import Executable

from {{ cookiecutter.package_name }}.database.session import (
    ReadOnlyError,
    ReadSession,
    Sessions,
)
from {{ cookiecutter.package_name }}.settings import Settings

from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, eventually_gone, make_engine, server_connections

COUNT = select(func.count()).select_from(ScratchThing)


async def _insert(database: Database, things: str, amount: int = 1) -> None:
    async with connect(database.url) as direct:
        await direct.execute(f"INSERT INTO {things} (name, amount) VALUES ('a', {amount})")


async def test_a_refused_argument_leaves_no_backend_pinned(
    engine: AsyncEngine, database: Database
) -> None:
    """asyncpg refuses it after Parse and before Sync, and the pooler waits for the rest: three of
    these blocked every other client of a pool of three."""
    mark = f"pinned_{uuid4().hex}"
    for _ in range(3):
        with pytest.raises(DBAPIError, match="SQLSTATE 22000"):
            query = text(f"SELECT CAST(:n AS int4) AS {mark}")
            await ReadSession(engine).execute(query, {"n": 2**40})
    async with connect(database.url) as direct:
        begun = f"query LIKE '%{mark}' AND state <> 'idle'"
        assert await server_connections(direct, begun) == 0


async def test_a_write_after_a_read_has_its_transaction(
    settings: Settings, database: Database, things: str
) -> None:
    """On the same connection, which was in AUTOCOMMIT a moment ago."""
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine:
        read = ReadSession(engine)
        assert await read.scalar(COUNT) == 0
        with pytest.raises(ZeroDivisionError):
            async with Sessions(engine).begin() as session:
                await session.execute(insert(ScratchThing).values(name="a", amount=1))
                raise ZeroDivisionError
        assert await read.scalar(COUNT) == 0


@pytest.mark.parametrize(
    "statement",
    [
        insert(ScratchThing).values(name="a", amount=1),
        select(ScratchThing).with_for_update(),
        text("WITH gone AS (DELETE FROM scratch.things RETURNING id) SELECT * FROM gone"),
        text("SELECT set_config('request.jwt.claims', '1', true)"),
    ],
    ids=str,
)
async def test_a_write_or_a_lock_is_refused(
    engine: AsyncEngine, database: Database, things: str, statement: Executable
) -> None:
    """Before anything is sent: by itself it would be stored at once, or lock and set nothing."""
    read = ReadSession(engine)
    with pytest.raises(ReadOnlyError, match="ask for a SessionDep"):
        await read.execute(statement)
    assert await read.scalar(COUNT) == 0


async def test_what_only_looks_like_a_write_is_read(engine: AsyncEngine) -> None:
    for statement in (
        "SELECT 'INSERT INTO nowhere; FOR UPDATE' AS updated_at -- DELETE FROM",
        "WITH deleted AS (SELECT 1 AS for_update) SELECT for_update FROM deleted",
        "EXPLAIN SELECT 1",
    ):
        assert (await ReadSession(engine).execute(text(statement))).all()


@pytest.mark.parametrize(
    "name", ["add", "add_all", "delete", "merge", "flush", "commit", "begin", "stream", "refresh"]
)
async def test_there_is_no_way_to_write(engine: AsyncEngine, name: str) -> None:
    """A 201 for a row that nobody stores; a type checker says so before."""
    with pytest.raises(ReadOnlyError, match=rf"no {name}\(\): ask for a SessionDep"):
        getattr(ReadSession(engine), name)


async def test_what_was_read_can_not_be_changed(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    """The change would be stored nowhere. Nor after the end of the session that could have stored it."""
    await _insert(database, things)
    read = ReadSession(engine)
    by_reading = (await read.scalars(select(ScratchThing))).one()
    assert (await read.get(ScratchThing, by_reading.id)) is not None
    async with Sessions(engine).begin() as session:
        late = (await session.scalars(select(ScratchThing))).one()
        late.amount = 2
    for thing in (by_reading, late):
        with pytest.raises(ReadOnlyError, match=r"ScratchThing\.amount can't be changed"):
            thing.amount = 3
    async with Sessions(engine).begin() as session:
        session.add(by_reading)
        by_reading.amount = 4
    assert await read.scalar(select(ScratchThing.amount)) == 4


async def test_every_statement_is_a_transaction_of_its_own(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    read = ReadSession(engine)
    async with connect(database.url) as writer:
        assert await read.scalar(COUNT) == 0
        await _insert(database, things)
        assert await read.scalar(COUNT) == 1
        await eventually_gone(
            writer, "datname = current_database() AND state LIKE 'idle in transaction%'"
        )


async def test_many_tasks_use_one(settings: Settings, database: Database, things: str) -> None:
    """Each statement has a connection of its own, for no longer than it runs; cold, then warm."""
    await _insert(database, things, 7)
    async with make_engine(settings, database) as engine:
        read = ReadSession(engine)
        for _ in range(2):
            reads = (read.scalar(select(ScratchThing.amount)) for _ in range(40))
            assert await asyncio.gather(*reads) == [7] * 40
            entities = (read.scalars(select(ScratchThing)) for _ in range(40))
            assert all(found.one().amount == 7 for found in await asyncio.gather(*entities))
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_result_is_complete(engine: AsyncEngine, database: Database, things: str) -> None:
    """Its connection serves somebody else by the time that the rows are looked at."""
    for amount in range(3):
        await _insert(database, things, amount)
    read = ReadSession(engine)
    query = select(ScratchThing.__table__.c.amount).order_by(ScratchThing.__table__.c.amount)
    one, two = await read.execute(query), await read.execute(query)
    assert (one.first(), two.scalars().all()) == ((0,), [0, 1, 2])
    assert isinstance((await read.execute(select(ScratchThing))).scalars().all()[0], ScratchThing)
    for statement in (query, select(ScratchThing.amount).order_by(ScratchThing.amount)):
        batches = await read.execute(statement.execution_options(yield_per=2))
        assert [len(batch) for batch in batches.partitions(2)] == [2, 1]


async def test_reading_is_the_orms(engine: AsyncEngine, database: Database, things: str) -> None:
    """Its checks and an owner's criteria count, for a statement without entities too."""
    await _insert(database, things)
    read = ReadSession(engine)

    def only_others(state: ORMExecuteState) -> None:
        state.statement = state.statement.options(
            with_loader_criteria(ScratchThing, ScratchThing.amount != 1)
        )

    event.listen(Session, "do_orm_execute", only_others)
    try:
        assert await read.scalar(select(exists().where(ScratchThing.amount == 1))) is False
        assert (await read.execute(select(ScratchThing.amount))).all() == []
        assert (await read.scalars(select(ScratchThing))).all() == []
    finally:
        event.remove(Session, "do_orm_execute", only_others)
    assert (await read.execute(select(ScratchThing.amount))).all() == [(1,)]
