"""The API does what its schema says."""

import asyncio
import subprocess
import sys
from pathlib import Path

from fastapi import FastAPI

from tests.support import serving

# What FastAPI does by itself, whatever its document says: it takes 0 for a datetime and false for an int,
# it refuses "a" for a Decimal, and asks `/{id}` about `/count`.
NO_DEFECTS = "negative_data_rejection,positive_data_acceptance,unsupported_method"

CURE = """
An answer that is not in /openapi.json belongs to a route: say it there, by `response_class=` (what is no
JSON), `status_code=` (a success that is not 200), `responses=` (a second success, a redirect) or the
return type. Problems, 4xx and 5xx, are there for every route. A 5xx is a defect: the log below has it."""


async def test_the_api_keeps_to_its_schema(app: FastAPI, tmp_path: Path) -> None:
    """Every operation, with data that fits and data that does not: each answer is declared, and
    none is a 5xx."""
    await keeps_to_its_schema(app, tmp_path)


async def keeps_to_its_schema(app: FastAPI, tmp_path: Path, *options: str) -> None:
    async with serving(app) as client:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{client.base_url}/openapi.json"),
            *("--generation-deterministic", "--max-examples", "10", "--no-color"),
            *("--exclude-checks", NO_DEFECTS, *options),
            cwd=tmp_path,  # it leaves a report and a cache behind
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode() + CURE
