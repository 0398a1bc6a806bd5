"""What the pool does, for Prometheus and for the log of a request.

The metrics have OpenTelemetry's names for a pool (semantic conventions 1.44, `db.client.connection.*`)
in Prometheus' spelling. They are of the process, which has one pool, so the pool's name is left out.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from {{ cookiecutter.package_name }}.database.failures import Failure, all_broke
from {{ cookiecutter.package_name }}.settings import Settings

# Seconds that a connection may be held without a statement before the log says so. A choice: no
# healthy request comes near it, and with the defaults others wait twice as long before they give up.
HELD_TOO_LONG = 2.5

# Seconds: from a read beside the database to more than DATABASE_COMMAND_TIMEOUT.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

METRICS = CollectorRegistry()

_POOL = "db_client_connection"
# livesum: of all workers together.
_gauge = partial(Gauge, namespace=_POOL, registry=METRICS, multiprocess_mode="livesum")
_counter = partial(Counter, namespace=_POOL, registry=METRICS)
_histogram = partial(Histogram, namespace=_POOL, registry=METRICS, unit="seconds", buckets=_BUCKETS)

_count = _gauge("count", "Connections: idle or used.", ["db_client_connection_state"])
_idle, _used = _count.labels("idle"), _count.labels("used")
_max = _gauge("max", "Connections that there may be: pool size and overflow.")
_pending = _gauge("pending_requests", "Who waits for a connection.")
_timeouts = _counter("timeouts", "Who waited for DATABASE_POOL_TIMEOUT in vain.")
_create_time = _histogram("create_time", "To open a connection, its turn included: two at a time.")
_wait_time = _histogram("wait_time", "To get a connection, opened or pinged if need be.")
_use_time = _histogram("use_time", "From the checkout of a connection to its return.")
_closed = _counter(
    "closed", "Connections closed. surplus: overflow, or a pool that keeps none.", ["reason"]
)
failures = Counter(
    "db_client_failures",
    "Failures of the database, by kind and by a pooler's word for it.",
    ["failure", "pooler"],
    registry=METRICS,
)
# Prometheus does not see a counter grow that begins with 1.
for _reason in ("recycled", "ping_failed", "server_closed", "failure", "surplus"):
    _closed.labels(_reason)
for _kind in Failure:
    failures.labels(_kind.name.lower(), "")

log = structlog.get_logger()
_tracer = trace.get_tracer(__name__)


@dataclass(slots=True)
class Spent:
    """What a request has asked of the database so far."""

    route: Callable[[], str | None]
    """Its path with the names of parameters, once it is known."""
    request_id: str | None
    statements: int = 0
    database: float = 0.0
    """Seconds between statements and their answers. Those that ran at once are all in it."""
    waited: float = 0.0
    """Seconds for connections."""
    open: list[asyncio.Task[Any] | None] = field(default_factory=list)
    """The task of each transaction that has begun and not ended."""


spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


@contextmanager
def waiting() -> Iterator[None]:
    """Somebody waits for a connection, until it is there or nobody waits any more."""
    begun = time.perf_counter()
    _pending.inc()
    try:
        yield
    except PoolTimeoutError:
        _timeouts.inc()
        raise
    finally:
        _pending.dec()
        waited = time.perf_counter() - begun
        _wait_time.observe(waited)
        if (request := spent.get()) is not None:
            request.waited += waited


@dataclass(eq=False, slots=True)
class Use:
    """A connection on loan."""

    connection: Any
    request: Spent | None
    since: float
    sent: float
    answered: float
    queries: int | None = None
    """How many the driver had sent when somebody looked."""
    reported: bool = False


@contextmanager
def sent(use: Use | None, sql: str, statements: int = 1) -> Iterator[None]:
    """Something is on its way to the database: time it, and let a request that is traced show it.

    With spans of our own. The instrumentation of asyncpg puts PostgreSQL's messages into its spans, and
    these have people's data in them.
    """
    if use is None:  # nobody watches this engine
        yield
        return
    span = None
    if trace.get_current_span().is_recording():
        attributes = {"db.system.name": "postgresql", "db.query.text": sql}
        name = next(iter(sql.split(maxsplit=1)), "")
        span = _tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
    use.sent = time.perf_counter()
    try:
        yield
    except BaseException as error:
        if span is not None:
            span.set_status(trace.StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__qualname__)
        raise
    finally:
        use.answered = time.perf_counter()
        if use.request is not None:
            use.request.statements += statements
            use.request.database += use.answered - use.sent
        if span is not None:
            span.end()


def trace_id() -> str | None:
    """Of the request that is being served, if it is traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


