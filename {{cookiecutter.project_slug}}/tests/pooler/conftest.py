from collections.abc import Iterator

import pytest

import devstack
from tests.pooler.backends import keeps_its_backend
from tests.support import Database


@pytest.fixture(scope="session")
async def moving(database: Database) -> None:
    """For a test that has its client moved to another backend."""
    if await keeps_its_backend(database.pooler_url):
        pytest.skip("this pooler is in session mode, in which a client keeps its backend")


@pytest.fixture
def one_backend(database: Database) -> Iterator[str]:
    """The URL of the same database through a PgBouncer of our own, which has one backend only.

    A test with this proves nothing about the pooler at TEST_POOLER_URL. Others of that kind: a pooler
    that is full or refuses to wait would be so for everybody, and one without TLS or a unix socket
    gets neither for a test; in `faults` servers are stopped.
    """
    # 5 s: the default of 120 is how long a client would wait for a backend that is kept from it.
    with devstack.pgbouncer(database.url, default_pool_size=1, query_wait_timeout=5) as url:
        yield url
