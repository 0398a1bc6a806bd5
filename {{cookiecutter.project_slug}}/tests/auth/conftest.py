from collections.abc import Iterator
from contextlib import suppress

import asyncpg
import pytest

from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import Issuer
from devstack.issuer import issuer as serve_issuer
from tests.auth.callers import UID
from tests.conftest import Servers
from tests.support import Database, connect


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    with serve_issuer() as it:
        yield it


@pytest.fixture(scope="session")
def settings(database: Database, issuer: Issuer) -> Settings:
    values = {"database_url": database.pooler_url, "supabase_url": issuer.url}
    return Settings.model_validate(values)


@pytest.fixture(scope="session")
async def role(database: Database, servers: Servers) -> str:
    """The role that callers have."""
    async with connect(database.url) as direct:
        if await direct.fetchval("SELECT to_regrole('authenticated') IS NULL"):
            if not servers.ours:
                pytest.skip("there is no role authenticated, and roles are everybody's")
            # Or another worker does.
            with suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                await direct.execute("CREATE ROLE authenticated NOLOGIN NOINHERIT")
    return "authenticated"


@pytest.fixture
async def owned(database: Database, things: str, role: str) -> str:
    """`things`, of which callers have those that are theirs."""
    async with connect(database.url) as direct:
        await direct.execute(
            f"ALTER TABLE {things} ADD owner uuid NOT NULL DEFAULT {UID};"
            f"ALTER TABLE {things} ENABLE ROW LEVEL SECURITY;"
            f"ALTER TABLE {things} FORCE ROW LEVEL SECURITY;"
            f"CREATE POLICY own ON {things} TO {role}"
            f" USING (owner = (SELECT {UID})) WITH CHECK (owner = (SELECT {UID}));"
            f"GRANT USAGE ON SCHEMA {database.scratch} TO {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {things} TO {role}"
        )
    return things
