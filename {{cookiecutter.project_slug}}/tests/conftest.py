"""A real PostgreSQL behind a real transaction-mode pooler, for every test.

Without any setting, `devstack` starts both. With TEST_DATABASE_URL and TEST_POOLER_URL the suite runs
against servers that are there already, your own Supabase project for instance, and touches nothing
outside a schema of its own.
"""

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings

import devstack
from tests.pooler.backends import several
from tests.support import ROOT, Database, connect, make_engine, running, work_in

# The strictest pooler there is: it hands every transaction to the next of three backends. A pooler
# that reuses the last one hides a broken configuration from a lone client.
STRICT_POOLER = {"server_round_robin": 1, "default_pool_size": 3}

# How many the tests need at once: a pool of 10, and some that look on.
CLIENTS = 15


@dataclass(frozen=True)
class Servers:
    database_url: str
    """PostgreSQL itself, for who migrates and makes tables up."""
    pooler_url: str
    """The same database through the pooler, for the service: as another role, where the servers are ours."""
    ours: bool
    """Whether we may create and drop databases."""


_servers_key = pytest.StashKey[Servers]()


def _servers(config: pytest.Config) -> Servers:
    """The servers of this run, started when they are first needed."""
    if hasattr(config, "workerinput"):
        return Servers(**config.workerinput["servers"])
    if _servers_key not in config.stash:
        config.stash[_servers_key] = _find_servers(config)
    return config.stash[_servers_key]


def _find_servers(config: pytest.Config) -> Servers:
    database_url = os.environ.get("TEST_DATABASE_URL")
    pooler_url = os.environ.get("TEST_POOLER_URL")
    if database_url and pooler_url:
        return Servers(database_url, pooler_url, ours=False)
    if pooler_url:
        pytest.exit("TEST_POOLER_URL needs TEST_DATABASE_URL, the same database without it", 1)
    stack = ExitStack()
    config.add_cleanup(stack.close)
    try:
        url = database_url or stack.enter_context(devstack.postgres())
        login = database_url or devstack.make_login(url)
        pooler_url = stack.enter_context(devstack.pgbouncer(login, **STRICT_POOLER))
    except devstack.DevstackError as error:
        pytest.exit(f"{error}\nOr set TEST_DATABASE_URL and TEST_POOLER_URL.", 1)
    return Servers(url, pooler_url, ours=database_url is None)


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process on servers that others use too: two that hold backends, until the pooler gives
    them the one they need, may wait for ever. Otherwise two a core, since a third of the time is waiting,
    as far as one PostgreSQL goes."""
    cores = yield
    return 0 if "TEST_DATABASE_URL" in os.environ else min(2 * cores, 8)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the servers once, in xdist's controller, and tell each worker where they are."""
    servers = _servers(node.config)
    if not servers.ours:
        pytest.exit("TEST_DATABASE_URL is one database for all tests: leave out -n", 1)
    node.workerinput["servers"] = asdict(servers)


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    return _servers(pytestconfig)


@pytest.fixture(scope="session")
def servers_are_ours(servers: Servers) -> None:
    """For a test that would harm others: wrong passwords lock out every client of a Supavisor, and a
    role's setting is everybody's."""
    if not servers.ours:
        pytest.skip("this test could harm others, so it is not for servers that others use")


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Tests say what they run with: not the shell, and no `.env` file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Settings.model_config, "env_file", None)
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
{%- if cookiecutter.auth == "supabase" %}
        patch.setenv("SUPABASE_URL", "http://127.0.0.1")  # where no issuer is
{%- endif %}
        for name in set(os.environ) - {"PG_BINDIR", "PGBOUNCER_BIN"}:
            if name.startswith("PG"):  # asyncpg takes them, for what a test does not tell it
                patch.delenv(name)
        for name in ("NO_PROXY", "no_proxy"):  # a company's proxy can't reach this machine
            patch.setenv(name, "127.0.0.1", prepend=",")
        # With it, each process that a test starts would compile everything again: 4 s instead of 1.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session")
