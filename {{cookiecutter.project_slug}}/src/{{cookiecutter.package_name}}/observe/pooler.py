"""What answers, and in which mode: by experiment, since a port's number proves nothing."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy.ext.asyncio import AsyncConnection

# Seconds that a transaction may wait for a backend before the pool counts as full.
PATIENCE = 1

_STATEMENT = "examined"


class Client:
    """A connection that asks by itself: no pool, no cache and no session of the service's has a say."""

    def __init__(self, driver: asyncpg.Connection) -> None:
        self._driver = driver
        self.key: int = driver.get_server_pid()
        """The pid that came with the login: PostgreSQL's own, and a number that a pooler made up."""

    @property
    def usable(self) -> bool:
        """Whether it is still open."""
        return not self._driver.is_closed()

    @classmethod
    async def of(cls, connection: AsyncConnection) -> "Client":
        """The client behind a connection of the engine's."""
        return cls((await connection.get_raw_connection()).driver_connection)  # type: ignore[arg-type]

    async def run(self, command: str) -> None:
        """A simple query: one round trip."""
        await asyncpg.Connection.execute(self._driver, command)

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Ask with an unnamed statement, which is right on any backend."""
        statement = await self.prepare(query, "")
        return await statement.fetch(*values)

    async def row(self, query: str, *values: Any) -> asyncpg.Record:
        """The only row of an answer."""
        [row] = await self.rows(query, *values)
        return row

    async def prepare(self, query: str, name: str) -> "PreparedStatement[Any]":
        """Prepare a statement with a name of its own, or with none."""
        return await asyncpg.Connection.prepare(self._driver, query, name=name)

    async def hold(self) -> int:
        """Begin a transaction, which can't write; the pid of the backend that has it."""
        await self.run("BEGIN READ ONLY")
        return int((await self.row("SELECT pg_backend_pid()"))[0])

    async def release(self) -> None:
        """End the transaction."""
        await self.run("ROLLBACK")


@dataclass(frozen=True)
class Pooler:
    """What stands between this process and PostgreSQL."""

    mode: str
    """`direct`, `session`, `transaction` or `unknown`."""
    backends: int
    """How many were met."""


UNKNOWN = Pooler("unknown", 0)


async def find_mode(clients: Sequence[Client]) -> Pooler:
    """Hold transactions, all at once, and see who is served by which backend, turn after turn.

    In session mode each keeps its own. Otherwise a pooler hands out the backend that was used last, or
    the one that was used the longest ago: in the second turn or in the third somebody is moved.
    """
    met: dict[Client, set[int]] = {it: set() for it in clients}
    for begins in (0, 1, 1):
        full = await _turn([*clients[begins:], *clients[:begins]], met)
        pids = [pid for seen in met.values() for pid in seen]
        if len(pids) > len(set(pids)) or any(len(seen) > 1 for seen in met.values()):
            return Pooler("transaction", len(set(pids)))  # two had the same, or one was moved
        if full:
            return Pooler(full, len(pids))
    if all(seen == {it.key} for it, seen in met.items()):
        return Pooler("direct", len(pids))
    return Pooler("session" if len(pids) > 1 else "unknown", len(pids))


async def _turn(order: list[Client], met: dict[Client, set[int]]) -> str | None:
    """Let each hold a transaction. If one has to wait: what that says of the mode."""
    holding: list[Client] = []
    waiting = None
    try:
        for client in order:
            waiting = asyncio.create_task(client.hold())
            await asyncio.wait([waiting], timeout=PATIENCE)
            if not waiting.done():
                break
            holding.append(client)
            met[client].add(waiting.result())
    finally:
        for it in holding:
            await it.release()
    if waiting is None or waiting.done():
        return None
    # The pool is smaller than this, or others need it too. A backend is free now, unless it is kept for
    # whoever had it.
    await asyncio.wait([waiting], timeout=PATIENCE)
    if waiting.done():
        met[client].add(waiting.result())
        await client.release()
        return None
    waiting.cancel()
    for it in holding[:1]:
        again = await asyncio.wait_for(it.hold(), PATIENCE)
        await it.release()
        return "session" if {again} == met[it] else None
    return "unknown"


@dataclass(frozen=True)
class Kept:
    """What of a transaction is still there after it."""

    setting: bool
    """A session's setting is on the backend, for the next client."""
    statement: bool | None
    """A named statement can be run on another backend. None: there is no other."""


async def find_kept(clients: Sequence[Client], pooler: Pooler) -> Kept:
    """Leave a setting and a named statement on a backend, look at them, and take them away again.

    `geqo_seed` is of no consequence: it has a say in the plans of joins of twelve tables. To take both
    away, a transaction of another client is brought to that backend.

    Raises:
        TimeoutError: none came there any more, so both stay.
    """
    one, *others = clients
    value = round(random.uniform(0.1, 0.9), 4)  # not another doctor's
    pid = await one.hold()
    statement = await one.prepare("SELECT 1", _STATEMENT)
    await one.row("SELECT set_config('geqo_seed', $1, false)", str(value))
    await one.run("COMMIT")
    there = await _bring_to(pid, others)
    try:
        setting = float((await there.row("SELECT current_setting('geqo_seed')"))[0]) == value
        return Kept(setting, await _runs(one, statement) if pooler.backends > 1 else None)
    finally:
        await there.run("RESET geqo_seed")
        mine = "SELECT FROM pg_prepared_statements WHERE name = $1"
        if await there.rows(mine, _STATEMENT):
            await there.rows(f"DEALLOCATE {_STATEMENT}")
        await there.run("COMMIT")


async def _bring_to(pid: int, clients: Sequence[Client]) -> Client:
    """One whose transaction is on that backend."""
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            holding: list[Client] = []
            try:
                for client in clients:
                    if await client.hold() == pid:
                        return client
                    holding.append(client)
            finally:
                for it in holding:
                    await it.release()


async def _runs(client: Client, statement: "PreparedStatement[Any]") -> bool:
    """Whether a statement can be run, on another backend than its own, which is in use."""
    await client.hold()
    try:
        await statement.fetch()
    except asyncpg.InvalidSQLStatementNameError:
        return False
    finally:
        await client.release()
    return True
