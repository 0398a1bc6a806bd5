"""The load that `tune` makes: requests as routes do them, many at once."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from time import monotonic, process_time

from sqlalchemy import Executable, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions
from {{ cookiecutter.package_name }}.database.sql import only_reads
from {{ cookiecutter.package_name }}.observe.advice import explain as look_up
from {{ cookiecutter.package_name }}.observe.sizing import Trial, milliseconds
from {{ cookiecutter.package_name }}.settings import Settings

# Seconds of load before a trial counts.
SETTLE = 0.2

# Failed requests after which there is no point in going on.
MOST_FAILURES = 20

# Seconds without a newcomer, after which a pooler has no more server connections. A choice: several
# logins to another continent.
PATIENCE = 1

# Logins under way together while a pool is filled. Each waits for those before it no longer than
# DATABASE_CONNECT_TIMEOUT, which a large pool far away would exceed.
LOGINS = 4

_HOLD = text("SELECT pg_sleep(:seconds)")
BACKEND = select(func.pg_backend_pid())

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Load:
    """What is asked for. Times are seconds."""

    statement: Executable
    described: str
    hold: float
    """How long a transaction is held; 0: the statement runs by itself."""
    concurrency: int
    target: float
    most: int | None
    seconds: float

    def work(self, engine: AsyncEngine) -> Work:
        """One request, as a route does it."""
        if not self.hold:
            read = ReadSession(engine)
            return lambda: read.execute(self.statement)
        sessions = Sessions(engine)

        async def transaction() -> None:
            async with sessions.begin() as session:
                await session.execute(_HOLD, {"seconds": self.hold})

        return transaction


async def open_connections(engine: AsyncEngine, size: int) -> tuple[int, str]:
    """Open connections, and give them back to the pool; how many there are, and why not all."""
    turn = asyncio.Semaphore(LOGINS)
    refusals: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_one() -> int:
            async with turn:
                if refusals:
                    return 0
                try:
                    await stack.enter_async_context(engine.connect())
                except SQLAlchemyError as error:
                    refusals.append(explain(error))
                    return 0
                return 1

        opened = sum(await asyncio.gather(*(open_one() for _ in range(size))))
    return opened, refusals[0] if refusals else ""


async def held_at_once(engine: AsyncEngine, size: int) -> tuple[int, bool, str]:
    """How many of so many transactions have a server connection at the same time; whether the others
    get none after them either; and why one failed."""
    pids: set[int] = set()
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with engine.connect() as connection:
            pids.add((await connection.execute(BACKEND)).scalar_one())
            arrived.set()
            await release.wait()

    holding = [asyncio.create_task(hold()) for _ in range(size)]
    try:
        with suppress(TimeoutError):
            while len(pids) < size:
                await asyncio.wait_for(arrived.wait(), PATIENCE)
                arrived.clear()
        held = len(pids)
        release.set()
        waiting = set(holding)
        while waiting:
            ended, waiting = await asyncio.wait(
                waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                break
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    errors = [it.exception() for it in holding if not it.cancelled()]
    failure = next((explain(it) for it in errors if isinstance(it, SQLAlchemyError)), "")
    return held, bool(waiting), failure


async def measure(load: Load, work: Work, seconds: float, failures: list[str]) -> Trial | None:
    """Ask as many at once as the load has. None, if nobody was answered, or too much failed."""
    begin = monotonic() + SETTLE
    end = begin + seconds
    waits: list[float] = []
    answered = refused = 0

    async def client() -> None:
        nonlocal answered, refused
        while (asked := monotonic()) < end and len(failures) < MOST_FAILURES:
            found = True
            try:
                await work()
            except PoolTimeoutError:
                found = False
            except SQLAlchemyError as error:
                failures.append(explain(error))
                continue
            now = monotonic()
            if now >= begin:
                waits.append(now - asked)
                refused += not found
                answered += found and now < end

    clients = [asyncio.create_task(client()) for _ in range(load.concurrency)]
    try:
        await asyncio.wait(clients, timeout=SETTLE)
        used = process_time()
        await asyncio.wait(clients, timeout=seconds)
        used = process_time() - used
        await asyncio.gather(*clients)
    finally:
        for it in clients:
            it.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    if not waits or len(failures) >= MOST_FAILURES:
        return None
    waits.sort()
    p50, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.99))
    return Trial(answered / seconds, p50, p99, refused, used / seconds)


def explain(error: SQLAlchemyError) -> str:
    """What went wrong, and what to do, without a full stop."""
    found = look_up(error)
    told = found.observed.partition("\n")[0].rstrip(".")
    if found.values["sqlstate"] == "25006":
        return (
            f"the statement writes ({told}), and it would run thousands of times. Time the transaction "
            "that it belongs to, and give that instead: --hold 8ms"
        )
    return f"{told}: {found.advice}"


def _seconds(option: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)", value.strip())
    if not found or not float(found[1]):
        raise SystemExit(f"{option} is a time, such as 50ms or 1.5s, and not {value!r}.")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def make_load(
    settings: Settings,
    sql: str | None,
    hold: str | None,
    concurrency: int,
    target: str,
    most: int | None,
    seconds: float,
) -> Load:
    held = _seconds("--hold", hold) if hold else 0
    if sql and hold:
        raise SystemExit("Take --sql or --hold: each is a load of its own.")
    if held >= settings.database_command_timeout:
        raise SystemExit("--hold has to be shorter than DATABASE_COMMAND_TIMEOUT, which ends it.")
    statement: Executable
    # One whose schema is named, such as Supabase's auth.users, is somebody else's.
    tables = [it for it in Base.metadata.sorted_tables if it.schema is None]
    if hold:
        statement, described = _HOLD, f"a transaction that is held for {milliseconds(held)}"
    elif sql:
        if not only_reads(sql):
            raise SystemExit(
                "--sql may only read: it runs thousands of times. Time the transaction that writes, and give that "
                "instead: --hold 8ms"
            )
        # A colon is no parameter here: '12:30', a::int.
        statement, described = text(sql.replace(":", r"\:")), sql
    elif tables:
        key = tables[0].primary_key.columns
        statement = select(tables[0]).order_by(*key).limit(1)
        described = f"one row of {tables[0].name}"
    else:
        statement, described = text("SELECT 1"), "SELECT 1"
    return Load(
        statement, described, held, concurrency, _seconds("--target-p99", target), most, seconds
    )
