"""`tune`: tries sizes of the pool under load, and says which one to set.

What runs is the service's own engine with its own settings, but for the size of its pool.
"""

import asyncio
import math
import signal
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.table import Column, Table
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.engine import open_engine
from {{ cookiecutter.package_name }}.observe import load as loads
from {{ cookiecutter.package_name }}.observe import sizing
from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.budget import ROOM
from {{ cookiecutter.package_name }}.observe.patient import Client
from {{ cookiecutter.package_name }}.observe.pooler import find_mode
from {{ cookiecutter.package_name }}.settings import Settings, load_settings

# Times that each size is tried. The median of three bears one that was disturbed.
REPEATS = 3

# Requests of which a trial's time has room for at least so many, one after the other.
IN_A_ROW = 4

# Seconds until PostgreSQL has noticed that the connections of the trial before are gone.
GONE = 0.1

# The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

SESSION_MODE = (
    "the pooler has {} server connections, and each client keeps one: session mode. DATABASE_URL has "
    "to be its transaction mode"
)


@dataclass
class Tuning:
    """What was found so far: whoever interrupts it can still read it."""

    settings: Settings
    load: loads.Load
    console: Console
    limits: sizing.Limits | None = None
    told: list[str] = field(default_factory=list)
    """What is known before the first trial, in sentences."""
    trials: dict[int, list[sizing.Trial]] = field(default_factory=dict)
    stopped: str = ""

    @property
    def sizes(self) -> list[sizing.Size]:
        return [sizing.Size(size, trials) for size, trials in self.trials.items() if trials]

    @property
    def choice(self) -> sizing.Size | None:
        return sizing.choose(self.sizes, self.load.target)

    async def run(self) -> None:
        """Find the limits, then try each size."""
        load, target = self.load, sizing.milliseconds(self.load.target)
        self._tell(
            f"{load.concurrency} requests at once: {load.described}, on {self.settings.database_url}"
        )
        try:
            free, pooled, held = await self._look()
            limits = self.limits = await self._fill(free, pooled)
        except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise SystemExit(f"{_reason(error)}.") from None
        # Little's law: those in use are requests per second x the seconds that each holds one.
        rate = load.concurrency / load.target
        guess = math.ceil(rate * held)
        self._tell(
            f"First guess, by Little's law: {load.concurrency} requests at once, each answered within {target}, "
            f"are {rate:,.0f}/s, and alone each holds a connection for {sizing.milliseconds(held)}: {guess} in use. "
            "Under load each takes longer, so try."
        )
        seconds = max(load.seconds, IN_A_ROW * held)
        kept = self.settings.database_pool_size
        sizes = sizing.ladder(limits.most, guess, kept, limits.backends or 0)
        self.trials = {size: [] for size in sizes}
        rounds = [size for turn in range(REPEATS) for size in sizes[:: -1 if turn % 2 else 1]]
        self.console.print(
            f"{len(sizes)} sizes up to {limits.most} ({limits.why}), {REPEATS} times each: "
            f"{len(rounds) * (loads.SETTLE + seconds):.0f} s at least. Ctrl-C keeps what was learnt."
        )
        progress = Progress(console=self.console)
        bar = progress.add_task("", total=len(rounds))
        with Live(console=self.console, transient=True, refresh_per_second=4) as live:
            for size in rounds:
                progress.update(bar, description=_connections(size))
                live.update(Group(table(self), progress))
                try:
                    trial = await self._try(size, seconds)
                except SQLAlchemyError as error:
                    self.stopped = f"Stopped at {_connections(size)}: {_reason(error)}."
                    return
                self.trials[size].append(trial)
                progress.advance(bar)
                if not self.console.is_terminal:
                    self.console.print(f"{_connections(size)}: {trial.rate:,.0f} requests/s")

    def _tell(self, sentence: str) -> None:
        self.told.append(sentence)
        self.console.print(sentence)

    def _engine(self, size: int) -> AbstractAsyncContextManager[AsyncEngine]:
        pool = {"database_pool": "queue", "database_pool_size": size, "database_max_overflow": 0}
        return open_engine(self.settings.model_copy(update=pool))

    async def _look(self) -> tuple[int, bool, float]:
        """Try the load with one connection: what PostgreSQL has free, whether there is a pooler, and the
        seconds that a request holds a connection."""
        async with self._engine(1) as engine:
            async with engine.connect() as connection:
                client = await Client.of(connection)
                pooled = await client.hold() != client.key
                room = await client.row(ROOM, pooled)
                await client.run("ROLLBACK")
                if not self.load.in_transaction:
                    # What a function does can't be seen. So the first time it can't write.
                    await connection.execute(text("SET TRANSACTION READ ONLY"))
                    await connection.execute(self.load.statement)
            alone = await loads.measure(self.load.work(engine), 1, self.load.seconds)
        free = room["most"] - room["reserved"] - room["in_use"]
        self._tell(
            f"PostgreSQL has {_connections(free)} free: max_connections {room['most']}, {room['reserved']} reserved, "
            f"{room['in_use']} in use by others."
        )
        if free < 1:
            raise SystemExit(1)
        return free, pooled, alone.p50

    async def _fill(self, free: int, pooled: bool) -> sizing.Limits:
        """Open as many connections as may be tried, and count the server connections behind them."""
        bounds = {
            "there are no more requests at once": self.load.concurrency,
            "PostgreSQL has no more free": free,
            "--max-pool allows no more": self.load.most or free,
        }
        why, most = min(bounds.items(), key=lambda bound: bound[1])
        backends = None
        async with self._engine(most) as engine, loads.opened(engine, most) as (found, refusal):
            if refusal and not found:
                raise refusal
            if refusal:
                most, why = len(found), _reason(refusal)
            if pooled:
                mode, held = await find_mode([await Client.of(it) for it in found])
                if not held:
                    raise SystemExit("The pooler has no server connection free: try again later.")
                if held < most and mode == "transaction":
                    backends = held
                elif held < most:
                    most, why = held, SESSION_MODE.format(held)
        return sizing.Limits(most, why, free, backends, self.settings.requests_per_connection)

    async def _try(self, size: int, seconds: float) -> sizing.Trial:
        """One trial, in a pool whose connections are open."""
        await asyncio.sleep(GONE)
        async with self._engine(size) as engine:
            async with loads.opened(engine, size) as (_, refusal):
                pass
            if refusal:
                raise refusal
            return await loads.measure(self.load.work(engine), self.load.concurrency, seconds)