async def database(servers: Servers) -> AsyncIterator[Database]:
    """A database for this worker, migrated by Alembic as the real one is."""
    name = f"test_{uuid4().hex[:12]}"
    if servers.ours:
        database = Database(
            _in_database(servers.database_url, name),
            _in_database(servers.pooler_url, name),
            schema=None,
            scratch="scratch",
        )
        async with connect(servers.database_url) as admin:
            await admin.execute(f"CREATE DATABASE {name}")
    else:
        database = Database(servers.database_url, servers.pooler_url, schema=name, scratch=name)
        await _skip_without_room(servers.pooler_url)
    async with connect(database.url) as connection, connect(database.pooler_url) as service:
        await connection.execute(f"CREATE SCHEMA {database.scratch}")
        who = "SELECT quote_ident(current_user)"
        login = await service.fetchval(who)
        if login != await connection.fetchval(who):
            own = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {database.scratch} GRANT ALL ON"
            await connection.execute(f"GRANT ALL ON SCHEMA {database.scratch} TO {login}")
            for kind in ("TABLES", "SEQUENCES"):
                await connection.execute(f"{own} {kind} TO {login}")
    await asyncio.to_thread(_migrate, database)
    yield database
    if not servers.ours:
        async with connect(database.url) as connection:
            await connection.execute(f"DROP SCHEMA {database.scratch} CASCADE")


async def _skip_without_room(pooler_url: str) -> None:
    """In session mode a pooler takes no more clients than its pool has connections."""
    async with AsyncExitStack() as clients:
        for number in range(CLIENTS):
            try:
                client = await clients.enter_async_context(connect(pooler_url))
                await client.fetchval("SELECT 1")
            except (TimeoutError, asyncpg.PostgresError) as error:
                if number == 0:
                    raise
                pytest.skip(f"the pooler takes {number} of {CLIENTS} clients at once: {error!r}")


def _in_database(url: str, name: str) -> str:
    # Our own servers offer no TLS, and to ask for it costs a round trip.
    target = make_url(url).set(database=name, query={"sslmode": "disable"})
    return target.render_as_string(hide_password=False)


def _migrate(database: Database) -> None:
    x = [f"schema={database.schema}"] if database.schema else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", database.pooler_url)
        patch.setenv("DATABASE_MIGRATION_URL", database.url)
        command.upgrade(Config(toml_file=ROOT / "pyproject.toml", cmd_opts=Namespace(x=x)), "head")


@pytest.fixture
async def things(database: Database) -> AsyncIterator[str]:
    """The qualified name of an empty table that no migration knows: of `tests.pooler.workload.ScratchThing`."""
    table = f"{database.scratch}.things"
    async with connect(database.url) as connection:
        await connection.execute(
            f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " name text NOT NULL, amount bigint NOT NULL, changes int NOT NULL DEFAULT 0)"
        )
        # PgBouncer hands a client to the next backend only once it has opened all it may open.
        async with several(database.pooler_url):
            pass
        yield table
        await connection.execute(f"DROP TABLE {table}")


@pytest.fixture(scope="session")
def settings(database: Database) -> Settings:
    """The service's settings, through the pooler. At their defaults, but some tests ask a lot at once."""
    values = {"database_url": database.pooler_url, "requests_per_connection": 100}
    return Settings.model_validate(values)


@pytest.fixture
async def engine(settings: Settings, database: Database) -> AsyncIterator[AsyncEngine]:
    """The service's engine."""
    async with make_engine(settings, database) as engine:
        yield engine


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    """The service, which a test may add routes to. `running(app)` opens it."""
    app = create_app(settings)
    if database.schema:
        work_in(app, database.schema)
    return app


@pytest.fixture
async def client(app: FastAPI, database: Database) -> AsyncIterator[AsyncClient]:
    """A client of the service, as it runs in production: the same sessions, through the pooler, and
    real commits. The tables are emptied afterwards.

    It can't show what the server in front does, since requests come without a socket: for a client
    that hangs up, use `serving(app)`. Rows that a migration put into a table are gone too.
    """
    async with running(app) as client:
        yield client
    schema = f'"{database.schema}".' if database.schema else ""
    ours = [it.name for it in Base.metadata.tables.values() if it.schema is None]
    if names := ", ".join(f'{schema}"{it}"' for it in ours):
        async with connect(database.url) as direct:
            # Not DELETE, from which row-level security hides rows where this is the tables' owner.
            await direct.execute(f"TRUNCATE {names}")
