"""Several workers, when one of them or their parent is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support import Database, Served, served

MAX = "\ndb_client_connection_max"


async def test_a_worker_that_was_killed_is_not_counted(database: Database, tmp_path: Path) -> None:
    env = {"DATABASE_POOL_SIZE": "7", "TMPDIR": str(tmp_path)}

    def workers() -> set[int]:
        files = tmp_path.glob("*/gauge_livesum_*.db")
        return {int(file.stem.removeprefix("gauge_livesum_")) for file in files}

    async with served(database.pooler_url, tmp_path, "--workers", "2", **env) as service:
        while len(both := workers()) < 2:
            await asyncio.sleep(0.05)
        os.kill(min(both), signal.SIGKILL)
        async with asyncio.timeout(20):
            while min(both) in workers():
                await asyncio.sleep(0.05)
            # prometheus_client answers 500 if it reads a file that another worker has just made.
            while " 14.0\n" not in await _exported(service):
                await asyncio.sleep(0.05)


async def _exported(service: Served) -> str:
    """What the pools of all workers have room for."""
    return (await service.client.get("/metrics")).text.partition(MAX)[2][:6]


async def test_workers_end_when_their_parent_is_killed(database: Database, tmp_path: Path) -> None:
    """They would serve on, and keep the port from whoever starts in its place."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orders_api", "serve", "--workers", "2", "--port", "0"),
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": database.pooler_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            for _ in range(2):
                while b"startup complete" not in await process.stdout.readline():
                    pass
        process.kill()
        async with asyncio.timeout(10):
            told = await process.stdout.read()  # until nobody has it open
        assert told.count(b"Application shutdown complete") == 2
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
