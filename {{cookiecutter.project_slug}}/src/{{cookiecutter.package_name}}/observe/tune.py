"""`tune`: tries sizes of the pool under load, and says which one to set.

What runs is the service's own engine with its own settings, but for the size of its pool.
"""

import asyncio
import math
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, process_time

import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from sqlalchemy import Executable, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions
from {{ cookiecutter.package_name }}.database.sql import only_reads
from {{ cookiecutter.package_name }}.observe.sizing import (
    HEAD,
    Choice,
    Limits,
    Size,
    Trial,
    advice,
    cells,
    choose,
    first_guess,
    ladder,
    milliseconds,
)
from {{ cookiecutter.package_name }}.settings import Settings, load_settings

# Times that each size is tried. The median of three bears one that was disturbed.
REPEATS = 3

# Seconds of load before a trial counts.
SETTLE = 0.2

# Requests of which a trial's time has room for at least so many, one after the other.
IN_A_ROW = 4

# Failed requests after which there is no point in going on.
MOST_FAILURES = 20

# Seconds without a newcomer, after which a pooler has no more server connections. A choice: several
# logins to another continent.
PATIENCE = 1

# The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

# Logins under way together while a pool is filled. Each waits for those before it no longer than
# DATABASE_CONNECT_TIMEOUT, which a large pool far away would exceed.
LOGINS = 4

# Beside the connections that have a server connection at last, what else is wrong with a session-mode
# pooler: it gives a client one for as long as it stays.
SESSION_MODE = (
    "a pooler in session mode has {} server connections, and each client keeps one. DATABASE_URL belongs to the "
    "transaction mode"
)

_BUDGET = text(
    "SELECT current_setting('max_connections')::int AS most,"
    " current_setting('superuser_reserved_connections')::int"
    " + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,"
    # The kind of another role's backend is hidden; with a database and a user it is a client's. A
    # pooler's connections for this login are no others': they are what serves us.
    " (SELECT count(*) FROM pg_stat_activity"
    " WHERE coalesce(backend_type, 'client backend') = 'client backend'"
    " AND datid IS NOT NULL AND usesysid IS NOT NULL AND pid <> pg_backend_pid()"
    " AND NOT (:pooled AND usename = current_user AND datname = current_database())) AS in_use"
)
_HOLD = text("SELECT pg_sleep(:seconds)")
_BACKEND = select(func.pg_backend_pid())

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


