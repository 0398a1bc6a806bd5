"""Whatever breaks: the service goes on by itself, and no write that it acknowledged is missing."""

import asyncio
import os
import signal
import time

import pytest

from tests.service.faults.load import Load, load
from tests.service.faults.servers import Servers
from tests.support import Served, connect, eventually_gone, new_client

GOOD = {200, 201}
STUCK = "state LIKE 'idle in transaction%'"


async def _ready(service: Served) -> None:
    async with asyncio.timeout(15):
        while (await service.client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)


async def _nothing_is_left(
    service: Served, servers: Servers, load: Load, *, told: set[int]
) -> None:
    """Clients were told these statuses and no other. Every acknowledged write is there, every
    connection is back, and no transaction is open."""
    assert load.statuses() == told
    assert service.process.returncode is None
    assert load.acknowledged
    assert load.acknowledged <= await servers.entries()
    async with asyncio.timeout(10):
        while (await service.client.get("/checked-out")).json():
            await asyncio.sleep(0.05)
    async with connect(servers.database_url) as direct:
        await eventually_gone(direct, STUCK)


async def test_postgresql_is_restarted_behind_the_pooler(servers: Servers, service: Served) -> None:
    async with load(service.client) as requests:
        await servers.stop_postgres()
        await requests.more(50)
        await servers.start_postgres()
        await _ready(service)
        back = time.monotonic()
        await requests.more(200)
    assert requests.statuses(since=back) == GOOD
    await _nothing_is_left(service, servers, requests, told=GOOD | {503})


async def _stop_one(servers: Servers, number: signal.Signals, query: str) -> int:
    """Send a signal to a backend that sleeps in `query`, and so holds no lock that others need."""
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query = $1"
    async with connect(servers.database_url) as direct, asyncio.timeout(5):
        while (pid := await direct.fetchval(sleeping, query)) is None:
            pass
        os.kill(pid, number)
        if number is signal.SIGKILL:  # it ends all others, this connection too
            while not direct.is_closed():
                await asyncio.sleep(0.01)
        if number is signal.SIGTERM:
            await eventually_gone(direct, "pid = $1", pid)
        return int(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_backend_is_killed(
    servers: Servers, service: Served, number: signal.Signals
) -> None:
    """After SIGKILL, as the kernel sends it when memory runs out, PostgreSQL ends all the others
    too and recovers from its log."""
    async with load(service.client) as requests:
        for _ in range(3):
            await _stop_one(servers, number, "COMMIT;")
            await _ready(service)
        back = time.monotonic()
        await requests.more(200)
    assert requests.statuses(since=back) == GOOD
    await _nothing_is_left(service, servers, requests, told=GOOD | {503})


async def test_a_backend_hangs(servers: Servers, service: Served) -> None:
    """Whoever is on it is answered 503 after DATABASE_COMMAND_TIMEOUT, 2 s here, and the 2 s that
    SQLAlchemy gives a connection to close; the others notice nothing."""
    async with load(service.client) as requests:
        started = time.monotonic()
        slow = asyncio.create_task(service.client.get("/slow", timeout=30))
        pid = await _stop_one(servers, signal.SIGSTOP, "SELECT pg_sleep(1.5)")
        try:
            assert (await slow).status_code == 503
            assert 2 <= time.monotonic() - started < 6
            await requests.more(100)
        finally:
            os.kill(pid, signal.SIGCONT)
    await _nothing_is_left(service, servers, requests, told=GOOD)


async def test_clients_hang_up(servers: Servers, service: Served) -> None:
    async with load(service.client) as requests:
        for turn in range(10):
            async with new_client(service.client.base_url) as client:
                posts = [
                    asyncio.create_task(client.post(f"/entries/{-50 * turn - number - 1}"))
                    for number in range(50)
                ]
                await asyncio.sleep(0.02 * turn)
                for post in posts:
                    post.cancel()
                await asyncio.gather(*posts, return_exceptions=True)
    await _nothing_is_left(service, servers, requests, told=GOOD)
