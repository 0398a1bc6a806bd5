"""Whatever a client sends: a short answer, in bounded memory, and no defect."""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from orders_api.main import create_app
from orders_api.settings import Settings
from orders_api.web import limits
from orders_api.web.limits import HeadLimit

from tests.support import Database, running, served, serving

MEGABYTE = b"x" * 1_000_000
HEAD = b"GET /livez HTTP/1.1\r\nHost: service\r\n"
ENDLESS_HEADER = [b"A: ", *[MEGABYTE] * 100]

FLOODS = {
    "requests ahead of their answers": [(HEAD + b"\r\n") * 5_000] * 100,
    "a header of 100 MB": [HEAD, *ENDLESS_HEADER],
    "a million headers": [HEAD, *[b"a: b\r\n" * 10_000] * 100],
    "a request line of 10 MB": [b"GET /", *[MEGABYTE] * 10],
    "trailers of 100 MB": [HEAD, b"Transfer-Encoding: chunked\r\n\r\n0\r\n", *ENDLESS_HEADER],
    "a WebSocket's header of 100 MB": [
        HEAD,
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
        *ENDLESS_HEADER,
    ],
}


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_of_100_megabytes_is_refused(app: FastAPI, chunked: bool) -> None:
    @app.post("/sent")
    async def sent(body: dict[str, int]) -> None: ...

    head = b"POST /sent HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
    async with serving(app) as client:
        reader, writer = await _connect(client)
        tracemalloc.start()
        if chunked:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        else:
            writer.write(head + b"Content-Length: 100000000\r\n\r\n")
        for _ in range(100):
            writer.writelines([b"f4240\r\n", MEGABYTE, b"\r\n"] if chunked else [MEGABYTE])
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\ncontent-type: application/problem+json\r\n" in answer
    assert b"\r\nx-request-id: " in answer
    assert peak < 10_000_000


async def test_a_body_that_stops_coming_gives_its_place_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT", 0.2)
    one = {"database_pool_size": 1, "requests_per_connection": 1}
    app = create_app(settings.model_copy(update=one))

    @app.post("/sent")
    async def sent(body: dict[str, int]) -> None: ...

    head = b"POST /sent HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
    async with serving(app) as client:
        reader, writer = await _connect(client)
        try:
            async with asyncio.timeout(5):
                writer.write(head + b"Content-Length: 2\r\n\r\n{")
                answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()
        finally:
            writer.close()
        assert (await client.post("/sent", json={})).status_code == 200


async def test_a_flood_of_headers_is_cut_off(database: Database, tmp_path: Path) -> None:
    """The server keeps every header of a request that has not ended."""
    async with served(database.pooler_url, tmp_path) as service:
        memory = _memory(service.process.pid)
        for name, parts in FLOODS.items():
            answer = await _flood(service.client, parts)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), name
            # A read of 256 KiB may hold thousands of small requests or headers: 12 MB at most here.
            assert _memory(service.process.pid) - memory < 30_000_000, name
            assert (await service.client.get("/livez")).status_code == 200

        # Each request on this connection may have as much, and a body is no header.
        for _ in range(2):
            allowed = await service.client.get("/livez", headers={"A": "x" * 60_000})
            assert allowed.status_code == 200
        reader, writer = await _connect(service.client)
        writer.writelines([HEAD, b"Content-Length: 1000000\r\n\r\n", MEGABYTE, HEAD, b"\r\n"])
        async with asyncio.timeout(10):
            for _ in range(2):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                await reader.readuntil(b"}")
        writer.close()
    assert "Traceback" not in service.output


async def test_a_trailer_is_no_header() -> None:
    """A proxy looks at headers alone: a trailer could name a user whom it has not let through."""
    seen = asyncio.get_running_loop().create_future()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.set_result([name for name, _ in scope["headers"]])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(application, port=0, http=HeadLimit, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    _, writer = await asyncio.open_connection(*address)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    writer.write(b"1\r\na\r\n0\r\nAuthorization: b\r\n\r\n")
    async with asyncio.timeout(10):
        assert await seen == [b"host", b"transfer-encoding"]
    writer.close()
    server.should_exit = True
    await task


async def _connect(client: AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(str(client.base_url))
    return await asyncio.open_connection(address.hostname, address.port)


async def _flood(client: AsyncClient, parts: list[bytes]) -> bytes:
    reader, writer = await _connect(client)
    try:
        async with asyncio.timeout(10):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _memory(pid: int) -> int:
    """Bytes of memory that a process has."""
    if sys.platform == "linux":  # where a small machine may have no ps
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])  # the most it ever had
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    return 1024 * int(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.parametrize(
    "sent",
    [
        "marked-secret",
        "{0123456789abcdef0123456789abcdef}",
        "0123456789abcdef" + "-" * 20_000 + "0123456789abcdef",
        "x" * 60_000,
        "\u00a0" * 32,
    ],
    ids=lambda sent: repr(sent[:20]),
)
async def test_a_made_up_request_id_is_replaced(client: AsyncClient, sent: str) -> None:
    """It would be in every line of the log."""
    response = await client.get("/nowhere", headers={b"X-Request-ID": sent.encode("latin-1")})
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert len(response.headers["x-request-id"]) == 32
    assert sent not in response.text


HOSTILE_JSON = {
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
    "10,000 digits": b'{"number":' + b"9" * 10_000 + b"}",
    "1e400": b'{"number": 1e400}',
    "NaN": b'{"number": NaN}',
    "-Infinity": b'{"number": -Infinity}',
    "a key twice": b'{"number": 1, "number": "one"}',
    "half a surrogate pair": b'{"\\ud800": 1}',
    "no UTF-8": b'{"\xff": 1}',
    "NUL": b'{"\\u0000": 1}',
    "a long key": b'{"' + b"k" * 1_000_000 + b'": 1}',
    "50,000 unknown keys": json.dumps(dict.fromkeys(map(str, range(50_000)))).encode(),
}


@pytest.mark.parametrize("body", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
async def test_hostile_json_is_a_short_problem(app: FastAPI, body: bytes) -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")

        number: int = 0

    @app.post("/strict")
    async def strict(sent: Strict) -> None: ...

    async with running(app) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/strict", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 10_000


@pytest.mark.parametrize("path", ["/%00", "/%ff", "/livez%00", "/%ed%a0%80", "/" + "x" * 60_000])
async def test_a_hostile_path_is_not_found(client: AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert len(response.content) < 1_000
