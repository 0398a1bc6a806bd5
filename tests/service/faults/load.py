"""Clients that write and read while something breaks, and remember what they were told."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from httpx import AsyncClient, TransportError

_numbers = itertools.count()


@dataclass(frozen=True)
class Answer:
    """Times are `time.monotonic()`; a status of 0 is a connection that was closed or refused."""

    started: float
    ended: float
    status: int


@dataclass
class Load:
    """What the clients were told."""

    client: AsyncClient
    answers: list[Answer] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    """The numbers of the entries whose write was answered 201."""

    stopping: bool = False

    def statuses(self, *, since: float = 0) -> set[int]:
        """Those of the requests that were sent since then."""
        return {answer.status for answer in self.answers if answer.started >= since}

    async def more(self, count: int) -> None:
        """Wait until that many more requests were answered."""
        wanted = len(self.answers) + count
        async with asyncio.timeout(20):
            while len(self.answers) < wanted:
                await asyncio.sleep(0.01)

    async def write_and_read(self) -> None:
        """What each client does. An entry that was acknowledged has to be there at once."""
        while not self.stopping:
            number = next(_numbers)
            if await self._ask("POST", number) == "null":
                self.acknowledged.add(number)
                assert await self._ask("GET", number) in ("true", None)
            else:
                await asyncio.sleep(0.02)

    async def _ask(self, method: str, number: int) -> str | None:
        """The body, if it is a success."""
        started = time.monotonic()
        try:
            response = await self.client.request(method, f"/entries/{number}", timeout=30)
            status, body = response.status_code, response.text
        except TransportError:
            status, body = 0, ""
        self.answers.append(Answer(started, time.monotonic(), status))
        return body if status in (200, 201) else None


@asynccontextmanager
async def load(client: AsyncClient, *, clients: int = 8) -> AsyncIterator[Load]:
    """Keep the service busy. On leaving, the clients end with the request they are in."""
    load = Load(client)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(load.write_and_read())
        try:
            await load.more(50)
            yield load
        finally:
            load.stopping = True
