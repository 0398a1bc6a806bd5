"""The pool of an engine: SQLAlchemy's, where who waits keeps their place, and is counted."""

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

from {{ cookiecutter.package_name }}.database.connection import EventLoopError
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
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with suppress(RuntimeError):  # made outside of any, it is that of the first who connects
            self._loop = asyncio.get_running_loop()

    def connect(self) -> PoolProxiedConnection:
        if (running := asyncio.get_running_loop()) is not self._loop:
            self._refuse_another_loop()
            self._loop = running
        with waiting():
            return super().connect()

    def dispose(self) -> None:
        self._refuse_another_loop()
        super().dispose()

    def _refuse_another_loop(self) -> None:
        known = self._loop is not None and not self._loop.is_closed()
        if known and self._loop is not asyncio.get_running_loop():
            raise EventLoopError
