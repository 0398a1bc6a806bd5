from collections.abc import AsyncIterator

import pytest

from tests.pooler.backends import several
from tests.support import Database, connect


@pytest.fixture
async def things(database: Database) -> AsyncIterator[str]:
    """An empty table that no migration knows: its qualified name."""
    table = f"{database.scratch}.things"
    async with connect(database.url) as connection:
        await connection.execute(
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " name text NOT NULL, amount bigint NOT NULL)"
        )
        # PgBouncer hands a client to the next backend only once it has opened all it may open.
        async with several(database.pooler_url):
            pass
        yield table
        await connection.execute(f"DROP TABLE {table}")
