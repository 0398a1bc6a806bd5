"""The pool of an engine: SQLAlchemy's, where who waits keeps their place, and is counted."""

import asyncio

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

from {{ cookiecutter.package_name }}.database.metrics import waiting


class _Queue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """First come, first served. In SQLAlchemy's, a newcomer takes the connection that has just come back
    before the one who was woken for it gets to run, and that one goes to the end of the line."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        # Of the first in line; asyncio gives it to the others in the order of their coming.
        self._first = asyncio.Lock()

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        if not block or not self._first.locked():
            try:
                return self.get_nowait()
            except Empty:
                if not block:
                    raise
        try:
            return await_only(self._wait(timeout))
        except TimeoutError:
            raise Empty from None

    async def _wait(self, seconds: float | None) -> ConnectionPoolEntry:
        async with asyncio.timeout(seconds), self._first:
            return await self._queue.get()


class Pool(AsyncAdaptedQueuePool):
    """For engines that keep connections."""

    __module__ = AsyncAdaptedQueuePool.__module__  # after which SQLAlchemy names its logger
    _queue_class = _Queue

    def connect(self) -> PoolProxiedConnection:
        with waiting():
            return super().connect()
