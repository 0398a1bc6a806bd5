"""Migrations, through the pooler and directly, each in a schema of its own."""

import asyncio
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, Table, Text, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.report import log_failure
from {{ cookiecutter.package_name }}.settings import load_settings

from tests.support import ROOT, Database, connect, server_connections

# Alembic can't compare what a column is computed from, and says that the two differ where they do not.
pytestmark = pytest.mark.filterwarnings("ignore:Computed default")

CONFIG = Config(toml_file=ROOT / "pyproject.toml")

REVISION = """
from contextlib import nullcontext
from alembic import op
revision, down_revision, branch_labels, depends_on = {revision!r}, {before!r}, None, None
def upgrade():
    for statement in {statements!r}:
        alone = "CONCURRENTLY" in statement
        with op.get_context().autocommit_block() if alone else nullcontext():
            op.execute(statement)
def downgrade():
    pass
"""


@pytest.fixture
async def empty(database: Database) -> AsyncIterator[Database]:
    """What has seen no migration: a database, or on servers that others use a schema."""
    name = f"test_{uuid4().hex[:12]}"
    ours = database.schema is None
    async with connect(database.url) as connection:
        await connection.execute(f"CREATE {'DATABASE' if ours else 'SCHEMA'} {name}")
        if ours:
            urls = (database.url, database.pooler_url)
            new = [make_url(url).set(database=name) for url in urls]
            url, pooler_url = (it.render_as_string(hide_password=False) for it in new)
            # The service's, which migrates it through the pooler.
            login = new[1].username
            await connection.execute(f"ALTER DATABASE {name} OWNER TO {login}")
            async with connect(url) as inside:
                await inside.execute(f"ALTER SCHEMA public OWNER TO {login}")
            yield Database(url, pooler_url, schema=None, scratch="public")
        else:
            yield replace(database, schema=name, scratch=name)
            await connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["through the pooler", "directly"])
def config(
    request: pytest.FixtureRequest, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """Alembic's configuration, with the environment that `migrations/env.py` reads."""
    direct = request.param == "directly"
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/not-for-migrations")
    monkeypatch.setenv("DATABASE_MIGRATION_URL", empty.url if direct else empty.pooler_url)
    x = [f"schema={empty.schema}"] if empty.schema else []
    return Config(toml_file=ROOT / "pyproject.toml", cmd_opts=Namespace(x=x))


@pytest.fixture
def other(config: Config, tmp_path: Path) -> Config:
    """The same without the revisions, for those that a test makes up."""
    folder = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("versions", "__*"))
    (folder / "versions").mkdir()
    config.set_main_option("script_location", str(folder))
    return config


def revise(config: Config, revision: str, before: str | None, *statements: str) -> Path:
    file = Path(config.get_main_option("script_location") or "") / "versions" / f"{revision}.py"
    file.write_text(REVISION.format(revision=revision, before=before, statements=statements))
    return file


async def _tables(database: Database, schema: str) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
    async with connect(database.url) as connection:
        return {row["tablename"] for row in await connection.fetch(query, schema)}


async def test_every_revision_goes_up_down_and_up(config: Config, empty: Database) -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()]
    for revision in reversed(revisions):
        await asyncio.to_thread(command.upgrade, config, revision)
        await asyncio.to_thread(command.downgrade, config, "-1")
        await asyncio.to_thread(command.upgrade, config, revision)
    await asyncio.to_thread(command.downgrade, config, "base")
    assert await _tables(empty, empty.schema or "public") <= {"alembic_version"}


# What Alembic does not compare, or by its name only, as it is in the first schema of the search path.
DETAILS = """
    SELECT conrelid::regclass || ' ' || conname AS name,
           replace(pg_get_constraintdef(oid), ' NOT VALID', '') AS definition
    FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND contype IN ('c', 'x')
    UNION ALL
    SELECT typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder)
    FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid
    WHERE typnamespace = current_schema()::regnamespace GROUP BY typname
    UNION ALL
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 0, true)
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = current_schema()::regnamespace
    UNION ALL
    SELECT attrelid::regclass || ' ' || attname, pg_get_expr(adbin, adrelid)
    FROM pg_attrdef JOIN pg_attribute ON (attrelid, attnum) = (adrelid, adnum)
    JOIN pg_class ON pg_class.oid = adrelid WHERE relnamespace = current_schema()::regnamespace
"""


