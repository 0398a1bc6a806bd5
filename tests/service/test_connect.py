"""Connecting: how often a wrong login leaves, why nobody answers, and what an owner may change."""

import asyncio
import errno
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import trustme
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orders_api.database import connect as connecting
from orders_api.database.connect import CantConnectError
from orders_api.database.engine import create_engine
from orders_api.database.failures import Failure, classify
from orders_api.database.login import refuse_wrong_login
from orders_api.settings import Settings

from tests.pooler.proxy import Proxy, counted
from tests.support import Database, connect

CLIENTS = 40


class Rotated:
    """A role whose password changes, and a proxy that counts the wrong ones."""

    def __init__(self, direct: asyncpg.Connection, role: str, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        self.url = url
        self._direct = direct
        self._role = role

    async def password(self, password: str) -> None:
        await self._direct.execute(f"ALTER ROLE {self._role} PASSWORD '{password}'")

    async def disconnect(self) -> None:
        await self._direct.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", self._role
        )


@pytest.fixture
async def rotated(database: Database, servers_are_ours: None) -> AsyncIterator[Rotated]:
    role = f"rotated_{uuid4().hex}"
    async with connect(database.url) as direct, counted(database.url) as (proxy, url):
        await direct.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'old'")
        login = make_url(url).set(username=role, password="old")
        rotated = Rotated(direct, role, proxy, login.render_as_string(hide_password=False))
        try:
            yield rotated
        finally:
            await rotated.disconnect()
            await direct.execute(f"DROP ROLE {role}")


@asynccontextmanager
async def _engine(settings: Settings, url: str, **change: object) -> AsyncIterator[AsyncEngine]:
    values = settings.model_dump() | {"database_url": url} | change
    engine = create_engine(Settings.model_validate(values))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def _load(engine: AsyncEngine) -> AsyncIterator[list[Failure | None]]:
    """Many clients at once: what became of each of their queries."""
    outcomes: list[Failure | None] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            try:
                async with engine.begin() as connection:
                    await connection.execute(text("SELECT pg_sleep(0.005)"))
                outcomes.append(None)
            except SQLAlchemyError as error:
                outcomes.append(classify(error))
                await asyncio.sleep(0.01)

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        yield outcomes
    finally:
        stop.set()
        await asyncio.gather(*clients)


# Whose connections are opened once, and those that open some all the time.
POOLS = [
    {"database_pool_size": 10},
    {"database_pool_size": 5, "database_max_overflow": 5},
    {"database_pool": "null"},
]


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("pool", POOLS, ids=["pool", "overflow", "null"])
async def test_a_rotation_under_load_sends_two_wrong_logins(
    settings: Settings,
    rotated: Rotated,
    monkeypatch: pytest.MonkeyPatch,
    pool: dict[str, Any],
    warm: bool,
) -> None:
    """Ten of them, from all connections at once, and Supavisor locks every neighbour out."""
    monkeypatch.setattr(connecting, "SECOND_TRY", 0.3)
    rotated.proxy.delay = 0 if warm else 0.02  # some logins are under way when it changes
    async with _engine(settings, rotated.url, **pool) as engine, _load(engine) as outcomes:
        await asyncio.sleep(0.3 if warm else 0.07)
        await rotated.password("new")
        await rotated.disconnect()
        await asyncio.sleep(0.1)
        await rotated.disconnect()  # who had sent the old one, and was not in pg_stat_activity yet
        await asyncio.sleep(0.6)
    assert outcomes[-1] is Failure.LOGIN
    assert rotated.proxy.refused == 2


