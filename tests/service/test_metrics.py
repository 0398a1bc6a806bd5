"""The metrics of several workers."""

import asyncio
import os
import signal
from pathlib import Path

from tests.support import Database, served

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
        while min(both) in workers():
            await asyncio.sleep(0.05)
        # prometheus_client answers 500 if it reads a file that another worker has just made.
        while " 14.0\n" not in (await service.client.get("/metrics")).text.partition(MAX)[2][:6]:
            await asyncio.sleep(0.05)
