"""The control: a pooler through which the default configuration works would prove nothing."""

import asyncpg
import pytest
from sqlalchemy import func, literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from {{ cookiecutter.package_name }}.database.url import parse_url

from tests.pooler.backends import occupied, several
from tests.support import Database, connect


async def _tracks_named_statements(pooler_url: str) -> bool:
    """Whether a statement prepared on one backend runs on another one."""
    async with connect(pooler_url) as connection:
        statement = await connection.prepare("SELECT pg_backend_pid()", name="control")
        pid = await statement.fetchval()
        async with occupied(pooler_url, pid):
            try:
                return bool(await statement.fetchval() != pid)
            except asyncpg.InvalidSQLStatementNameError:
                return False


async def test_sqlalchemys_default_engine_fails(database: Database) -> None:
    target = parse_url(database.pooler_url)
    engine = create_async_engine(target.url, connect_args=target.connect_args)
    query = select(func.pg_backend_pid(), literal("control"))
    failure: DBAPIError | None = None
    try:
        async with engine.connect() as connection:
            pid, _ = (await connection.execute(query)).one()
            await connection.commit()
            async with occupied(database.pooler_url, pid):
                try:
                    await connection.execute(query)
                except DBAPIError as error:
                    failure = error
                await connection.rollback()
    finally:
        await engine.dispose()
        async with several(database.pooler_url) as connections:
            for other in connections:
                await other.execute("DEALLOCATE ALL")
    if failure is None and await _tracks_named_statements(database.pooler_url):
        pytest.skip("this pooler tracks named statements, so the default engine works through it")
    assert failure is not None, "the pooler did not move the client: these tests prove nothing"
    assert "prepared statement" in str(failure)
