"""Migrations, through the pooler and directly, each in a schema of its own."""

import asyncio
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.settings import load_settings

from tests.support import ROOT, Database, connect, server_connections

CONFIG = Config(toml_file=ROOT / "pyproject.toml")


@pytest.fixture
async def empty(database: Database) -> AsyncIterator[str]:
    """A schema that has seen no migration."""
    name = f"test_{uuid4().hex[:12]}"
    async with connect(database.url) as connection:
        await connection.execute(f"CREATE SCHEMA {name}")
        yield name
        await connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["through the pooler", "directly"])
def config(
    request: pytest.FixtureRequest, database: Database, empty: str, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """Alembic's configuration, with the environment that `migrations/env.py` reads."""
    direct = request.param == "directly"
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/not-for-migrations")
    monkeypatch.setenv("DATABASE_MIGRATION_URL", database.url if direct else database.pooler_url)
    return Config(toml_file=ROOT / "pyproject.toml", cmd_opts=Namespace(x=[f"schema={empty}"]))


async def _tables(database: Database, schema: str) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
    async with connect(database.url) as connection:
        return {row["tablename"] for row in await connection.fetch(query, schema)}


async def test_every_revision_goes_up_down_and_up(
    config: Config, database: Database, empty: str
) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()]
    for revision in reversed(revisions):
        await asyncio.to_thread(command.upgrade, config, revision)
        await asyncio.to_thread(command.downgrade, config, "-1")
        await asyncio.to_thread(command.upgrade, config, revision)
    await asyncio.to_thread(command.downgrade, config, "base")
    assert await _tables(database, empty) <= {"alembic_version"}


async def test_the_models_are_what_the_migrations_make(config: Config) -> None:
    await asyncio.to_thread(command.upgrade, config, "head")
    await asyncio.to_thread(command.check, config)


@pytest.mark.parametrize("config", ["through the pooler"], indirect=True)
async def test_three_at_once(
    config: Config, database: Database, empty: str, tmp_path: Path
) -> None:
    """Three replicas start and each migrates: one does the work, none fails.

    A table that is being created, and never will be, holds all three up until they compete.
    """
    async with connect(database.url) as gate, connect(database.url) as watch:
        await gate.execute("BEGIN")
        await gate.execute(f"CREATE TABLE {empty}.alembic_version (version_num text)")
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "{{ cookiecutter.package_name }}", "migrate"),
                *("-x", f"schema={empty}"),
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        async with asyncio.timeout(30):
            held_up = "datname = current_database() AND wait_event_type = 'Lock'"
            while await server_connections(watch, held_up) < 3:
                await asyncio.sleep(0.05)
        await gate.execute("ROLLBACK")
        for process in processes:
            _, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
    assert "alembic_version" in await _tables(database, empty)


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(CONFIG).get_heads()) <= 1


def test_every_revision_gives_up_on_a_lock() -> None:
    """A migration that waits for a lock makes every query behind it wait as well."""
    for revision in (ROOT / "migrations" / "versions").glob("*.py"):
        assert revision.read_text().count("SET LOCAL lock_timeout") == 2, revision.name


def test_offline_sql_needs_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    command.upgrade(CONFIG, "head", sql=True)
    sql = capsys.readouterr().out
    assert sql.startswith("BEGIN;")
    heads = ScriptDirectory.from_config(CONFIG).get_heads()
    assert ("CREATE TABLE alembic_version" in sql) == bool(heads)


async def test_a_migration_may_take_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("DATABASE_COMMAND_TIMEOUT", "0.1")
    engine = create_engine(load_settings(), migrations=True)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.3)"))
    finally:
        await engine.dispose()
