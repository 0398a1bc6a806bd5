from collections.abc import Callable, Iterator
from contextlib import suppress

import asyncpg
import pytest
from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from {{ cookiecutter.package_name }}.auth import keys
from {{ cookiecutter.package_name }}.auth.dependencies import get_user_sessions
from {{ cookiecutter.package_name }}.database.caller import UserSessions
from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import Issuer, serving
from tests.auth.callers import UID
from tests.auth.issuers import Clock
from tests.conftest import Servers
from tests.support import Database, connect


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """The issuer of the service under test. A test that changes its keys makes one of its own."""
    issuer = Issuer()
    with serving(issuer):
        yield issuer


@pytest.fixture(scope="session")
def settings(database: Database, issuer: Issuer) -> Settings:
    values = {"database_url": database.pooler_url, "supabase_url": issuer.url}
    return Settings.model_validate(values)


@pytest.fixture
def app(app: FastAPI, database: Database) -> FastAPI:
    """With callers' sessions in the schema that the tests have to themselves."""

    def work_in_schema(connection: HTTPConnection) -> UserSessions:
        engine = connection.state.engine
        tables = {None: database.schema, "scratch": database.schema}
        return UserSessions(engine.execution_options(schema_translate_map=tables))

    if database.schema:
        app.dependency_overrides[get_user_sessions] = work_in_schema
    return app


@pytest.fixture
def bearer(issuer: Issuer) -> Callable[[str], dict[str, str]]:
    """The headers of a user, by name or id."""
    return lambda user: {"Authorization": f"Bearer {issuer.token(user)}"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys, "monotonic", clock)
    return clock


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
