from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from {{ cookiecutter.package_name }}.auth.dependencies import get_user_sessions
from {{ cookiecutter.package_name }}.database.caller import UserSessions
from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import Issuer, serving
from tests.support import Database


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
