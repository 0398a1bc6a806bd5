"""What `tune` finds, refuses and survives."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Uuid, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from orders_api import cli
from orders_api.database.base import Base
from orders_api.database.engine import create_engine
from orders_api.observe import load, tune
from orders_api.observe.budget import ROOM
from orders_api.observe.patient import Client
from orders_api.settings import Settings

import devstack
from tests.pooler.proxy import counted
from tests.support import Database, connect

Tune = Callable[..., Awaitable[Result]]


@pytest.fixture
def run_tune(monkeypatch: pytest.MonkeyPatch) -> Tune:
    """The command, with few and short trials."""
    monkeypatch.setenv("COLUMNS", "500")  # no sentence is folded
    monkeypatch.setattr(load, "SETTLE", 0.01)

    async def run_tune(url: str, *options: str) -> Result:
        monkeypatch.setenv("DATABASE_URL", url)
        quick = ["tune", "--seconds", "0.05", "--concurrency", "4", *options]
        return await asyncio.to_thread(CliRunner().invoke, cli.main, quick)

    return run_tune


async def test_without_a_smaller_pooler_none_is_the_limit(
    database: Database, run_tune: Tune
) -> None:
    sql = ["--sql", "SELECT 1"] if database.schema else []
    result = await run_tune(database.url, "--max-pool", "2", "--no-page", *sql)
    assert result.exit_code == 0, result.output
    assert "Set DATABASE_POOL_SIZE=" in result.output
    assert "First guess, by Little's law: 4 requests at once, each answered within 100 ms" in (
        result.output
    )
    assert "pooler is" not in result.output


async def test_a_session_mode_pooler_bounds_the_sizes(database: Database, run_tune: Tune) -> None:
    """Whoever comes later would wait for as long as the others stay."""
    settings = {"default_pool_size": 2, "pool_mode": "session", "query_wait_timeout": 5}
    with devstack.pgbouncer(database.url, **settings) as url:
        result = await run_tune(f"{url}?sslmode=disable", "--hold", "5ms", "--no-page")
    assert result.exit_code == 0, result.output
    assert "2 sizes up to 2 (the pooler has 2 server connections, and each client keeps one" in (
        result.output
    )


async def test_no_more_connections_than_postgresql_has_free(
    database: Database, run_tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "SELECT 9 AS most, 3 AS reserved, {} AS in_use, $1::bool"
    monkeypatch.setattr(tune, "ROOM", few.format(4))
    result = await run_tune(database.url, "--hold", "5ms", "--max-pool", "4", "--no-page")
    assert "2 sizes up to 2 (PostgreSQL has no more free)" in result.output
    monkeypatch.setattr(tune, "ROOM", few.format(6))
    result = await run_tune(database.url, "--hold", "5ms", "--no-page")
    assert "PostgreSQL has 0 connections free" in result.output


async def test_connections_of_others_are_not_free(database: Database, engine: AsyncEngine) -> None:
    async with AsyncExitStack() as others, engine.connect() as connection:
        for _ in range(3):
            await others.enter_async_context(connect(database.url))
        client = await Client.of(connection)
        directly, pooled = await client.row(ROOM, False), await client.row(ROOM, True)
        allowed = (await client.row("SHOW max_connections"))[0]
    assert directly["most"] == int(allowed)
    assert directly["in_use"] >= 3
    # Through a pooler these are its own, with which it serves us.
    assert pooled["in_use"] <= directly["in_use"] - 3


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM nothing",
        "SELECT 1; SELECT 2",
        "SELECT pg_advisory_lock(1)",
        "SELECT nextval('{scratch}.tickets')",
    ],
)
async def test_a_statement_that_writes_is_refused(
    database: Database, run_tune: Tune, sql: str
) -> None:
    """It would run thousands of times. A function that writes looks like one that does not."""
    async with connect(database.url) as direct:
        await direct.execute(f"CREATE SEQUENCE IF NOT EXISTS {database.scratch}.tickets")
        statement = sql.format(scratch=database.scratch)
        result = await run_tune(database.pooler_url, "--sql", statement, "--no-page")
        taken = await direct.fetchval(f"SELECT is_called FROM {database.scratch}.tickets")
    assert result.exit_code == 1 and "--hold 8ms" in str(result.exception)
    assert not taken


def test_a_table_of_others_is_not_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Supabase's auth.users, the first by name and by foreign keys, and what callers own."""
    tables = MetaData()
    theirs = Table("users", tables, Column("id", Integer, primary_key=True), schema="auth")
    Table("bookmarks", tables, Column("id", Integer), Column("owner_id", Uuid))
    Table("zebras", tables, Column("id", Integer, ForeignKey(theirs.c.id), primary_key=True))
    monkeypatch.setattr(Base, "metadata", tables)
    assert load.statement_of(None, 0)[1] == "one row of zebras"


