"""The control: a pooler through which the default configuration works would prove nothing."""

from uuid import uuid4

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
        name = f"control_{uuid4().hex}"  # an earlier run may have left one behind
        statement = await connection.prepare("SELECT pg_backend_pid()", name=name)
        pid = await statement.fetchval()
        async with occupied(pooler_url, pid):
            try:
                return bool(await statement.fetchval() != pid)
            except asyncpg.InvalidSQLStatementNameError:
                return False


async def test_sqlalchemys_default_engine_fails(database: Database, moving: None) -> None:
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
    if await _tracks_named_statements(database.pooler_url):
        # Nothing to tidy up: what is left is the pooler's own, and it counts on it.
        assert failure is None
        pytest.skip("this pooler tracks named statements, so the default engine works through it")
    async with several(database.pooler_url) as connections:
        for other in connections:
            await other.fetch("DEALLOCATE ALL")  # as a simple query some poolers refuse it
    assert failure is not None, "the pooler did not move the client: these tests prove nothing"
    assert "prepared statement" in str(failure)