async def test_the_models_are_what_the_migrations_make(config: Config, empty: Database) -> None:
    """A column, but also a member of an enum, or what a constraint says."""
    await asyncio.to_thread(command.upgrade, config, "head")
    try:
        await asyncio.to_thread(command.check, config)
    except CommandError as error:
        error.add_note('uv run alembic revision --autogenerate -m "..."')
        raise
    engine = create_engine(load_settings(), migrations=True)
    details: list[dict[str, str]] = []
    try:
        async with engine.connect() as connection:  # never committed
            await connection.execute(text("CREATE SCHEMA test_models"))
            for schema in (empty.schema or "public", "test_models"):
                path = f"SELECT set_config('search_path', '{schema}, public', true)"
                await connection.execute(text(path))
                if schema == "test_models":
                    ours = [it for it in Base.metadata.sorted_tables if it.schema is None]
                    await connection.run_sync(Base.metadata.create_all, ours, checkfirst=False)
                found = await connection.execute(text(DETAILS))
                details.append({it.name: it.definition for it in found})
    finally:
        await engine.dispose()
    made, wanted = details
    differ = [
        f"{it}: {made.get(it)} should be {wanted[it]}"
        for it in wanted
        if made.get(it) != wanted[it]
    ]
    assert not differ, "see Revisions in CONTRIBUTING.md: " + "; ".join(differ)


@pytest.mark.parametrize("config", ["through the pooler"], indirect=True)
async def test_three_at_once(config: Config, empty: Database, tmp_path: Path) -> None:
    """Three replicas start and each migrates: one does the work, none fails, and two say what they
    wait for.

    A table that is being created, and never will be, holds the first up until the others wait.
    """
    schema = empty.schema or "public"
    async with connect(empty.url) as gate, connect(empty.url) as watch:
        await gate.execute("BEGIN")
        await gate.execute(f"CREATE TABLE {schema}.alembic_version (version_num text)")
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "{{ cookiecutter.package_name }}", "migrate"),
                *("-x", f"schema={schema}"),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        async with asyncio.timeout(30):
            waiting = (
                "datname = current_database() AND query ~ 'pg_try_advisory' AND state ~ 'idle in'"
            )
            while await server_connections(watch, waiting) < 2:
                await asyncio.sleep(0.05)
        await gate.execute("ROLLBACK")
        told = 0
        for process in processes:
            output, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            told += b"Another process migrates this database: waiting for it." in output
        assert told == 2
        assert "alembic_version" in await _tables(empty, schema)


OTHERS = """
    CREATE SCHEMA test_elsewhere CREATE TABLE users (id uuid PRIMARY KEY);
    CREATE TYPE test_kind AS ENUM ('a');
    CREATE TABLE test_others (
        id serial PRIMARY KEY,
        kind test_kind UNIQUE CHECK (kind <> 'a'),
        user_id uuid REFERENCES test_elsewhere.users
    );
    CREATE INDEX ON test_others (user_id);
    CREATE VIEW test_view AS SELECT id FROM test_others;
"""


