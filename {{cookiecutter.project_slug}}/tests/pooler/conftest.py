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
def one_backend(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the same database through a pooler that has one backend only."""
    monkeypatch.setenv("ONE_BACKEND", database.url)
    # 5 s: the default of 120 is how long a client would wait for a backend that is kept from it.
    limits = ("--set", "default_pool_size=1", "--set", "query_wait_timeout=5")
    with devstack.running("--pooler-for", "ONE_BACKEND", *limits) as stack:
        yield stack.pooler_url
