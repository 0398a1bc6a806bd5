"""A server before a pooler, which refuses what a Supavisor that tracks named statements refuses.

`PREPARE` and `DEALLOCATE` as simple queries, with the connection closed. What else clients send goes on.
"""

import asyncio
import re
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from urllib.parse import urlsplit

REFUSAL = (
    b"SFATAL\0VFATAL\0CXX000\0M(EPSSIMPLEQUERY) transaction mode only supports prepared statements "
    b"using the Extended Query Protocol\0\0"
)
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Refusing:
    """Counts what it refuses."""

    def __init__(self, host: str, port: int) -> None:
        self.pooler = host, port
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it."""
        pooler_reader, pooler_writer = await asyncio.open_connection(*self.pooler)
        try:
            requests = asyncio.create_task(self._requests(reader, writer, pooler_writer))
            answers = asyncio.create_task(self._answers(pooler_reader, writer))
            await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
            requests.cancel()
            answers.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)
        finally:
            pooler_writer.close()
            writer.close()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pooler: asyncio.StreamWriter,
    ) -> None:
        while (start := await self._message(reader)) == SSL_REQUEST:
            writer.write(b"N")
        pooler.write(start)
        while True:
            kind = await reader.readexactly(1)
            message = await self._message(reader)
            if kind == b"Q" and re.match(rb"\s*(PREPARE|DEALLOCATE)\b", message[4:], re.IGNORECASE):
                self.refused += 1
                writer.write(b"E" + struct.pack("!i", len(REFUSAL) + 4) + REFUSAL)
                await writer.drain()
                return
            pooler.write(kind + message)
            await pooler.drain()

    async def _message(self, reader: asyncio.StreamReader) -> bytes:
        size = await reader.readexactly(4)
        return size + await reader.readexactly(struct.unpack("!i", size)[0] - 4)

    async def _answers(self, pooler: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await pooler.read(65536):
            writer.write(data)
            await writer.drain()


@contextmanager
def refusing(url: str) -> Iterator[tuple[Refusing, str]]:
    """Such a server before the pooler at `url`, and the URL that goes through it."""
    target = urlsplit(url)
    refusing = Refusing(target.hostname or "", target.port or 5432)
    listening: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        server = await asyncio.start_server(refusing.serve, "127.0.0.1", 0)
        end = asyncio.Event()
        port = server.sockets[0].getsockname()[1]
        listening.set_result((port, asyncio.get_running_loop(), end))
        await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, loop, end = listening.result(10)
    try:
        netloc = f"{target.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        yield refusing, target._replace(netloc=netloc).geturl()
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
