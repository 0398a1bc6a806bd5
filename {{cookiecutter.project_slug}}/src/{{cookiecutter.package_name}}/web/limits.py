"""What clients may ask of this process: how much at once, and how much in one request."""

from fastapi.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from {{ cookiecutter.package_name }}.web.problems import busy

# Bytes. A choice: a hundred times an ordinary JSON body. The worst that was measured, 70,000 unknown
# fields, kept the process busy for 0.7 s.
MAX_BODY = 1024 * 1024

# Bytes of a request line and headers, or of the trailers behind a body. A choice: twice what nginx
# lets through by default (4 x 8 KiB). One read, 256 KiB at most, may come on top.
MAX_HEAD = 64 * 1024


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
    """Answers 413 once a request's body grows beyond `MAX_BODY`.

    FastAPI's own `max_body_size` answers a large Content-Length in plain text, past every handler.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413)
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)


class HeadLimit(HttpToolsProtocol):
    """uvicorn's protocol, which refuses a head or trailers beyond `MAX_HEAD`.

    Its own keeps a header of any size, and copies it at every read: 100 MB took 200 MB of memory and
    answered nobody else for 8 seconds.
    """

    _unfinished = 0  # bytes since the last that belonged to a body or ended a request

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's headers are too large.")

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()
