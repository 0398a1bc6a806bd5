"""Owner-only tables, made by a login that is no superuser, on a server where nobody was before."""

import asyncio
import json
import re
import shutil
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import make_url

from orders_api.database.caller import CALLER_ID

import devstack
from devstack.issuer import USERS
from migrations.owned import LET_CALLERS_IN
from tests.support import ROOT, connect

REVISION = f"""
from alembic import op
from migrations.owned import owner_only
revision, down_revision, branch_labels, depends_on = "1", None, None, None
def upgrade():
    op.execute(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, "
        "owner_id uuid DEFAULT {CALLER_ID}, a text, b text)"
    )
    owner_only("t", writable="a")
def downgrade():
    op.execute("DROP TABLE t")
"""

ALICE, BOB = USERS["alice"], USERS["bob"]


@pytest.fixture(scope="module")
def cluster(servers_are_ours: None) -> Iterator[str]:
    """A PostgreSQL of its own: roles are a server's."""
    with devstack.postgres() as url:
        yield url


@pytest.fixture
async def admin(cluster: str) -> AsyncIterator[asyncpg.Connection]:
    """The superuser. Roles and databases of a test are gone after it."""
    async with connect(cluster) as admin:
        yield admin
        for name in ("one", "two"):
            await admin.execute(f"DROP DATABASE IF EXISTS {name}")
        for name in ("login", "other", "authenticated", "anon"):
            await admin.execute(f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
async def config(
    admin: asyncpg.Connection, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """Alembic's configuration, with one revision, for a `login` that may create roles."""
    await admin.execute("CREATE ROLE login LOGIN CREATEROLE PASSWORD 'login'")
    await admin.execute("CREATE DATABASE one OWNER login")
    monkeypatch.setenv("DATABASE_URL", as_role(cluster, "login"))
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("versions", "__*"))
    (folder / "versions").mkdir()
    (folder / "versions" / "1.py").write_text(REVISION)
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.set_main_option("script_location", str(folder))
    return config


def as_role(cluster: str, role: str, database: str = "one") -> str:
    url = make_url(cluster).set(username=role, password=role, database=database)
    return url.render_as_string(hide_password=False)


@asynccontextmanager
async def calling(url: str, caller: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of a caller's."""
    async with connect(url) as connection, connection.transaction():
        await connection.execute("SELECT set_config('role', 'authenticated', true)")
        query = "SELECT set_config('request.jwt.claims', $1, true)"
        await connection.execute(query, json.dumps({"sub": caller}))
        yield connection


async def rows(connection: asyncpg.Connection, table: str = "t") -> list[str]:
    return [row["a"] for row in await connection.fetch(f"SELECT a FROM {table}")]


async def test_rows_are_their_owners(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    await asyncio.to_thread(command.upgrade, config, "head")
    url = as_role(cluster, "login")
    for caller in (ALICE, BOB):
        async with calling(url, caller) as connection:
            await connection.execute("INSERT INTO t (a) VALUES ($1)", caller)
    async with calling(url, ALICE) as connection:
        assert await rows(connection) == [ALICE]
        assert await connection.execute("UPDATE t SET a = 'c'") == "UPDATE 1"
        assert await connection.execute("DELETE FROM t") == "DELETE 1"
    async with calling(url, BOB) as connection:
        assert await rows(connection) == [BOB]
    async with connect(url) as connection:  # who owns the table, but is nobody's caller
        assert await rows(connection) == []


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO t (a, owner_id) VALUES ('a', '{BOB}')",
        f"UPDATE t SET owner_id = '{BOB}'",
        "UPDATE t SET b = 'b'",
        "INSERT INTO t (b) VALUES ('b')",
        "TRUNCATE t",
    ],
)
async def test_a_caller_writes_only_what_is_granted(
    config: Config, cluster: str, statement: str
) -> None:
    await asyncio.to_thread(command.upgrade, config, "head")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with calling(as_role(cluster, "login"), ALICE) as connection:
            await connection.execute(statement)


async def test_a_policy_holds_what_a_grant_would_allow(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    """Where a later revision grants the owner's column too, say."""
    await asyncio.to_thread(command.upgrade, config, "head")
    url = as_role(cluster, "login")
    async with connect(url) as connection:
        await connection.execute("GRANT ALL ON t TO authenticated")
    for forged in (
        f"INSERT INTO t (owner_id) VALUES ('{BOB}')",
        f"INSERT INTO t (a) VALUES ('a'); UPDATE t SET owner_id = '{BOB}'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with calling(url, ALICE) as connection:
                await connection.execute(forged)


async def test_whoever_is_nobodys_caller_sees_nothing(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    """Also on a server connection that had a caller before, and with a login that has all rights."""
    await asyncio.to_thread(command.upgrade, config, "head")
    async with calling(as_role(cluster, "login"), ALICE) as connection:
        await connection.execute("INSERT INTO t (a) VALUES ('a')")
    await admin.execute("CREATE ROLE other LOGIN PASSWORD 'other'; GRANT authenticated TO other")
    async with connect(as_role(cluster, "other")) as connection:
        async with connection.transaction():
            await connection.execute("SELECT set_config('request.jwt.claims', '{}', true)")
        assert await rows(connection) == []
    await admin.execute("ALTER ROLE other NOINHERIT; REVOKE authenticated FROM other")
    await admin.execute("GRANT authenticated TO other")
    async with connect(as_role(cluster, "other")) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await rows(connection)


async def test_the_login_has_no_rights_of_callers(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    if int(await admin.fetchval("SHOW server_version_num")) < 160000:
        pytest.skip("before PostgreSQL 16 a membership has no such option: the login has NOINHERIT")
    await asyncio.to_thread(command.upgrade, config, "head")
    query = "SELECT pg_has_role('login', 'authenticated', 'USAGE')"
    assert await admin.fetchval(query) is False


async def test_in_a_schema_of_its_own(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    """Which PUBLIC may not use: without USAGE, PostgreSQL would say that there is no such table."""
    url = as_role(cluster, "login")
    async with connect(url) as connection:
        await connection.execute("CREATE SCHEMA s")
    config.cmd_opts = Namespace(x=["schema=s"])
    await asyncio.to_thread(command.upgrade, config, "head")
    async with calling(url, ALICE) as connection:
        assert await rows(connection, "s.t") == []


async def test_printed_sql_does_the_same(config: Config, cluster: str) -> None:
    config.output_buffer = printed = StringIO()
    await asyncio.to_thread(command.upgrade, config, "head", sql=True)
    url = as_role(cluster, "login")
    async with connect(url) as connection:
        await connection.execute(printed.getvalue())
    async with calling(url, ALICE) as connection:
        assert await rows(connection) == []


async def test_what_the_login_may_not_do_is_an_administrators(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    """Who is told what to run, and then it goes on."""
    await admin.execute("ALTER ROLE login NOCREATEROLE")
    with pytest.raises(CommandError, match="login can not let callers in") as caught:
        await asyncio.to_thread(command.upgrade, config, "head")
    told = re.findall("An administrator has to run: (.+)", str(caught.value))[0]
    assert told.startswith("CREATE ROLE authenticated")
    await admin.execute("CREATE ROLE authenticated NOLOGIN NOINHERIT")
    with pytest.raises(
        CommandError, match="An administrator has to run: GRANT authenticated"
    ) as caught:
        await asyncio.to_thread(command.upgrade, config, "head")
    await admin.execute("DROP ROLE authenticated")
    await admin.execute(told)
    await asyncio.to_thread(command.upgrade, config, "head")


async def test_two_databases_make_the_role_at_once(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    await admin.execute("CREATE DATABASE two OWNER login")
    async with (
        connect(as_role(cluster, "login", "one")) as one,
        connect(as_role(cluster, "login", "two")) as two,
    ):
        await one.execute("BEGIN")
        await one.execute(LET_CALLERS_IN)
        waiting = asyncio.create_task(two.execute(LET_CALLERS_IN))
        while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        await one.execute("COMMIT")
        await waiting


async def test_what_was_granted_before_is_taken_away(
    config: Config, admin: asyncpg.Connection, cluster: str
) -> None:
    """By Supabase's defaults, to a table that was made by hand: TRUNCATE asks no policy."""
    await admin.execute("CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN NOINHERIT")
    await admin.execute("GRANT authenticated TO login")
    granted = 'op.execute("GRANT ALL ON t TO anon, authenticated, PUBLIC")\n    owner_only('
    file = Path(config.get_main_option("script_location") or "") / "versions" / "1.py"
    file.write_text(REVISION.replace("owner_only(", granted))
    await asyncio.to_thread(command.upgrade, config, "head")
    query = """
        SELECT rolname, string_agg(privilege, ' ' ORDER BY privilege) FILTER (
            WHERE has_table_privilege(rolname, 't', privilege)
        ) FROM pg_roles, unnest($1::text[]) AS privilege
        WHERE rolname IN ('anon', 'authenticated') GROUP BY rolname ORDER BY rolname
    """
    privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
    async with connect(as_role(cluster, "login")) as connection:
        found = [tuple(row) for row in await connection.fetch(query, privileges)]
    assert found == [("anon", None), ("authenticated", "DELETE SELECT")]
