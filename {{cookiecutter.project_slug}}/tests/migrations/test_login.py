"""What the service's login may do, where another role migrates: as in `dev`, and here."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, Integer, Table, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.report import log_failure

import devstack
from tests.migrations.test_migrations import config, empty, other, revise
from tests.support import Database, connect

__all__ = ["config", "empty", "other"]

directly = pytest.mark.parametrize("config", ["directly"], indirect=True)

NAMES = ("test_new", "test_given", "test_owned")
CREATED = (
    *(f"CREATE TABLE {name} (id serial PRIMARY KEY)" for name in (*NAMES, "test_unknown")),
    "ALTER TABLE test_owned ENABLE ROW LEVEL SECURITY",
    "CREATE VIEW test_view AS SELECT 1 AS id",
)
MAY = """
    SELECT name, privilege FROM unnest($2::text[]) AS name,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
    WHERE has_table_privilege($1, name, privilege)
"""


@pytest.fixture(autouse=True)
def models(servers_are_ours: None) -> Iterator[None]:
    tables = [Table(it, Base.metadata, Column("id", Integer, primary_key=True)) for it in NAMES]
    yield
    for table in tables:
        Base.metadata.remove(table)


@pytest.fixture
def login(empty: Database, monkeypatch: pytest.MonkeyPatch) -> str | None:
    name = make_url(empty.pooler_url).username
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{name}:p@127.0.0.1:1/d")
    return name


@directly
@pytest.mark.parametrize("project", ["", ".project"])
async def test_it_may_use_the_tables_of_models(
    other: Config, empty: Database, monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    """Or else what works for who migrates would be refused in production. Supavisor's users have their
    project in them."""
    login = make_url(empty.pooler_url)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{login.username}{project}:p@127.0.0.1:1/d")
    # What everybody may is not all that the service needs.
    revise(other, "1", None, *CREATED, "GRANT SELECT ON test_given TO PUBLIC")
    file = revise(other, "2", "1", "CREATE VIEW test_gone AS SELECT 1 AS id")
    asked = "    for it in ('view', 'gone'): grant_login(f'SELECT ON test_{it}')\ndef downgrade"
    lines = file.read_text().replace("def downgrade", asked)
    file.write_text(f"from migrations.login import grant_login\n{lines}")
    revise(other, "3", "2", "DROP VIEW test_gone")
    await asyncio.to_thread(command.upgrade, other, "head")
    names = [*NAMES, "test_unknown", "test_view", "alembic_version"]
    async with connect(empty.url) as admin:
        found = {tuple(row) for row in await admin.fetch(MAY, login.username, names)}
    used = {("test_new", it) for it in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    given = {("test_given", it) for _, it in used}
    assert found == {*used, *given, ("test_view", "SELECT"), ("alembic_version", "SELECT")}
    own = make_url(empty.url).set(username=login.username, password=login.password)
    async with connect(own.render_as_string(hide_password=False)) as service:
        assert await service.fetchval("INSERT INTO test_new DEFAULT VALUES RETURNING id") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):  # a policy is what lets anybody in
            await service.execute("SELECT FROM test_owned")


@directly
async def test_what_was_granted_stays_as_it_is(
    other: Config, empty: Database, login: str | None
) -> None:
    revise(other, "1", None, *CREATED, f"GRANT INSERT (id) ON test_given TO {login}")
    for _ in range(2):
        await asyncio.to_thread(command.upgrade, other, "head")
    async with connect(empty.url) as admin:
        assert not await admin.fetch(MAY, login, ["test_given"])


@directly
async def test_who_only_looks_grants_nothing(
    other: Config, empty: Database, login: str | None
) -> None:
    revise(other, "1", None, *CREATED)
    await asyncio.to_thread(command.upgrade, other, "head")
    async with connect(empty.url) as admin:
        await admin.execute(f"REVOKE ALL ON test_new FROM {login}")
        await asyncio.to_thread(command.current, other)
        assert not await admin.fetch(MAY, login, ["test_new"])


async def test_the_log_says_what_was_refused(
    engine: AsyncEngine, database: Database, things: str
) -> None:
    """A GRANT that is missing, or a caller who was forgotten: SQLSTATE 42501 does not say of what."""
    async with connect(database.url) as admin:
        await admin.execute(f"REVOKE ALL ON {things} FROM {make_url(database.pooler_url).username}")
    with pytest.raises(DBAPIError) as refusal:
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT id FROM {things}"))
    with capture_logs() as lines:
        log_failure(refusal.value)
    assert lines[0]["hint"] == "permission denied for table things"


async def test_the_login_of_dev_is_an_ordinary_one() -> None:
    """For a superuser no privilege and no policy holds: nothing of what production refuses would be seen.
    Also in a database that an earlier `dev` has left."""
    query = "SELECT rolsuper OR rolbypassrls OR rolinherit FROM pg_roles WHERE rolname = 'service'"
    with devstack.postgres() as url:
        async with connect(url) as admin:
            for _ in range(2):
                login = await asyncio.to_thread(devstack.make_login, url)
                async with connect(login) as service:
                    assert await service.fetchval(query) is False
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await service.execute("CREATE TABLE test_owned (id int)")
                await admin.execute("ALTER ROLE service SUPERUSER BYPASSRLS INHERIT")
