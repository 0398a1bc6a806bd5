"""One line in the log for a request, with where its time went."""

import logging
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{ cookiecutter.package_name }}.database.metrics import Spent, spent

# Seconds after which a request is logged as slow. A choice: ten times what a busy one takes.
SLOW = 1.0

log = structlog.get_logger(__name__)
_standard = logging.getLogger(__name__)


class RequestLog:
    """Logs a request that was slow or failed at info, every other at debug: the log of a healthy service
    stays short. The numbers of all are in /metrics.

    `seconds` last until the end of the response, background tasks excepted. `database` is the part of it
    between statements and their answers, `waited` that for connections.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            spent.set(Spent(scope))
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        request = Spent(scope)
        spent.set(request)
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                _log(request, status, time.perf_counter() - begun)

        await self.app(scope, receive, watched)


def _log(request: Spent, status: int, seconds: float) -> None:
    level = logging.INFO if seconds >= SLOW or status >= 500 else logging.DEBUG
    if not _standard.isEnabledFor(level):  # or what follows would be a tenth of a read
        return
    log.log(
        level,
        "request",
        method=request.scope["method"],
        route=request.route,
        status=status,
        seconds=round(seconds, 4),
        database=round(request.database, 4),
        statements=request.statements,
        waited=round(request.waited, 4),
    )
