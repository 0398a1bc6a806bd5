"""A TCP proxy that counts round trips, so that they can be asserted exactly on any machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url


class Proxy:
    """Passes bytes on, and counts how often the server answered after the client had spoken."""

    def __init__(self, host: str, port: int) -> None:
        self.server = host, port
        self.trips = 0
        self.asked = 0
        """How often a client has spoken."""
        self.connections = 0
        self.refused = 0
        """Wrong passwords."""
        self.delay = 0.0
        """Seconds until it takes a new connection on."""
        self.silent = False
        """Whether it swallows what clients send, as a firewall does that forgot the connection."""
        self.passing = asyncio.Event()
        """While this is not set, what clients send waits, as it does for a busy pooler's backend."""
        self.passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it."""
        self.connections += 1
        await asyncio.sleep(self.delay)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.server)
        except ConnectionError:
            writer.close()
            return
        asked = False

        async def requests() -> None:
            nonlocal asked
            while data := await reader.read(65536):
                asked = True
                self.asked += 1
                await self.passing.wait()
                if not self.silent:
                    server_writer.write(data)
            server_writer.close()

        async def answers() -> None:
            nonlocal asked
            while data := await server_reader.read(65536):
                self.trips += asked
                self.refused += b"C28P01\0" in data
                asked = False
                writer.write(data)
            writer.close()

        try:
            await asyncio.gather(requests(), answers())
        except ConnectionError:
            pass
        finally:
            server_writer.close()
            writer.close()


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server in `url`, and the URL that goes through it."""
    target = make_url(url)
    assert target.host
    proxy = Proxy(target.host, target.port or 5432)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        through = target.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        yield proxy, through.render_as_string(hide_password=False)
