"""A plugin for pytest in a copy of a service: servers that run already, and are all its own.

`devstack` would start two for each row of the template's `tests/test_breakage.py`.
"""

import asyncio
import os

import asyncpg
import pytest

URLS = os.environ.get("GIVEN_DATABASE_URL", ""), os.environ.get("GIVEN_POOLER_URL", "")


def pytest_configure(config: pytest.Config) -> None:
    import devstack
    from tests import conftest

    # As this service has it: the servers are for both answers of `auth`.
    devstack.make_login(URLS[0])
    config.stash[conftest._servers_key] = conftest.Servers(*URLS, ours=True)


def pytest_unconfigure() -> None:
    """The suite leaves its database to be forgotten with the server."""
    asyncio.run(_drop_databases())


async def _drop_databases() -> None:
    connection = await asyncpg.connect(URLS[0])
    for row in await connection.fetch("SELECT datname FROM pg_database WHERE datname ~ '^test_'"):
        await connection.execute(f"DROP DATABASE {row['datname']} WITH (FORCE)")
    await connection.close()
