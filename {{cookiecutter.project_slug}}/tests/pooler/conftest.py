from collections.abc import AsyncIterator, Iterator

import pytest

import devstack
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


@pytest.fixture
def one_backend(database: Database) -> Iterator[str]:
    """The URL of the same database through a pooler that has one backend only."""
    # 5 s: the default of 120 is how long a client would wait for a backend that is kept from it.
    with devstack.pgbouncer(database.url, default_pool_size=1, query_wait_timeout=5) as url:
        yield url
