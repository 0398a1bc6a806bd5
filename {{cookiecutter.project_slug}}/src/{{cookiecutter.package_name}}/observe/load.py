"""The load that `tune` makes: requests as routes do them, many at once."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic, process_time

from sqlalchemy import Executable, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions
from {{ cookiecutter.package_name }}.database.sql import only_reads
from {{ cookiecutter.package_name }}.observe.sizing import Trial, milliseconds

# Seconds of load before a trial counts.
SETTLE = 0.2

WRITES = (
    "--sql may only read: it runs thousands of times. Time the transaction that writes, and give that "
    "instead: --hold 8ms"
)

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Load:
    """What is asked for. Times are seconds."""

    statement: Executable
    described: str
    in_transaction: bool
    concurrency: int
    target: float
    most: int | None
    seconds: float

    def work(self, engine: AsyncEngine) -> Work:
        """One request, as a route does it."""
        if not self.in_transaction:
            read = ReadSession(engine)
            return lambda: read.execute(self.statement)
        sessions = Sessions(engine)

        async def transaction() -> None:
            async with sessions.begin() as session:
                await session.execute(self.statement)

        return transaction


def seconds(option: str, value: str) -> float:
    """A time that an option has."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)", value.strip())
    if not found or not float(found[1]):
        raise SystemExit(f"{option} is a time, such as 50ms or 1.5s, and not {value!r}.")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def statement_of(sql: str | None, hold: float) -> tuple[Executable, str]:
    """What a request runs, and in words."""
    # One whose schema is named, such as Supabase's auth.users, is somebody else's; and what callers own
    # the login itself may not read.
    tables = [
        it for it in Base.metadata.sorted_tables if it.schema is None and "owner_id" not in it.c
    ]
    if hold:
        told = f"a transaction that is held for {milliseconds(hold)}"
        return text(f"SELECT pg_sleep({hold})"), told
    if tables and not sql:
        one = select(tables[0]).order_by(*tables[0].primary_key.columns).limit(1)
        return one, f"one row of {tables[0].name}"
    sql = sql or "SELECT 1"
    if not only_reads(sql):
        raise SystemExit(WRITES)
    return text(sql.replace(":", r"\:")), sql  # a colon is no parameter here: '12:30', a::int


@asynccontextmanager
async def opened(
    engine: AsyncEngine, size: int
) -> AsyncIterator[tuple[list[AsyncConnection], SQLAlchemyError | None]]:
    """So many connections, which go back to the pool afterwards, and why there are no more."""
    connections: list[AsyncConnection] = []
    refusal = None
    async with AsyncExitStack() as stack:
        try:
            while len(connections) < size:
                connections.append(await stack.enter_async_context(engine.connect()))
        except SQLAlchemyError as error:
            refusal = error
        yield connections, refusal


async def measure(work: Work, concurrency: int, seconds: float) -> Trial:
    """Ask so many at once. The first failure ends it, other than that of a full pool."""
    begin = monotonic() + SETTLE
    end = begin + seconds
    waits: list[float] = []
    answered = refused = 0

    async def client() -> None:
        nonlocal answered, refused
        while (asked := monotonic()) < end:
            found = True
            try:
                await work()
            except PoolTimeoutError:
                found = False
            now = monotonic()
            if now >= begin:
                waits.append(now - asked)
                refused += not found
                answered += found and now < end

    try:
        async with asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(client())
            await asyncio.sleep(SETTLE)
            used = process_time()
            await asyncio.sleep(seconds)
            used = process_time() - used
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    waits.sort()
    p50, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.99))
    return Trial(answered / seconds, p50, p99, refused, used / seconds)
