import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.faults.servers import Servers, open_servers
from tests.support import ROOT, Served, served


@pytest.fixture(scope="session")
async def _servers() -> AsyncIterator[Servers]:
    async with open_servers() as servers:
        yield servers


@pytest.fixture
async def servers(_servers: Servers) -> AsyncIterator[Servers]:
    """A PostgreSQL and a pooler of these tests' own, which one may stop and start."""
    yield _servers
    await _servers.start()


@pytest.fixture
async def service(servers: Servers, tmp_path: Path) -> AsyncIterator[Served]:
    """The service with a ledger, on these servers."""
    limits = {
        "DATABASE_POOL_TIMEOUT": "10",
        "REQUESTS_PER_CONNECTION": "100",
        "DATABASE_CONNECT_TIMEOUT": "2",
        "DATABASE_COMMAND_TIMEOUT": "2",
    }
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    async with served(
        servers.pooler_url,
        tmp_path,
        module="tests.service.faults.service",
        PYTHONPATH=path,
        **limits,
    ) as service:
        yield service
