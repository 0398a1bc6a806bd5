"""A database that fails once the answer has begun, or where no request is: what is logged."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from httpx import RemoteProtocolError
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.service.late import FAILURES, VALUE
from tests.support import ROOT, Database, Served, connect, new_client, served

# What a request is answered with, before anything has been sent.
STATUS = {"unique": 409, "text": 422, "argument": 422, "search": 500, "type": 422}


@pytest.fixture
async def table(database: Database, servers_are_ours: None) -> AsyncIterator[None]:
    async with connect(database.url) as direct:
        await direct.execute("CREATE TABLE scratch.late (value text PRIMARY KEY)")
        yield
        await direct.execute("DROP TABLE scratch.late")


async def _ask(service: Served, path: str) -> int:
    # On a connection of its own: uvicorn closes one after a defect.
    async with new_client(service.client.base_url) as client:
        try:
            return (await client.get(path)).status_code
        except RemoteProtocolError:  # the stream was cut off
            return 0


async def _websockets(service: Served, failure: str) -> None:
    url = str(service.client.base_url).replace("http", "ws")
    for path in ("socket", "told-socket"):
        async with open_websocket(f"{url}/{path}/{failure}") as websocket:
            with pytest.raises(ConnectionClosedError) as closed:
                await websocket.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1011
    with pytest.raises(InvalidStatus) as refused:
        async with open_websocket(f"{url}/early/{failure}"):
            pass
    assert refused.value.response.status_code == STATUS[failure]
    assert VALUE.encode() not in (refused.value.response.body or b"")


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_late_failure_is_logged_like_any_other_and_without_values(
    database: Database, table: None, tmp_path: Path, log_format: str
) -> None:
    """`DETAIL: Key (email)=(alice@example.com)` stood in the traceback of a background task."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    env = {"LOG_FORMAT": log_format, "PYTHONPATH": path}
    async with served(database.pooler_url, tmp_path, module="tests.service.late", **env) as service:
        for failure in FAILURES:
            assert await _ask(service, f"/background/{failure}") == 200
            assert await _ask(service, f"/stream/{failure}") in (0, 200)
            assert await _ask(service, f"/group/{failure}") == STATUS[failure]
            assert await _ask(service, f"/told/{failure}") == 500
            await _websockets(service, failure)
            assert await _ask(service, f"/forgotten/{failure}") == 200
    output = service.output
    assert VALUE not in output
    assert output.count("Task exception was never retrieved") == len(FAILURES)
    assert output.count("RuntimeError: because of ") == 2 * len(FAILURES)
    assert "[SQL: SELECT to_tsquery" in output
    if log_format == "json":
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        logged = [line["failure"] for line in lines if line["event"] == "database failure"]
        # background, stream, group, told, and three websockets
        assert logged == (7 * ["CONFLICT"] + 14 * ["INVALID"] + 7 * ["UNKNOWN"] + 7 * ["INVALID"])
