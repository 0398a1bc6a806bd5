"""Repeated queries of several processes, on every backend that a transaction-mode pooler may choose."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from orders_api.database.engine import create_engine
from orders_api.settings import load_settings

from tests.pooler.workload import work
from tests.support import ROOT, Database


async def test_two_processes_at_once(database: Database, things: str, tmp_path: Path) -> None:
    """asyncpg numbers its statements from 1 in every process, so names of two processes collide."""
    command = [sys.executable, "-m", "tests.service.test_statements", database.scratch]
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    environment = os.environ | {"DATABASE_URL": database.pooler_url, "PYTHONPATH": path}
    environment["DATABASE_POOL_SIZE"] = "5"  # each
    processes = [
        await asyncio.create_subprocess_exec(
            *command, name, cwd=tmp_path, env=environment, stderr=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    for process in processes:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()


async def main(schema: str, name: str) -> None:
    """Work as a process of its own: `python -m tests.service.test_statements SCHEMA NAME`."""
    engine = create_engine(load_settings())
    try:
        scratch = engine.execution_options(schema_translate_map={"scratch": schema})
        await work(scratch, name, clients=10, rounds=3)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
