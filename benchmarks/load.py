"""HTTP load, cheap enough not to be what is measured.

One asyncio.Protocol for each connection, on uvloop with httptools' parser: no client library, no task
for each request.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

LOST = 0
"""In the place of a status: the connection ended, or could not be made, before there was an answer."""

PATIENCE = 120
"""Seconds beyond its time until a benchmark gives up on an answer."""


def get(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A POST request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def percentile(values: Sequence[float], percent: int) -> float | None:
    """A percentile, or None of nothing. Never beyond what was measured."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self, answered: Callable[["Connection", int], None]) -> None:
        self.answered = answered
        """Called with the status of every response, or LOST."""
        self.retry_after = 0.0
        """Seconds, as the last response said."""
        self.begun = 0.0
        """When the last request was sent, in seconds of time.monotonic()."""
        self.waits = False
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpResponseParser(self)
        self.open = True

    def send(self, request: bytes) -> None:
        self.begun = time.monotonic()
        self.waits = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.retry_after = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self.retry_after = float(value)

    def on_message_complete(self) -> None:
        self.waits = False
        self.answered(self, self.parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self.waits:
            self.waits = False
            self.answered(self, LOST)

    def close(self) -> None:
        self.waits = False
        self.transport.close()


async def connect(port: int, answered: Callable[[Connection, int], None]) -> Connection:
    """Connect to a service on this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
    return connection


@dataclass
class Slice:
    """What a closed loop saw."""

    statuses: Counter[int]
    """Of every response, those of the warm-up as well."""
    seconds: float
    """How long was measured."""
    latencies: list[float]
    """In seconds, of what was answered in that time."""


async def closed_loop(
    port: int,
    request: Callable[[], bytes],
    *,
    connections: int,
    warm_up: float,
    seconds: float,
    edge: Callable[[], None],
) -> Slice:
    """Keep every connection busy with one request after the other.

    Args:
        request: the next request.
        warm_up: seconds before what counts.
        seconds: how long is measured. Both last longer where a slow machine has not given as many
            answers by then as there are connections.
        edge: called when the measured time begins, and when it ends.
    """
    result = Slice(Counter(), 0.0, [])
    measuring, stopping = False, False
    busy = connections
    done = asyncio.Event()

    def answered(connection: Connection, status: int) -> None:
        nonlocal busy
        result.statuses[status] += 1
        if measuring:
            result.latencies.append(time.monotonic() - connection.begun)
        if stopping or status == LOST:
            busy -= 1
            if not busy:
                done.set()
        else:
            connection.send(request())

    async def last(seconds: float) -> None:
        enough = result.statuses.total() + connections
        await asyncio.sleep(seconds)
        while result.statuses.total() < enough and busy:
            await asyncio.sleep(0.05)

    async with asyncio.timeout(warm_up + seconds + PATIENCE):
        opened = [await connect(port, answered) for _ in range(connections)]
        for connection in opened:
            connection.send(request())
        await last(warm_up)
        edge()
        measuring, begun = True, time.monotonic()
        await last(seconds)
        measuring, result.seconds = False, time.monotonic() - begun
        edge()
        stopping = True
        await done.wait()
    for connection in opened:
        connection.close()
    return result


class Client:
    """Somebody who sends one request at a time, and connects again when the connection is gone."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection: Connection | None = None
        self.answer: asyncio.Future[int] | None = None

    def _answered(self, connection: Connection, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(status)

    async def ask(self, request: bytes) -> int:
        """Send a request and wait for as long as it takes: the status, or LOST."""
        self.answer = asyncio.get_running_loop().create_future()
        try:
            if self.connection is None or not self.connection.open:
                self.connection = await connect(self.port, self._answered)
        except OSError:
            return LOST
        self.connection.send(request)
        return await self.answer

    @property
    def retry_after(self) -> float:
        """Seconds, as the last response said, or 0."""
        return self.connection.retry_after if self.connection else 0.0

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


@dataclass
class Crowd:
    """What many clients saw. Times are in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    sent: int = 0
    served: list[float] = field(default_factory=list)
    """Latency of each 200."""
    shed: list[float] = field(default_factory=list)
    """Latency of each 503."""
    longest_wait: float = 0.0
    """For one answer, whatever it was."""
    longest_until_served: float = 0.0
    """From somebody's first attempt, with those after a 503. Who had not been served when the load
    ended has waited until then at least."""
    unserved: int = 0
    """Clients who had to give up because the load ended: their last answer was no 200."""
    seconds: float = 0.0
    """Until the load ended, or, if each asked until it was served, until the last was."""
    ended: float = 0.0
    """When the last answer came, in seconds of time.monotonic()."""
    served_in_time: int = 0
    """Served before the load ended."""


async def crowd(port: int, request: bytes, clients: int, seconds: float | None) -> Crowd:
    """Clients who all begin at the same moment, each with a connection of its own.

    Latencies count from the moment that a request should have been sent, which for the first one is
    before the client has a connection.

    Args:
        seconds: None: each asks until it is served, and then goes. Otherwise whoever is served is
            replaced by somebody new at once, for so many seconds, so the crowd never gets smaller.
            It is a closed loop: a service that answers late is asked less often, which is kind to
            it. Nobody gives up.
            Who is refused (503) tries again after Retry-After and up to a second more, which whole
            seconds can't say; after any other failure, after 1 to 2 s. When the load ends nobody
            sends any more, but whoever waits for an answer gets it.
    """
    result = Crowd()
    begun = time.monotonic()
    end = None if seconds is None else begun + seconds
    chance = random.Random(clients)

    async def one() -> None:
        client = Client(port)
        first = due = begun
        while True:
            result.sent += 1
            status = await client.ask(request)
            now = time.monotonic()
            waited = now - due
            result.statuses[status] += 1
            result.longest_wait = max(result.longest_wait, waited)
            over = status == 200 if end is None else now >= end
            if status == 200:
                result.served.append(waited)
                result.served_in_time += end is None or now < end
                result.longest_until_served = max(result.longest_until_served, now - first)
                first = due = now
            else:
                if status == 503:
                    result.shed.append(waited)
                if not over:
                    pause = (client.retry_after or 1.0) + chance.random()
                    await asyncio.sleep(pause if end is None else min(pause, end - now))
                    due = time.monotonic()
                    over = end is not None and due >= end
                if over:
                    result.unserved += 1
                    tried = time.monotonic() - first
                    result.longest_until_served = max(result.longest_until_served, tried)
            if over:
                break
        client.close()

    async with asyncio.timeout((seconds or 0) + PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
    result.ended = time.monotonic()
    result.seconds = seconds or result.ended - begun
    return result
