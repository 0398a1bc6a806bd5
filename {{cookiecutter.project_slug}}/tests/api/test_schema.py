"""The API does what its schema says."""

import asyncio
import subprocess
import sys
from pathlib import Path

from fastapi import FastAPI

from tests.support import serving


async def test_the_api_keeps_to_its_schema(app: FastAPI, tmp_path: Path) -> None:
    """Every operation, with data that fits and data that does not: each answer is declared, and
    none is a 5xx."""
    async with serving(app) as client:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{client.base_url}/openapi.json"),
            *("--generation-deterministic", "--max-examples", "10", "--no-color"),
            cwd=tmp_path,  # it leaves a report and a cache behind
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