class _Watch:
    """Listens to an engine and its pool. Each method without an underscore has the name of an event."""

    def __init__(self, engine: AsyncEngine, recycle: float) -> None:
        self._recycle = recycle
        self._uses: set[Use] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._failed_at = 0.0
        event.listen(engine.sync_engine, "do_connect", self.do_connect)
        for name in ("connect", "checkout", "checkin", "invalidate", "detach", "close"):
            event.listen(engine.sync_engine.pool, name, getattr(self, name))

    def do_connect(self, dialect: Any, entry: ConnectionPoolEntry, *arguments: Any) -> None:
        entry.info["begun"] = time.perf_counter()

    def connect(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        now = time.perf_counter()
        _create_time.observe(now - entry.info["begun"])
        entry.info["opened"] = now
        _idle.inc()

    def checkout(self, connection: Any, entry: ConnectionPoolEntry, proxy: Any) -> None:
        now = time.perf_counter()
        driver = connection.driver_connection
        driver.use = use = Use(driver, spent.get(), now, now, now)
        self._uses.add(use)
        if self._timer is None:
            self._look_later()
        _idle.dec()
        _used.inc()

    def checkin(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        if connection is not None and self._end(connection):
            _idle.inc()

    def invalidate(
        self, connection: Any, entry: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        reason = "failure"
        if isinstance(error, DisconnectionError):  # of the dialect's ping
            reason = "ping_failed" if error.__cause__ else "server_closed"
        if isinstance(error, InvalidatePoolError) or (error is not None and all_broke(error)):
            self._failed_at = time.perf_counter()
        entry.info["reason"] = reason

    def detach(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        self._end(connection)  # it is the pool's no more, as one that the garbage collector found

    def close(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        opened = entry.info["opened"]
        old = time.perf_counter() - opened > self._recycle
        reason = "recycled" if old else "surplus"
        if opened < self._failed_at:  # it goes because of another one's failure
            reason = "failure"
        _closed.labels(entry.info.get("reason", reason)).inc()
        if not self._end(connection):
            _idle.dec()

    def _end(self, connection: Any) -> bool:
        """Whether the connection was on loan until now."""
        use = connection.driver_connection.use
        if use is None:
            return False
        connection.driver_connection.use = None
        self._uses.discard(use)
        _used.dec()
        _use_time.observe(time.perf_counter() - use.since)
        return True

    def _look_later(self) -> None:
        # One timer for all, rather than one for each checkout, and in no request's context.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HELD_TOO_LONG / 2, self._look, context=Context())

    def _look(self) -> None:
        """Say who holds a connection and does nothing with it: the usual way to exhaust a pool."""
        self._timer = None
        if self._uses:
            self._look_later()
        now = time.perf_counter()
        for use in self._uses:
            if use.sent > use.answered:
                continue
            known, use.queries = use.queries, use.connection._protocol.queries_count
            if known is not None and known != use.queries:  # a cursor's fetches, which nobody times
                use.answered = now
            idle = now - use.answered
            if idle >= HELD_TOO_LONG and not use.reported:
                use.reported = True
                log.warning(
                    "connection held without a statement",
                    route=use.request.route() if use.request else None,
                    request_id=use.request.request_id if use.request else None,
                    seconds=round(idle, 1),
                )


def watch(engine: AsyncEngine, settings: Settings) -> None:
    """Count and time what the engine's pool does, until the process ends."""
    _Watch(engine, settings.database_pool_recycle)
    if settings.database_pool == "queue":
        _max.set(settings.database_pool_size + settings.database_max_overflow)
    # What a worker that was killed had open is not open any more.
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another worker has just done so
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
