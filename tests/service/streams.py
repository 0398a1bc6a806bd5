"""The service with a stream that never ends, as a process of its own that does not wait long for it."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from orders_api import cli, main


def create_app() -> FastAPI:
    app = main.create_app()

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.1)

        return StreamingResponse(forever(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    cli.APP = "tests.service.streams:create_app"
    cli.GRACE_PERIOD = 1
    cli.main()
