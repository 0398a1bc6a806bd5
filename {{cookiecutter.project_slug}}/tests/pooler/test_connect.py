"""Connecting: why nobody answers, and what an owner may change."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from {{ cookiecutter.package_name }}.database.connect import CantConnectError
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings

from tests.support import Database, connect, running


@asynccontextmanager
async def _engine(settings: Settings, url: str, **change: object) -> AsyncIterator[AsyncEngine]:
    values = settings.model_dump() | {"database_url": url} | change
    engine = create_engine(Settings.model_validate(values))
    try:
        yield engine
    finally:
        await engine.dispose()


async def _reason(settings: Settings, url: str, timeout: float = 0.5) -> str:  # noqa: ASYNC109
    async with _engine(settings, url, database_connect_timeout=timeout) as engine:
        with pytest.raises(OperationalError) as error:
            async with engine.connect():
                pass
    assert classify(error.value) is Failure.UNAVAILABLE
    assert isinstance(error.value.orig, CantConnectError)
    assert "marked-secret" not in str(error.value)
    return error.value.orig.reason


async def test_why_it_cant_connect(settings: Settings, database: Database) -> None:
    """Each was the same `builtins.ConnectionError` in the log."""
    to = "postgresql://u:marked-secret@"
    assert "the name" in await _reason(settings, f"{to}nowhere.invalid/d", timeout=20)
    assert "refused" in await _reason(settings, f"{to}127.0.0.1:1/d")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "within 0.5 s" in await _reason(settings, f"{to}127.0.0.1:{port}/d")
    plain = make_url(database.url).set(query={"sslmode": "require"})
    assert "no TLS" in await _reason(settings, plain.render_as_string(hide_password=False))


async def test_the_log_says_where_and_why(settings: Settings) -> None:
    values = settings.model_dump() | {"database_url": "postgresql://u:marked-secret@127.0.0.1:1/d"}
    with capture_logs() as lines:
        async with running(create_app(Settings.model_validate(values))) as client:
            assert (await client.get("/readyz")).status_code == 503
    [failure] = [line for line in lines if line["event"] == "database failure"]
    assert (failure["host"], failure["port"]) == ("127.0.0.1", 1)
    assert "refused" in failure["reason"]
    assert "marked-secret" not in str(failure)


async def test_an_owner_may_change_how_it_connects(settings: Settings, database: Database) -> None:
    """Tokens of a cloud, for instance, which live for minutes. The listener runs at each login."""
    right = make_url(database.pooler_url)
    wrong = right.set(password="expired", host="nowhere.invalid")
    async with _engine(settings, wrong.render_as_string(hide_password=False)) as engine:
        asked = []

        @event.listens_for(engine.sync_engine, "do_connect")
        def token(dialect: object, entry: object, args: object, kwargs: dict[str, Any]) -> None:
            asked.append(kwargs["password"])
            kwargs |= {"password": right.password, "host": right.host}

        async with engine.connect() as one, engine.connect() as two:
            assert await one.scalar(text("SELECT 1")) == await two.scalar(text("SELECT 1"))
        assert asked == ["expired", "expired"]


async def test_a_new_token_is_tried_at_once(
    settings: Settings, database: Database, servers_are_ours: None
) -> None:
    """Only the one that was refused has to wait."""
    url = make_url(database.pooler_url)
    tokens = ["wrong", url.password]
    async with _engine(settings, url.render_as_string(hide_password=False)) as engine:

        @event.listens_for(engine.sync_engine, "do_connect")
        def token(dialect: object, entry: object, args: object, kwargs: dict[str, Any]) -> None:
            kwargs["password"] = tokens[0]

        for _ in range(3):
            with pytest.raises(DBAPIError):
                await engine.connect().__aenter__()
        tokens.pop(0)
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


async def test_codecs_of_an_extension(
    engine: AsyncEngine, database: Database, servers_are_ours: None
) -> None:
    """Registered on `connect`, they hold on whatever backend the pooler gives."""
    async with connect(database.url) as direct:
        await direct.execute("CREATE EXTENSION hstore; CREATE EXTENSION citext")
    try:

        @event.listens_for(engine.sync_engine, "connect")
        def register(connection: Any, entry: object) -> None:
            async def codecs(driver: asyncpg.Connection) -> None:
                await driver.set_builtin_type_codec("hstore", codec_name="pg_contrib.hstore")
                await driver.set_type_codec("citext", encoder=str, decoder=str.upper)

            connection.run_async(codecs)

        query = text("SELECT CAST(:pairs AS hstore), CAST('a' AS citext)")

        async def read(number: int) -> None:
            async with engine.connect() as connection:
                row = (await connection.execute(query, {"pairs": {"n": str(number)}})).one()
                assert tuple(row) == ({"n": str(number)}, "A")

        await asyncio.gather(*map(read, range(100)))
    finally:
        async with connect(database.url) as direct:
            await direct.execute("DROP EXTENSION hstore, citext")
