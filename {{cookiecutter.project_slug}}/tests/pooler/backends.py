"""Making a pooler move a client to another of its backends (its connections to PostgreSQL)."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from tests.support import connect

# Transactions to hold open before giving up. More than any pool that a test would meet.
MOST = 60


async def keeps_its_backend(pooler_url: str) -> bool:
    """Whether a client has a backend to itself, and keeps it: session mode.

    In transaction mode a backend that is free is anybody's, or the next one is taken each time.
    """
    async with connect(pooler_url) as one, connect(pooler_url) as other:
        # One of them twice: with two backends in turn, each would meet the same one again.
        clients = [one, one, other] * 5
        seen = {(c is one, await c.fetchval("SELECT pg_backend_pid()")) for c in clients}
    return len(seen) == len({pid for _, pid in seen}) == 2


@asynccontextmanager
async def occupied(pooler_url: str, pid: int) -> AsyncIterator[None]:
    """Keep backend `pid` busy, so that whoever was served by it is served by another one.

    Works whatever the pooler's policy: hold transactions until one of them sits on that backend,
    then let the others go.
    """
    async with AsyncExitStack() as stack:
        others: list[asyncpg.Connection] = []
        for _ in range(MOST):
            connection = await stack.enter_async_context(connect(pooler_url))
            await connection.execute("BEGIN")
            if await connection.fetchval("SELECT pg_backend_pid()") == pid:
                break
            others.append(connection)
        else:
            raise AssertionError(f"none of {MOST} transactions came to sit on backend {pid}")
        for other in others:
            await _leave(other)
        yield
        await _leave(connection)


@asynccontextmanager
async def several(pooler_url: str, count: int = 3) -> AsyncIterator[list[asyncpg.Connection]]:
    """Transactions that sit on `count` different backends. 3 is all that our PgBouncer has."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(pooler_url)) for _ in range(count)]
        for connection in connections:
            await connection.execute("BEGIN")
        pids = {await connection.fetchval("SELECT pg_backend_pid()") for connection in connections}
        assert len(pids) == count
        yield connections
        for connection in connections:
            await _leave(connection)


async def _leave(connection: asyncpg.Connection) -> None:
    """End the transaction first: a pooler closes the backend of a client that leaves in one."""
    await connection.execute("ROLLBACK")
    await connection.close()
