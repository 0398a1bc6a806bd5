"""A PostgreSQL and a pooler to stop and to start again at the same address."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

import devstack
from tests.pooler.proxy import Proxy, counted
from tests.support import connect

# COMMIT takes 20 ms here, so whatever breaks, breaks while somebody waits for one.
LEDGER = """
    CREATE TABLE ledger (number bigint PRIMARY KEY);
    CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER pause_at_commit AFTER INSERT ON ledger
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pause();
"""


class Servers:
    """service -> PgBouncer, always on the same port -> proxy -> PostgreSQL, wherever it is."""

    database_url = ""
    pooler_url = ""

    def __init__(self, data: Path, proxy: Proxy, proxy_url: str) -> None:
        self._data = data
        self._proxy = proxy
        self._proxy_url = make_url(proxy_url)
        self._pooler_port = devstack.free_port()
        self._postgres = ExitStack()
        self._pooler = ExitStack()
        self._running: set[str] = set()

    async def start(self) -> None:
        """Start what does not run."""
        if "postgres" not in self._running:
            await self.start_postgres()
        if "pooler" not in self._running:
            await self.start_pooler()

    async def start_postgres(self) -> None:
        # With a folder it loses nothing in a crash, unlike a cluster made for tests.
        running = devstack.postgres(self._data)
        self.database_url = await asyncio.to_thread(self._postgres.enter_context, running)
        target = make_url(self.database_url)
        self._proxy_url = target.set(port=self._proxy_url.port)
        self._proxy.server = "127.0.0.1", target.port or 0
        self._running.add("postgres")

    async def stop_postgres(self) -> None:
        self._running.discard("postgres")
        await asyncio.to_thread(self._postgres.close)

    async def start_pooler(self) -> None:
        url = self._proxy_url.render_as_string(hide_password=False)
        # server_login_retry: seconds until it asks PostgreSQL again that was down; 15 by default.
        running = devstack.pgbouncer(url, listen_port=self._pooler_port, server_login_retry=1)
        self.pooler_url = await asyncio.to_thread(self._pooler.enter_context, running)
        self._running.add("pooler")

    async def stop_pooler(self) -> None:
        self._running.discard("pooler")
        await asyncio.to_thread(self._pooler.close)

    async def entries(self) -> set[int]:
        """What the ledger really has."""
        async with connect(self.database_url) as direct:
            return {row["number"] for row in await direct.fetch("SELECT number FROM ledger")}


@asynccontextmanager
async def open_servers() -> AsyncIterator[Servers]:
    """Start both, with an empty ledger."""
    with tempfile.TemporaryDirectory() as folder:
        async with counted("postgresql://127.0.0.1:1/") as (proxy, proxy_url):
            servers = Servers(Path(folder, "data"), proxy, proxy_url)
            try:
                await servers.start_postgres()
                async with connect(servers.database_url) as direct:
                    await direct.execute(LEDGER)
                await servers.start_pooler()
                yield servers
            finally:
                await servers.stop_pooler()
                await servers.stop_postgres()