async def test_a_colon_in_a_statement_is_no_parameter(database: Database, run_tune: Tune) -> None:
    sql = """SELECT '{"a":1}'::jsonb, '12:30'::time, 5 % 3"""
    result = await run_tune(database.pooler_url, "--sql", sql, "--max-pool", "1", "--no-page")
    assert result.exit_code == 0, result.output


async def test_a_wrong_password_is_sent_once_and_told(
    database: Database, run_tune: Tune, servers_are_ours: None
) -> None:
    """After ten of them Supavisor blocks everybody at this address."""
    async with counted(database.url) as (proxy, url):
        wrong = make_url(url).set(password="marked-secret").render_as_string(hide_password=False)
        result = await run_tune(wrong, "--hold", "5ms", "--no-page")
    assert "password authentication failed" in str(result.exception)
    assert "marked-secret" not in str(result.exception) + result.output
    assert proxy.refused == 1


async def test_a_pool_that_fails_ends_early() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise OperationalError(None, None, ConnectionError("gone"))

    begun = time.monotonic()
    with pytest.raises(OperationalError, match="gone"):
        await load.measure(fail, concurrency=4, seconds=10)
    assert time.monotonic() - begun < 5


async def test_requests_take_turns(settings: Settings, database: Database) -> None:
    """A loop that asks again before those who wait had their turn keeps its connection to itself: half
    of the requests wait for nothing, and some for ever."""
    asked = load.Load(text("SELECT pg_sleep(0.005)"), "", True, 8, target=1, most=None, seconds=1)
    few = settings.model_copy(update={"database_pool_size": 1})
    engine = create_engine(few)
    try:
        trial = await load.measure(asked.work(engine), concurrency=8, seconds=1)
    finally:
        await engine.dispose()
    assert trial.p50 > trial.p99 / 4


async def test_the_page_needs_nothing_else_and_tells_no_password(
    database: Database, run_tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["", "tune", "--sql", "SELECT '<b>'"])
    options = ("--sql", "SELECT '<b>'", "--max-pool", "2", "--page", str(page))
    result = await run_tune(database.pooler_url, *options)
    assert result.exit_code == 0, result.output
    html = page.read_text()
    assert "DATABASE_POOL_SIZE=" in html and "<svg" in html
    assert "tune --sql &#x27;SELECT &#x27;" in html and "<b>" not in html
    for reference in ("src=", 'href="http', "url(http", "@import"):
        assert reference not in html
    assert str(make_url(database.pooler_url).password) not in html
    assert len(html) < 200_000


async def test_without_the_chart_library_the_command_that_brings_it_is_told(
    database: Database, run_tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    result = await run_tune(database.pooler_url, "--hold", "5ms")
    assert "`uv run --group tune " in str(result.exception)


async def test_without_a_pool_there_is_no_size(
    database: Database, run_tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_POOL", "null")
    result = await run_tune(database.pooler_url, "--hold", "5ms", "--no-page")
    assert "there is no size to find" in str(result.exception)


async def test_ctrl_c_keeps_what_was_learnt(database: Database, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--hold", "5ms", "--concurrency", "8", "--seconds", "0.1", "--page", str(page))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orders_api", "tune", *options),
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": database.pooler_url, "COLUMNS": "500"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    async with asyncio.timeout(60):
        while b"2 connections: " not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == tune.INTERRUPTED
    assert "Stopped by Ctrl-C, after " in rest and "Set DATABASE_POOL_SIZE=" in rest
    assert "Stopped by Ctrl-C, after " in page.read_text()