async def test_a_password_that_is_refused_once_is_tried_again(
    settings: Settings, rotated: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supavisor does so after a rotation, from its cache: the service goes on by itself."""
    monkeypatch.setattr(connecting, "SECOND_TRY", 0.5)
    async with _engine(settings, rotated.url) as engine, _load(engine) as outcomes:
        opened: list[object] = []
        event.listen(engine.sync_engine, "connect", lambda *it: opened.append(it))
        while len(opened) < 10:  # of two logins that are under way, both would be wrong
            await asyncio.sleep(0.01)
        await rotated.password("not known here yet")
        await rotated.disconnect()
        while Failure.LOGIN not in outcomes:
            await asyncio.sleep(0.01)
        await rotated.password("old")
        await asyncio.sleep(1)
        outcomes.clear()
        await asyncio.sleep(0.3)
    assert set(outcomes) == {None}
    assert rotated.proxy.refused == 1


@pytest.mark.parametrize("migrations", [False, True])
async def test_a_command_tries_a_refused_password_once_more(
    settings: Settings, rotated: Rotated, monkeypatch: pytest.MonkeyPatch, migrations: bool
) -> None:
    """As the running service does: Supavisor refuses a new password once."""
    monkeypatch.setattr(connecting, "SECOND_TRY", 0.5)
    urls = {"database_url": rotated.url, "database_migration_url": rotated.url}
    starting = Settings.model_validate(settings.model_dump() | urls)
    await rotated.password("new")
    check = asyncio.create_task(refuse_wrong_login(starting, migrations=migrations))
    while rotated.proxy.refused < 1:
        await asyncio.sleep(0.01)
    await rotated.password("old")
    await check
    assert rotated.proxy.refused == 1

    await rotated.password("new")
    variable = "DATABASE_MIGRATION_URL" if migrations else "DATABASE_URL"
    with pytest.raises(SystemExit, match=f"^{variable} can't be used"):
        await refuse_wrong_login(starting, migrations=migrations)
    assert rotated.proxy.refused == 2


async def test_two_engines_of_one_process_send_no_more_than_one(
    settings: Settings, rotated: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supavisor counts by address, whatever a service has its engines for."""
    monkeypatch.setattr(connecting, "SECOND_TRY", 0.1)
    await rotated.password("new")
    async with (
        _engine(settings, rotated.url) as one,
        _engine(settings, rotated.url) as two,
        _load(one),
        _load(two),
    ):
        await asyncio.sleep(0.5)
    assert rotated.proxy.refused == 2


async def test_connections_are_opened_together_once_a_login_has_succeeded(
    settings: Settings, rotated: Rotated
) -> None:
    """Two together, where ten one after the other would take 3 s."""
    rotated.proxy.delay = 0.3
    async with _engine(settings, rotated.url) as engine:
        started = time.monotonic()
        connections = [engine.connect() for _ in range(10)]
        await asyncio.gather(*(connection.start() for connection in connections))
        assert time.monotonic() - started < 8 * 0.3
        for connection in connections:
            await connection.close()


async def test_a_login_that_nobody_waits_for_any_more_counts(
    settings: Settings, rotated: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe gives up after 2 s, and its wrong password was sent all the same."""
    monkeypatch.setattr(connecting, "SECOND_TRY", 0.1)
    await rotated.password("new")
    rotated.proxy.delay = 0.2
    async with _engine(settings, rotated.url) as engine:
        for _ in range(15):
            with pytest.raises((TimeoutError, SQLAlchemyError)):
                async with asyncio.timeout(0.1), engine.connect():
                    pass
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
    assert rotated.proxy.refused == 2


async def test_a_connection_that_nobody_waits_for_any_more_is_closed(
    settings: Settings, rotated: Rotated, database: Database
) -> None:
    rotated.proxy.delay = 0.2
    async with _engine(settings, rotated.url) as engine:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), engine.connect():
                pass
        await asyncio.sleep(0.5)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        user = make_url(rotated.url).username
        async with connect(database.url) as direct:
            count = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
            assert await direct.fetchval(count, user) == 0
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1


@asynccontextmanager
async def _refusing_with_tls() -> AsyncIterator[tuple[list[bool], str]]:
    """A server with TLS to which every password is wrong: whether each came encrypted, and its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    logins: list[bool] = []

    async def message(reader: asyncio.StreamReader) -> bytes:
        size = struct.unpack("!i", await reader.readexactly(4))[0]
        return await reader.readexactly(size - 4)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await message(reader)
        encrypted = asked == struct.pack("!i", 80877103)
        if encrypted:
            writer.write(b"S")
            await writer.start_tls(context)
            asked = await message(reader)
        logins.append(encrypted)
        fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"
        writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield logins, f"postgresql://u:p@127.0.0.1:{port}/d"


@pytest.mark.parametrize("sslmode", ["", "?sslmode=prefer", "?sslmode=allow"])
async def test_a_refused_password_is_not_sent_again_without_tls(
    settings: Settings, sslmode: str
) -> None:
    """asyncpg does so, and each counts."""
    async with _refusing_with_tls() as (logins, url), _engine(settings, url + sslmode) as engine:
        for _ in range(5):
            with pytest.raises(DBAPIError, match="password authentication failed"):
                async with engine.connect():
                    pass
    assert logins == [True]


async def _reason(settings: Settings, url: str, timeout: float = 0.5) -> str:  # noqa: ASYNC109
    async with _engine(settings, url, database_connect_timeout=timeout) as engine:
        with pytest.raises(OperationalError) as error:
            async with engine.connect():
                pass
    assert classify(error.value) is Failure.UNAVAILABLE
    assert isinstance(error.value.orig, CantConnectError)
    assert "marked-secret" not in str(error.value)
    return error.value.orig.reason


class _OnlyIPv4(socket.socket):
    """As on a machine that has no IPv6."""

    def connect(self, address: Any) -> None:
        if self.family is socket.AF_INET6:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        super().connect(address)


async def test_a_host_that_has_only_ipv6(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*arguments: object, **options: object) -> list[Any]:
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("100::1", 5432, 0, 0))]

    monkeypatch.setattr(socket, "socket", _OnlyIPv4)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    supabase = await _reason(settings, "postgresql://u:p@db.abcdefghijklmnop.supabase.co/d")
    assert "no route" in supabase
    assert "take the pooler's string" in supabase
    other = await _reason(settings, "postgresql://u:p@database.example/d")
    assert "only IPv6" in other
    assert "Supabase" not in other
