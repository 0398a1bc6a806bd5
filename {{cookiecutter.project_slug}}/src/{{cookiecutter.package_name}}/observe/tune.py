"""`tune`: tries sizes of the pool under load, and says which one to set.

What runs is the service's own engine with its own settings, but for the size of its pool.
"""

import asyncio
import math
import os
import signal
from contextlib import AbstractAsyncContextManager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.engine import open_engine
from {{ cookiecutter.package_name }}.observe.load import (
    BACKEND,
    PATIENCE,
    SETTLE,
    Load,
    explain,
    held_at_once,
    make_load,
    measure,
    open_connections,
)
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

# Requests of which a trial's time has room for at least so many, one after the other.
IN_A_ROW = 4

# The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

SESSION_MODE = (
    "the pooler has {} server connections, and each client keeps one: session mode. DATABASE_URL has "
    "to be its transaction mode"
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


class Tuning:
    """What was found so far: whoever interrupts it can still read it."""

    def __init__(self, settings: Settings, load: Load, console: Console) -> None:
        self.settings = settings
        self.load = load
        self.console = console
        self.title = (
            f"{load.concurrency} requests at once: {load.described}, on {settings.database_url}"
        )
        self.limits: Limits | None = None
        self.budget = ""
        self.guess = ""
        self.trials: dict[int, list[Trial]] = {}
        self.failures: list[str] = []
        self.stopped = ""
        self._pooled = False
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
        await self._try(sizes[-1])  # what comes first pays for cold caches
        progress = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        bar = progress.add_task("", total=sum(expected))
        with Live(console=self.console, transient=True, refresh_per_second=4) as live:
            for size, seconds in zip(rounds, expected, strict=True):
                progress.update(bar, description=_connections(size))
                live.update(Group(table(self), progress))
                trial = await self._try(size)
                if trial is None:
                    why = self.failures[-1] if self.failures else "nothing was answered"
                    self.stopped = f"Stopped at {_connections(size)}: {why}."
                    return
                self.trials[size].append(trial)
                progress.advance(bar, seconds)
                if not self.console.is_terminal:
                    self.console.print(f"{_connections(size)}: {trial.rate:,.0f} requests/s")

    def _engine(self, size: int) -> AbstractAsyncContextManager[AsyncEngine]:
        pool = {"database_pool": "queue", "database_pool_size": size, "database_max_overflow": 0}
        return open_engine(self.settings.model_copy(update=pool))

    async def _look(self) -> int:
        """Try the statement with one connection, and time it; connections that PostgreSQL has free."""
        load = self.load
        async with self._engine(1) as engine:
            try:
                async with engine.connect() as connection:
                    pid = await connection.scalar(BACKEND)
                    # A pooler tells each client an id of its own making.
                    raw = await connection.get_raw_connection()
                    self._pooled = raw.driver_connection.get_server_pid() != pid  # type: ignore[union-attr]
                    room = (await connection.execute(_BUDGET, {"pooled": self._pooled})).one()
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
                raise SystemExit(f"{explain(error)}.") from None
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
        async with self._engine(most) as engine:
            begun = monotonic()
            opened, refusal = await open_connections(engine, most)
            self._opening = (monotonic() - begun) / most
            held, keeps, failure = opened, False, ""
            if self._pooled:
                held, keeps, failure = await held_at_once(engine, opened)
        if not held:
            raise SystemExit(f"{failure or refusal}.")
        if keeps or failure:
            most, why = held, failure or SESSION_MODE.format(held)
        elif refusal:
            most, why = opened, refusal
        backends = held if held < most else None
        return Limits(most, why, free, backends, self.settings.requests_per_connection)

    async def _try(self, size: int) -> Trial | None:
        """One trial, in a pool whose connections are open. None: it can't be filled."""
        async with self._engine(size) as engine:
            for _ in range(2):
                opened, refusal = await open_connections(engine, size)
                if opened == size:
                    return await measure(
                        self.load, self.load.work(engine), self._seconds, self.failures
                    )
                self.failures.append(refusal)
                await asyncio.sleep(PATIENCE)  # PostgreSQL takes a moment to notice who has gone
        return None

    @property
    def _seconds(self) -> float:
        return max(self.load.seconds, IN_A_ROW * self._held)

    def _expected(self, size: int) -> float:
        """Seconds of a trial: its pool is filled, and those who still wait at its end are answered."""
        wait = min(
            self.load.concurrency * self._held / size,
            self.settings.database_pool_timeout + self._held,
        )
        return self._opening * size + SETTLE + self._seconds + wait


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


def run(
    sql: str | None,
    hold: str | None,
    concurrency: int,
    target_p99: str,
    max_pool: int | None,
    seconds: float,
    page: Path | None,
    command: str,
) -> int:
    """Run the command, which was called so; its exit code."""
    if page is not None:
        if find_spec("matplotlib") is None:
            raise SystemExit(
                "The page's chart needs the dependencies of the group `tune`, which an image does not have: "
                f"`uv run --group tune {command}`, or add --no-page."
            )
        if not os.access(page.parent, os.W_OK) or page.is_dir():
            raise SystemExit(f"{page} can't be written: choose another --page, or --no-page.")
    settings = load_settings()
    if settings.database_pool == "null":
        raise SystemExit("DATABASE_POOL=null keeps no connections, so there is no size to find.")
    load = make_load(settings, sql, hold, concurrency, target_p99, max_pool, seconds)
    console = Console(highlight=False, markup=False, emoji=False)
    tuning = Tuning(settings, load, console)
    console.print(tuning.title, style="bold")
    interrupted = False
    with suppress(ValueError):  # in another thread than the first
        # A job in the background of a shell's script ignores it otherwise, and asyncio with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(tuning.run())
    except KeyboardInterrupt:
        interrupted = True
        tried = f"{len(tuning.sizes)} of {len(tuning.trials)} sizes were"
        tuning.stopped = f"Stopped by Ctrl-C: {tried if tuning.sizes else 'nothing was'} tried."
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