def table(tuning: Tuning) -> Table:
    """What was measured so far."""
    choice = tuning.choice
    rows = Table(*(Column(name, justify="right") for name in sizing.HEAD), "")
    for size in tuning.sizes:
        chosen = choice is not None and size.connections == choice.connections
        mark = "<- this" if chosen else ""
        rows.add_row(*sizing.cells(size), mark, style="bold" if chosen else None)
    return rows


def _connections(number: int) -> str:
    return f"{number} connection{'s'[: number != 1]}"


def _reason(error: BaseException) -> str:
    """What went wrong, and what to do, without a full stop."""
    found = explain(error)
    if found.values["sqlstate"] == "25006":
        return loads.WRITES.removesuffix(".")
    told = found.observed.partition("\n")[0].rstrip(".")
    return f"{told}: {found.advice}"


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
    if page is not None and find_spec("matplotlib") is None:
        raise SystemExit(
            "The page's chart needs the dependencies of the group `tune`, which an image does not have: "
            f"`uv run --group tune {command}`, or add --no-page."
        )
    if sql and hold:
        raise SystemExit("Take --sql or --hold: each is a load of its own.")
    settings = load_settings()
    if settings.database_pool == "null":
        raise SystemExit("DATABASE_POOL=null keeps no connections, so there is no size to find.")
    held = loads.seconds("--hold", hold) if hold else 0
    target = loads.seconds("--target-p99", target_p99)
    if held >= settings.database_command_timeout:
        raise SystemExit("--hold has to be shorter than DATABASE_COMMAND_TIMEOUT, which ends it.")
    statement, described = loads.statement_of(sql, held)
    load = loads.Load(statement, described, bool(held), concurrency, target, max_pool, seconds)
    console = Console(highlight=False, markup=False, emoji=False)
    tuning = Tuning(settings, load, console)
    code = 0
    with suppress(ValueError):  # in another thread than the first
        # A job in the background of a shell's script ignores it otherwise, and asyncio with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(tuning.run())
        code = int(bool(tuning.stopped))
    except KeyboardInterrupt:
        tried = f"{len(tuning.sizes)} of {len(tuning.trials)}"
        tuning.stopped = f"Stopped by Ctrl-C, after {tried} sizes."
        code = INTERRUPTED
    choice = tuning.choice
    if choice is None or tuning.limits is None:
        console.print(tuning.stopped or "Nothing was answered.")
        return code or 1
    sentences = sizing.advice(choice, tuning.sizes, tuning.limits, load.concurrency, load.target)
    console.print(table(tuning))
    for sentence in filter(None, [tuning.stopped, *sentences]):
        console.print(sentence)
    if page is not None:
        from {{ cookiecutter.package_name }}.observe.page import write

        write(page, tuning, choice, sentences, command)
        console.print(f"The chart is in {page}.")
    return code