@pytest.mark.parametrize("config", ["directly"], indirect=True)
async def test_what_no_model_knows_is_left_alone(
    config: Config, empty: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Supabase's `public` has tables of extensions and of other services: autogenerate dropped them."""
    await asyncio.to_thread(command.upgrade, config, "head")
    async with connect(empty.url) as connection:
        only = f"CREATE TABLE {empty.schema}.test_others (id int)"
        await connection.execute(only if empty.schema else OTHERS)
    named = Table("buckets", Base.metadata, schema="test_storage")
    try:
        await asyncio.to_thread(command.check, config)
        assert config.cmd_opts
        config.cmd_opts.autogenerate = True
        written = await asyncio.to_thread(
            command.revision, config, "nothing", True, version_path=str(tmp_path)
        )
    finally:
        Base.metadata.remove(named)
    assert written == []
    assert "No revision was written" in caplog.text


@pytest.mark.parametrize("config", ["directly"], indirect=True)
async def test_a_default_that_is_null_now_is_no_difference(config: Config, empty: Database) -> None:
    """PostgreSQL is asked whether two defaults are equal, and of NULLs it can't tell."""
    await asyncio.to_thread(command.upgrade, config, "head")
    default = "nullif(current_setting('test.nothing', true), '')"
    async with connect(empty.url) as connection:
        await connection.execute(
            f"CREATE TABLE {empty.scratch}.test_nulls (a text NOT NULL DEFAULT {default})"
        )
    column = Column("a", Text, nullable=False, server_default=text(default))
    nulls = Table("test_nulls", Base.metadata, column)
    try:
        await asyncio.to_thread(command.check, config)
    finally:
        Base.metadata.remove(nulls)


FILLED = (
    "CREATE TABLE test_t (a text, b int)",
    "INSERT INTO test_t VALUES ('marked-secret'), ('marked-secret')",
)


@pytest.mark.parametrize("config", ["through the pooler"], indirect=True)
@pytest.mark.parametrize(
    ("statements", "told"),
    [
        (
            ("ALTER TABLE test_t ALTER a TYPE int",),
            'HINT:  You might need to specify "USING a::integer"',
        ),
        (("ALTER TABLE test_t ALTER a TYPE int USING a::int",), "SQLSTATE 22P02"),
        (("ALTER TABLE test_t ADD UNIQUE (a)",), 'could not create unique index "test_t_a_key"'),
        (
            ("ALTER TABLE test_t ADD CHECK (a = '')",),
            'check constraint "test_t_a_check" of relation "test_t"',
        ),
        (("ALTER TABLE test_t ALTER b SET NOT NULL",), "give the column a server_default"),
        (
            ("CREATE VIEW v AS SELECT a FROM test_t", "DROP TABLE test_t"),
            "view v depends on table test_t\nHINT: ",
        ),
        (("CREATE TYPE e AS ENUM ('a')",) * 2, "see Revisions in CONTRIBUTING.md"),
        (("ALTER TABLE test_t ADD c e",), "see Revisions in CONTRIBUTING.md"),
    ],
)
async def test_what_a_failing_revision_says(
    other: Config, statements: tuple[str, ...], told: str
) -> None:
    """What PostgreSQL advises, or we do, and no row of the table."""
    revise(other, "1", None, *FILLED, *statements)
    with pytest.raises(CommandError) as caught:
        await asyncio.to_thread(command.upgrade, other, "head")
    assert told in str(caught.value)
    assert "marked-secret" not in str(caught.value)


@pytest.mark.parametrize("config", ["through the pooler"], indirect=True)
async def test_what_alembic_does_not_say(other: Config) -> None:
    revise(other, "1", None)
    await asyncio.to_thread(command.upgrade, other, "head")
    revise(other, "1", None).unlink()
    with pytest.raises(CommandError, match="is that of `poe dev`"):
        await asyncio.to_thread(command.upgrade, other, "head")
    revise(other, "1", None)
    revise(other, "2", "1")
    revise(other, "3", "1")
    with pytest.raises(CommandError, match="uv run alembic merge heads"):
        await asyncio.to_thread(command.upgrade, other, "head")


@pytest.mark.parametrize("config", ["directly"], indirect=True)
async def test_the_database_of_another_service_is_refused(other: Config, empty: Database) -> None:
    """Its revisions have the same names: this one's would not run, without a word."""
    revise(other, "1", None)
    await asyncio.to_thread(command.upgrade, other, "head")
    await asyncio.to_thread(command.downgrade, other, "base")
    env = Path(other.get_main_option("script_location") or "") / "env.py"
    env.write_text(env.read_text().replace("SERVICE = ", 'SERVICE = "billing"  # '))
    revise(other, "1", None, "CREATE TABLE test_t (a text)")
    with pytest.raises(CommandError, match="has migrated this database: billing needs"):
        await asyncio.to_thread(command.upgrade, other, "head")
    async with connect(empty.url) as connection:
        await connection.execute(f"COMMENT ON TABLE {empty.scratch}.alembic_version IS NULL")
    await asyncio.to_thread(command.upgrade, other, "head")
    assert "test_t" in await _tables(empty, empty.scratch)


async def test_an_index_is_built_outside_the_transaction(other: Config, empty: Database) -> None:
    """And what comes before and after it is stored once."""
    table = f"{empty.schema or 'public'}.test_t"
    revise(other, "1", None, *FILLED, f"CREATE INDEX CONCURRENTLY i ON {table} (a)", FILLED[1])
    revise(other, "2", "1", FILLED[1])
    await asyncio.to_thread(command.upgrade, other, "head")
    async with connect(empty.url) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 6
        assert await connection.fetchval("SELECT bool_and(indisvalid) FROM pg_index")


async def test_a_revision_that_commits(other: Config, empty: Database) -> None:
    """What came after, its own number too, was rolled back, and `migrate` called it a success."""
    file = revise(other, "1", None, *FILLED, FILLED[1])
    commits = "op.get_bind().commit(); op.execute(statement)"
    file.write_text(file.read_text().replace("op.execute(statement)", commits))
    revise(other, "2", "1", FILLED[1])
    await asyncio.to_thread(command.upgrade, other, "head")
    schema = empty.schema or "public"
    async with connect(empty.url) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.test_t") == 6
        version = f"SELECT version_num FROM {schema}.alembic_version"
        assert await connection.fetchval(version) == "2"


@pytest.mark.parametrize("sql", ["SELECT 1 FROM scratch.nothing", "SELECT nothing FROM pg_class"])
async def test_a_service_says_that_it_is_not_migrated(engine: AsyncEngine, sql: str) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(sql))
    with capture_logs() as lines:
        log_failure(caught.value)
    assert "{{ cookiecutter.project_slug }} migrate" in lines[0]["hint"]


def test_there_is_one_head() -> None:
    heads = ScriptDirectory.from_config(CONFIG).get_heads()
    assert len(heads) <= 1, "Two branches have added revisions: uv run alembic merge heads -m merge"


def test_every_revision_gives_up_on_a_lock() -> None:
    """A migration that waits for a lock makes every query behind it wait as well."""
    for revision in (ROOT / "migrations" / "versions").glob("*.py"):
        assert revision.read_text().count("SET LOCAL lock_timeout") == 2, (
            f"{revision.name}: upgrade() and downgrade() begin with "
            "op.execute(\"SET LOCAL lock_timeout = '5s'\")"
        )


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
