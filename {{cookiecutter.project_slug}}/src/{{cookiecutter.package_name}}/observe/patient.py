"""What `doctor` examines, and what its checks know of it by now."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.url import DatabaseURL
from {{ cookiecutter.package_name }}.settings import Settings

# Seconds for one check. What waits for an answer gives up before, and can say what it waited for.
STEP = 5


@dataclass(frozen=True)
class Options:
    """What the command was told."""

    replicas: int | None = None
    workers: int | None = None
    surge: int | None = None
    client_limit: int | None = None
    plan: str | None = None
    project: Path | None = None
    """The folder with migrations/ and kubernetes/."""


class Client:
    """A connection of the engine's that asks by itself: no cache of the service's has a say."""

    def __init__(self, connection: AsyncConnection, driver: asyncpg.Connection) -> None:
        self.connection, self.driver = connection, driver
        self.key = driver.get_server_pid()
        """The pid that came with the login: PostgreSQL's own, and a number that a pooler made up."""

    @classmethod
    async def of(cls, connection: AsyncConnection) -> Client:
        raw = await connection.get_raw_connection()
        return cls(connection, raw.driver_connection)  # type: ignore[arg-type]

    async def run(self, command: str) -> None:
        """A simple query: one round trip."""
        await asyncpg.Connection.execute(self.driver, command)

    async def prepare(self, query: str, name: str = "") -> Any:
        """Prepare a statement. One without a name is right on any backend."""
        return await asyncpg.Connection.prepare(self.driver, query, name=name)

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        statement = await self.prepare(query)
        return list(await statement.fetch(*values))

    async def row(self, query: str, *values: Any) -> asyncpg.Record:
        [row] = await self.rows(query, *values)
        return row

    async def hold(self) -> int:
        """Begin a transaction, which can't write; the pid of the backend that has it."""
        await self.run("BEGIN READ ONLY")
        return int((await self.row("SELECT pg_backend_pid()"))[0])


@dataclass
class Patient:
    settings: Settings
    options: Options
    stack: AsyncExitStack
    local: bool = True
    """The server is on this machine."""
    engine: AsyncEngine = field(init=False)
    clients: list[Client] = field(default_factory=list)
    """The first one's login is the only one, if it is refused."""
    server: asyncpg.Record = field(init=False)
    product: str = "PostgreSQL"
    mode: str = "unknown"
    backends: int = 0
    survive: bool | None = None
    """Named statements do, on another backend. None: nobody knows."""
    migrating: Client | None = None

    @property
    def usable(self) -> bool:
        """Whether it was connected to, and still is."""
        return bool(self.clients) and not self.clients[0].driver.is_closed()

    def make_engine(self, url: DatabaseURL) -> AsyncEngine:
        """The service's own engine, with no pool and little patience."""
        hasty = replace(url, connect_args=url.connect_args | {"timeout": STEP - 1})
        changes = {"database_url": hasty, "database_command_timeout": STEP - 1}
        return create_engine(self.settings.model_copy(update=changes | {"database_pool": "null"}))

    async def connect(self, engine: AsyncEngine) -> Client:
        """A client that is gone in the end."""
        return await Client.of(await self.stack.enter_async_context(engine.connect()))

    async def roll_back(self) -> None:
        """End the transactions that a check left open: the next would fail in them, or wait for them."""
        ends = [client.run("ROLLBACK") for client in self.clients]
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.gather(*ends, return_exceptions=True)
