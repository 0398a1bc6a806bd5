"""What clients may ask of this process: how much at once, and how much in one request."""

import asyncio

from fastapi.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{ cookiecutter.package_name }}.web.problems import busy

# Bytes. A choice: a hundred times an ordinary JSON body. The worst that was measured, 70,000 unknown
# fields, kept the process busy for 0.7 s.
MAX_BODY = 1024 * 1024

# Seconds until the next part of a body. A choice: half of what nginx allows by default.
BODY_TIMEOUT = 30


class RequestLimit:
    """Answers 503 at once while more requests are in flight than `limit`.

    A request that can't be served is cheapest at its beginning. One that waits for a connection until
    the pool's timeout costs as much as one that is served, and a thousand that time out together keep
    everybody waiting, probes too. Those are let through here.
    """

    def __init__(self, app: ASGIApp, limit: int, exempt: frozenset[str]) -> None:
        self.app = app
        self.limit = limit
        self.exempt = exempt
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.exempt:
            await self.app(scope, receive, send)
        elif self.in_flight >= self.limit:
            await busy()(scope, receive, send)
        else:
            self.in_flight += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.in_flight -= 1


class BodyLimit:
    """Answers 413 once a request's body grows beyond `MAX_BODY`, and 408 when it stops coming.

    A client that vanished in the middle of a body would otherwise be in flight for ever.

    FastAPI's own `max_body_size` answers a large Content-Length in plain text, past every handler.
    """

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