class Tuning:
    """What was found so far: whoever interrupts it can still read it."""

    def __init__(self, settings: Settings, load: Load, console: Console) -> None:
        self.settings = settings
        self.load = load
        self.console = console
        self.title = f"{load.concurrency} requests at once: {load.described}, on {settings.database_url}"
        self.limits: Limits | None = None
        self.budget = ""
        self.guess = ""
        self.trials: dict[int, list[Trial]] = {}
        self.failures: list[str] = []
        self.stopped = ""
        self._held = 0.0
        self._opening = 0.0

    @property
    def sizes(self) -> list[Size]:
        return [Size(size, trials) for size, trials in sorted(self.trials.items()) if trials]

    @property
    def choice(self) -> Choice | None:
        return choose(self.sizes, self.load.target)

    async def run(self) -> None:
        """Find the limits, then try each size."""
        load = self.load
        free = await self._look()
        limits = self.limits = await self._fill(free)
        guess = math.ceil(first_guess(load.concurrency, load.target, self._held))
        self.guess = (
            f"First guess, by Little's law: {load.concurrency} requests at once, each answered within "
            f"{milliseconds(load.target)}, are {load.concurrency / load.target:,.0f}/s, and alone each holds a "
            f"connection for {milliseconds(self._held)}: {guess} in use. Under load each takes longer, so try."
        )
        sizes = ladder(limits.most, guess, self.settings.database_pool_size, limits.backends or 0)
        self.trials = {size: [] for size in sizes}
        rounds = [size for turn in range(REPEATS) for size in sizes[:: -1 if turn % 2 else 1]]
        expected = [self._expected(size) for size in rounds]
        self.console.print(
            f"{self.budget}\n{self.guess}\n"
            f"{len(sizes)} sizes up to {limits.most} ({limits.why}), {REPEATS} times each: about "
            f"{_minutes(sum(expected))}. Ctrl-C keeps what was learnt."
        )
        await self._try(guess if guess in sizes else sizes[-1])  # what comes first pays for cold caches
        progress = Progress(
            BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(), console=self.console
        )
        bar = progress.add_task("", total=sum(expected))
        with Live(console=self.console, transient=True, refresh_per_second=4) as live:
            for size, seconds in zip(rounds, expected, strict=True):
                progress.update(bar, description=_connections(size))
                live.update(Group(table(self), progress))
                trial = await self._try(size)
                if trial is not None:
                    self.trials[size].append(trial)
                if len(self.failures) >= MOST_FAILURES or trial is None:
                    self.stopped = f"Stopped at {_connections(size)}: {self.failures[-1]}."
                    return
                progress.advance(bar, seconds)

    @asynccontextmanager
    async def _engine(self, size: int) -> AsyncIterator[AsyncEngine]:
        pool = {"database_pool": "queue", "database_pool_size": size, "database_max_overflow": 0}
        engine = create_engine(self.settings.model_copy(update=pool))
        try:
            yield engine
        finally:
            await engine.dispose()

    async def _look(self) -> int:
        """Try the statement with one connection, and time it; connections that PostgreSQL has free."""
        load = self.load
        async with self._engine(1) as engine:
            try:
                async with engine.connect() as connection:
                    pid = await connection.scalar(_BACKEND)
                    # A pooler tells each client an id of its own making.
                    raw = await connection.get_raw_connection()
                    pooled = raw.driver_connection.get_server_pid() != pid  # type: ignore[union-attr]
                    room = (await connection.execute(_BUDGET, {"pooled": pooled})).one()
                    await connection.rollback()
                    if not load.hold:
                        # What a function does can't be seen. So the first time it can't write.
                        await connection.execute(text("SET TRANSACTION READ ONLY"))
                        await connection.execute(load.statement)
                work = load.work(engine)
                times: list[float] = []
                while len(times) < IN_A_ROW or (len(times) < 100 and sum(times) < load.seconds):
                    begun = monotonic()
                    await work()
                    times.append(monotonic() - begun)
            except SQLAlchemyError as error:
                raise SystemExit(f"{_explain(error)}.") from None
        self._held = sorted(times)[len(times) // 2]
        free: int = room.most - room.reserved - room.in_use
        self.budget = (
            f"PostgreSQL has {_connections(free)} free: max_connections {room.most}, {room.reserved} reserved, "
            f"{room.in_use} in use by others."
        )
        if free < 1:
            raise SystemExit(self.budget)
        return free

    async def _fill(self, free: int) -> Limits:
        """Open as many connections as may be tried, and count the server connections behind them."""
        bounds = {
            "there are no more requests at once": self.load.concurrency,
            "PostgreSQL has no more free": free,
            "--max-pool allows no more": self.load.most or free,
        }
        why, most = min(bounds.items(), key=lambda bound: bound[1])
        backends = None
        async with self._engine(most) as engine:
            begun = monotonic()
            opened, refusal = await _open(engine, most)
            self._opening = (monotonic() - begun) / most
            held, keeps, failure = await _held_at_once(engine, opened)
        if not held:
            raise SystemExit(f"{failure or refusal}.")
        if keeps:
            most, why = held, SESSION_MODE.format(held)
        elif refusal or failure:
            most, why = held, refusal or failure
        elif held < most:
            backends = held
        return Limits(most, why, free, backends, self.settings.requests_per_connection)

    async def _try(self, size: int) -> Trial | None:
        """One trial, in a pool whose connections are open. None: it can't be filled."""
        async with self._engine(size) as engine:
            for _ in range(2):
                opened, refusal = await _open(engine, size)
                if opened == size:
                    return await _measure(self.load, self.load.work(engine), self._seconds, self.failures)
                self.failures.append(refusal)
                await asyncio.sleep(PATIENCE)  # PostgreSQL takes a moment to notice who has gone
        return None

    @property
    def _seconds(self) -> float:
        return max(self.load.seconds, IN_A_ROW * self._held)

    def _expected(self, size: int) -> float:
        """Seconds of a trial: its pool is filled, and those who still wait at its end are answered."""
        wait = min(
            self.load.concurrency * self._held / size, self.settings.database_pool_timeout + self._held
        )
        return self._opening * size + SETTLE + self._seconds + wait


async def _open(engine: AsyncEngine, size: int) -> tuple[int, str]:
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
                    refusals.append(_explain(error))
                    return 0
                return 1

        opened = sum(await asyncio.gather(*(open_one() for _ in range(size))))
    return opened, refusals[0] if refusals else ""


async def _held_at_once(engine: AsyncEngine, size: int) -> tuple[int, bool, str]:
    """How many of so many transactions have a server connection at the same time; whether the others
    get none after them either; and why one failed."""
    pids: set[int] = set()
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with engine.connect() as connection:
            pids.add((await connection.execute(_BACKEND)).scalar_one())
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
        ended, waiting = await asyncio.wait(holding, timeout=PATIENCE)
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    errors = [it.exception() for it in ended if not it.cancelled()]
    failure = next((_explain(it) for it in errors if isinstance(it, SQLAlchemyError)), "")
    return held, bool(waiting), failure


async def _measure(load: Load, work: Work, seconds: float, failures: list[str]) -> Trial | None:
    """Ask as many at once as the load has. None, if nobody was answered."""
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
                failures.append(_explain(error))
                continue
            now = monotonic()
            # The next request comes from the network: those who wait have their turn before it.
            await asyncio.sleep(0)
            if now >= begin:
                waits.append(now - asked)
                refused += not found
                answered += found and now < end

    async with asyncio.TaskGroup() as clients:
        for _ in range(load.concurrency):
            clients.create_task(client())
        await asyncio.sleep(SETTLE)
        used = process_time()
        await asyncio.sleep(seconds)
        used = process_time() - used
    if not waits:
        return None
    waits.sort()
    p50, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.99))
    return Trial(answered / seconds, p50, p99, refused, used / seconds)


