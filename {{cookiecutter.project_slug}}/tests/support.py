"""What several tests need."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
from asgi_lifespan import LifespanManager
from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from httpx import URL, ASGITransport, AsyncClient, ConnectError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions
from {{ cookiecutter.package_name }}.database.url import parse_url
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import (
    get_read_session,
    get_sessions,
)

from devstack import free_port

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Database:
    """What one worker's tests have to themselves."""

    url: str
    """Directly on PostgreSQL, as who migrates."""
    pooler_url: str
    """Through the pooler, as the service."""
    schema: str | None
    """Where the service's tables are. None: in `public`, of a database of our own."""
    scratch: str
    """A schema for the tables that tests make up."""


@asynccontextmanager
async def connect(url: str, **arguments: Any) -> AsyncIterator[asyncpg.Connection]:
    """A connection without SQLAlchemy, for looking at what the service did."""
    target = parse_url(url)
    where = target.url.translate_connect_args(username="user") | target.connect_args
    connection = await asyncpg.connect(
        # 10 s: a lock that the service forgot fails the test, rather than never letting it end.
        **{"statement_cache_size": 0, "command_timeout": 10, **where, **arguments},
    )
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def make_engine(settings: Settings, database: Database) -> AsyncIterator[AsyncEngine]:
    """The service's engine, with `scratch` and the service's tables where the database has them."""
    engine = create_engine(settings)
    schemas: dict[str | None, str] = {"scratch": database.scratch}
    if database.schema:
        schemas[None] = database.schema
    try:
        yield engine.execution_options(schema_translate_map=schemas)
    finally:
        await engine.dispose()


def work_in(app: FastAPI, schema: str) -> None:
    """Let the application have its tables, and those of `scratch`, in a schema of their own."""
    tables = {None: schema, "scratch": schema}

    def write(connection: HTTPConnection) -> Sessions:
        engine: AsyncEngine = connection.state.engine
        return Sessions(engine.execution_options(schema_translate_map=tables))

    def read(connection: HTTPConnection) -> ReadSession:
        engine: AsyncEngine = connection.state.engine
        return ReadSession(engine.execution_options(schema_translate_map=tables))

    app.dependency_overrides |= {get_sessions: write, get_read_session: read}


def new_client(base_url: URL | str, **options: Any) -> AsyncClient:
    """A client for this machine, which asks no proxy: not even whether it knows how. And reads no
    certificates, which takes longer than most tests do."""
    return AsyncClient(base_url=base_url, trust_env=False, verify=False, **options)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Open the application, as a server would, and talk to it."""
    async with LifespanManager(app) as manager:
        transport = ASGITransport(manager.app, raise_app_exceptions=False)
        async with new_client("http://service", transport=transport) as client:
            yield client


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Serve the application with uvicorn, on a port of its own, and talk to it over a socket."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with new_client(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await task


@dataclass(frozen=True)
class Served:
    """A service in a process of its own."""

    process: asyncio.subprocess.Process
    client: AsyncClient
    log: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()


@asynccontextmanager
async def served(
    url: str,
    folder: Path,
    *arguments: str,
    module: str = "{{ cookiecutter.package_name }}",
    **env: str,
) -> AsyncIterator[Served]:
    """Run a module's `serve` as a process, in a folder away from any `.env` file, for a minute at
    most."""
    port = str(free_port())
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "serve", "--port", port, *arguments),
            cwd=folder,
            env=os.environ | {"DATABASE_URL": url} | env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    async with new_client(f"http://127.0.0.1:{port}") as client, asyncio.timeout(60):
        try:
            while not await _answers(client):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
            yield Served(process, client, log)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _answers(client: AsyncClient) -> bool:
    try:
        return (await client.get("/livez")).status_code == 200
    except ConnectError:
        return False


async def server_connections(direct: asyncpg.Connection, condition: str, *values: Any) -> int:
    """How many connections PostgreSQL has that meet `condition`."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE {condition}"
    count: int = await direct.fetchval(query, *values)
    return count


async def eventually_gone(direct: asyncpg.Connection, condition: str, *values: Any) -> None:
    """Wait until no connection meets `condition`: PostgreSQL notices a closed one a bit later."""
    async with asyncio.timeout(5):
        while await server_connections(direct, condition, *values):
            await asyncio.sleep(0.02)
