"""A migration changes a column's type while pooled connections live."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from {{ cookiecutter.package_name }}.settings import Settings

from tests.support import Database, connect, make_engine


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
async def test_the_answer_is_right_or_an_error_but_never_garbage(
    settings: Settings, database: Database, things: str, isolation_level: str
) -> None:
    """With SQLAlchemy's cache on, a read returned 4631248529308778496 for 43.0 and a write of 44
    stored 2.17e-322, without an error, for as long as the connection lived."""
    read = text(f"SELECT amount FROM {things} WHERE name = 'read'")
    write = text(f"UPDATE {things} SET amount = :amount WHERE name = 'written'")
    one = settings.model_copy(update={"database_pool_size": 1})

    async with make_engine(one, database) as engine, connect(database.url) as migration:
        await migration.execute(
            f"INSERT INTO {things} (name, amount) VALUES ('read', 43), ('written', 43)"
        )
        engine = engine.execution_options(isolation_level=isolation_level)
        for _ in range(3):
            async with engine.begin() as connection:
                assert await connection.scalar(read) == 43
                await connection.execute(write, {"amount": 43})

        await migration.execute(f"ALTER TABLE {things} ALTER amount TYPE double precision")

        for _ in range(3):
            try:
                async with engine.begin() as connection:
                    assert await connection.scalar(read) == 43.0
            except DBAPIError:
                pass
            try:
                async with engine.begin() as connection:
                    await connection.execute(write, {"amount": 44})
            except DBAPIError:
                pass
            query = f"SELECT amount FROM {things} WHERE name = 'written'"
            assert await migration.fetchval(query) in (43.0, 44.0)