def _explain(error: SQLAlchemyError) -> str:
    """What went wrong, and what to do, without a full stop."""
    failure = classify(error)
    cause = getattr(error, "driver_exception", None) or error
    told = (getattr(cause, "message", None) or str(cause)).partition("\n")[0].rstrip(".")
    sqlstate = getattr(cause, "sqlstate", None)
    if isinstance(cause, TimeoutError):
        told = "no answer within DATABASE_COMMAND_TIMEOUT"
    if failure is Failure.LOGIN:
        return (
            f"DATABASE_URL can't be used: {told}. Check the user, the password and the database, and do not try "
            "again and again"
        )
    if sqlstate == "25006":
        return (
            f"the statement writes ({told}), and it would run thousands of times. Time the transaction that it "
            "belongs to, and give that instead: --hold 8ms"
        )
    if failure is Failure.UNAVAILABLE:
        return f"the database, or the pooler before it, does not serve: {told}. See docs/operations.md"
    perhaps = ", perhaps for want of a migration" if sqlstate in ("42P01", "42703") else ""
    return f"the statement fails{perhaps}: {told}"


def table(tuning: Tuning) -> Table:
    """What was measured so far."""
    choice = tuning.choice
    rows = Table(*(Column(name, justify="right") for name in HEAD), "")
    for size in tuning.sizes:
        chosen = choice is not None and size == choice.size
        mark = "<- this" if chosen else ""
        rows.add_row(*cells(size), mark, style="bold" if chosen else None)
    return rows


def _connections(number: int) -> str:
    return f"{number} connection{'s'[: number != 1]}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _seconds(option: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)", value.strip())
    if not found or not float(found[1]):
        raise SystemExit(f"{option} is a time, such as 50ms or 1.5s, and not {value!r}.")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def _load(
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
    tables = Base.metadata.sorted_tables
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
    return Load(statement, described, held, concurrency, _seconds("--target-p99", target), most, seconds)


def run(
    sql: str | None,
    hold: str | None,
    concurrency: int,
    target_p99: str,
    max_pool: int | None,
    seconds: float,
    page: Path | None,
) -> int:
    """Run the command; its exit code."""
    command = shlex.join(["{{ cookiecutter.project_slug }}", *sys.argv[1:]])
    if page is not None:
        if find_spec("matplotlib") is None:
            raise SystemExit(
                "The page's chart needs the dependencies of the group `tune`, which an image does not have: "
                f"`uv run --group tune {command}`, or add --no-page."
            )
        if not os.access(page.parent, os.W_OK) or page.is_dir():
            raise SystemExit(f"{page} can't be written: choose another --page, or --no-page.")
    settings = load_settings()
    load = _load(settings, sql, hold, concurrency, target_p99, max_pool, seconds)
    console = Console(highlight=False, markup=False, emoji=False)
    tuning = Tuning(settings, load, console)
    console.print(tuning.title, style="bold")
    interrupted = False
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(tuning.run())
    except KeyboardInterrupt:
        interrupted = True
        tuning.stopped = (
            f"Stopped by Ctrl-C: {len(tuning.sizes)} of {len(tuning.trials)} sizes were tried."
        )
    choice = tuning.choice
    if choice is None or tuning.limits is None:
        console.print(tuning.stopped or "Nothing was answered.")
        return INTERRUPTED if interrupted else 1
    sentences = advice(choice, tuning.limits, load.concurrency, load.target)
    console.print(table(tuning))
    for sentence in filter(None, [tuning.stopped, *sentences]):
        console.print(sentence)
    if page is not None:
        from {{ cookiecutter.package_name }}.observe.page import write

        write(page, tuning, choice, sentences, command)
        console.print(f"The chart is in {page}.")
    return INTERRUPTED if interrupted else int(bool(tuning.stopped))
