"""What a ReadSession takes for a write, and what only looks like one: every way to write it."""

from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import Executable

from orders_api.database.session import ReadOnlyError, ReadSession

from tests.pooler.workload import ScratchThing
from tests.support import Database

COUNT = select(func.count()).select_from(ScratchThing)


@pytest.mark.parametrize(
    "statement",
    [
        insert(ScratchThing).values(name="a", amount=1),
        update(ScratchThing).values(amount=1),
        delete(ScratchThing),
        select(insert(ScratchThing).values(name="a", amount=1).returning(ScratchThing.id).cte()),
        select(ScratchThing).with_for_update(),
        select(ScratchThing.id).with_for_update(read=True),
        text("INSERT INTO scratch.things (name, amount) VALUES ('a', 1)"),
        text("/* SELECT */ DELETE FROM scratch.things"),
        text("WITH gone AS (DELETE FROM scratch.things RETURNING id) SELECT * FROM gone"),
        text("SELECT 1 AS one INTO scratch.copied"),
        text("WITH a AS (SELECT 1) DELETE FROM scratch.things"),
        text('WITH "it\'s" AS (DELETE FROM scratch.things RETURNING 1) SELECT * FROM "it\'s"'),
        text(
            "WITH a AS (WITH b AS (SELECT 1) DELETE FROM scratch.things RETURNING 1) SELECT * FROM a"
        ),
        text("WITH a AS (SELECT 1) UPDATE scratch.things SET amount = 1"),
        text("EXPLAIN ANALYZE CREATE TABLE scratch.copied AS SELECT 1"),
        text("EXPLAIN (ANALYZE) DELETE FROM scratch.things"),
        text("SELECT E'\\'' FROM scratch.things FOR UPDATE -- '"),
        text("SELECT \"set_config\"('a.b', '1', true)"),
        delete(ScratchThing).where(
            ScratchThing.id.in_(select(select(ScratchThing.id).cte("old").c.id))
        ),
        text("SELECT set_config('request.jwt.claims', '1', true)"),
        select(func.pg_advisory_xact_lock(1)),
        text("SET LOCAL statement_timeout = 1"),
        text("BEGIN"),
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


async def test_many_rows_are_refused_too(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    """They take another way through the driver."""
    rows: Any = [{"name": "a", "amount": 1}, {"name": "b", "amount": 2}]
    for statement in (
        insert(ScratchThing),
        text(f"INSERT INTO {things} (name, amount) VALUES (:name, :amount)"),
    ):
        with pytest.raises(ReadOnlyError):
            await ReadSession(engine).execute(statement, rows)
    assert await ReadSession(engine).scalar(COUNT) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'INSERT INTO nowhere; FOR UPDATE' AS updated_at, 1 AS \"update\" -- DELETE FROM",
        "WITH deleted AS (SELECT 1 AS for_update) SELECT for_update FROM deleted",
        "(VALUES (1)) UNION SELECT 2",
        "SHOW statement_timeout",
        "EXPLAIN SELECT 1",
        "EXPLAIN (ANALYZE, COSTS OFF) SELECT 1",
        "/* route=x */ SELECT 1",
        "-- newest first\nSELECT 1",
        "SELECT 1; -- done",
        "SELECT $$INSERT INTO t$$, $a$ DELETE FROM t $a$",
        "TABLE pg_catalog.pg_database",
    ],
)
async def test_what_only_looks_like_a_write_is_read(engine: AsyncEngine, statement: str) -> None:
    assert (await ReadSession(engine).execute(text(statement))).all()
