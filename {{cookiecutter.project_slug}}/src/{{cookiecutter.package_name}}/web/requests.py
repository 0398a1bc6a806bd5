"""One line in the log for a request, with where its time went."""

import logging
import time

import structlog
from asgi_correlation_id import correlation_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{ cookiecutter.package_name }}.database.metrics import Spent, spent

# Seconds after which a request is logged as slow. A choice: ten times what a busy one takes.
SLOW = 1.0

log = structlog.get_logger(__name__)
_standard = logging.getLogger(__name__)


class RequestLog:
    """Logs a request that was slow, failed or did not end at info, every other at debug: the log of a
    healthy service stays short. `seconds` last until the end of the response, background tasks excepted;
    `Spent` says what `database` and `waited` are."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        spending = Spent(lambda: getattr(scope.get("route"), "path", None), correlation_id.get())
        spent.set(spending)
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        # 500: of one that raises, the answer is sent by who is outside of this.
        status, ended = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended = True
                _log(scope, spending, status, time.perf_counter() - begun)

        try:
            await self.app(scope, receive, watched)
        finally:
            if not ended:
                _log(scope, spending, status, time.perf_counter() - begun, unfinished=True)


def _log(scope: Scope, spending: Spent, status: int, seconds: float, **more: bool) -> None:
    level = logging.INFO if seconds >= SLOW or status >= 500 or more else logging.DEBUG
    if not _standard.isEnabledFor(level):  # or what follows would be a tenth of a read
        return
    log.log(
        level,
        "request",
        method=scope["method"],
        route=spending.route(),
        status=status,
        seconds=round(seconds, 4),
        database=round(spending.database, 4),
        statements=spending.statements,
        waited=round(spending.waited, 4),
        **more,
    )
