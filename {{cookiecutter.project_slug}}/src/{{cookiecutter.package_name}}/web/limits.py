"""What clients may ask of this process: how much at once, and how much in one request."""

import asyncio
import random
from contextlib import ExitStack
from time import monotonic

from fastapi.exceptions import HTTPException
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from {{ cookiecutter.package_name }}.web.problems import refuse

# Bytes of a request line and headers, or of the trailers behind a body. A choice: twice what nginx
# lets through by default. One read, 256 KiB at most, may come on top.
MAX_HEAD = 64 * 1024

# Requests sent ahead on a connection, before the first was answered. A choice: browsers send none.
MAX_AHEAD = 16

# Bytes. A choice: a hundred times an ordinary JSON body, and 0.7 s of work at worst.
MAX_BODY = 1024 * 1024

# Seconds until the next part of a body. A choice: half of what nginx allows by default.
BODY_TIMEOUT = 30

# Seconds of the longest Retry-After. A choice: an estimate that was wrong is forgotten as soon.
LONGEST = 10

# Seconds of a request, before any was served. Rather too few: to be refused once more costs less than
# connections that nobody uses.
FIRST_GUESS = 0.05

# What one request weighs in the estimate.
NEWS = 0.1


class HeadLimit(HttpToolsProtocol):
    """uvicorn's protocol, with limits: its own keeps a header of any size and copies it at every read.
    100 MB took 200 MB of memory and answered nobody else for 8 seconds."""

    _unfinished = 0  # bytes since the last that belonged to a body or ended a request

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unfinished > MAX_HEAD:
            self.send_400_response("The request's headers are too large.")
        elif len(self.pipeline) > MAX_AHEAD:
            self.transport.close()

    def on_headers_complete(self) -> None:
        # Trailers go to the list that there is now: one behind a body would be a header of the request.
        self.scope["headers"] = list(self.headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()


class RequestLimit:
    """Answers 503 at once while more requests are in flight than `limit`: one that waits for a connection
    until the pool's timeout costs as much as one that is served, and a thousand that time out together
    keep everybody waiting, probes too (which are exempt).

    A request is in flight until its response starts: a stream or a background task may last for hours.
    """

    def __init__(
        self, app: ASGIApp, limit: int, connections: int, exempt: set[str], refused: Counter
    ) -> None:
        self.app = app
        self.limit = limit
        self.exempt = exempt
        self.refused = refused
        self.in_flight = 0
        self.tickets = Tickets(connections)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.exempt:
            await self.app(scope, receive, send)
        elif self.in_flight >= self.limit:
            self.refused.inc()
            await refuse(send, self.tickets.take())
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight += 1
        with ExitStack() as place:
            place.callback(self._give_back, monotonic(), self.in_flight)

            async def started(message: Message) -> None:
                if message["type"] == "http.response.start":
                    place.close()
                await send(message)

            await self.app(scope, receive, started)

    def _give_back(self, begun: float, found: int) -> None:
        # Little's law: so many were in flight on average, and one left every so often.
        self.tickets.learn(monotonic() - begun, (found + self.in_flight) / 2)
        self.in_flight -= 1


class Tickets:
    """When who is refused may come back: each at the next free place of a queue that nobody stands in
    and that moves as fast as requests are served. All after a second would be refused again."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        # Seconds from one request that is served to the next, while all connections are in use.
        self.pace = FIRST_GUESS / connections
        self.last = 0.0  # the moment of the last ticket

    def learn(self, seconds: float, in_flight: float) -> None:
        """A request took so long, beside so many."""
        pace = seconds / max(in_flight, self.connections)
        self.pace += (pace - self.pace) * NEWS

    def take(self) -> int:
        """Seconds to wait, as `Retry-After` has them."""
        now = monotonic()
        self.last = min(max(self.last, now) + self.pace, now + LONGEST)
        wait = self.last - now
        if wait == LONGEST:  # no more places: not all at its end
            wait *= random.uniform(0.5, 1)
        # Whole seconds. Some round up, some down, so that every moment has as many as it had places.
        return max(1, int(wait + random.random()))


class BodyLimit:
    """Answers 413 once a body grows beyond `MAX_BODY`, and 408 when it stops coming, as of a client that
    vanished. (FastAPI's own `max_body_size` answers in plain text, past every handler.)"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:  # what comes now is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413)
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)
