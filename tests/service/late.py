"""The service with routes whose database fails late: `python -m tests.service.late serve ...`."""

import asyncio
import logging
from collections.abc import AsyncIterator

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import String, TypeDecorator, bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from orders_api import cli, main
from orders_api.database.session import Sessions
from orders_api.web.dependencies import SessionsDep

# Each has the value in another part of what is said: details, message, asyncpg's own, with a SQLSTATE
# of wrong SQL, and what a column's type says.
FAILURES = {
    "unique": "INSERT INTO scratch.late VALUES (:value)",
    "text": "SELECT CAST(CAST(:value AS text) AS int)",
    "argument": "SELECT CAST(:value AS int)",
    "search": "SELECT to_tsquery(CAST(:value AS text) || ' &')",
    "type": "SELECT :picky",
}
VALUE = "marked-secret"


class PickyError(ValueError):
    def __str__(self) -> str:  # as pydantic's, which no argument changes
        return f"not picky enough: {VALUE}"


class Picky(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: object, dialect: object) -> str:
        raise PickyError(value)


PICKY = bindparam("picky", VALUE, type_=Picky)


async def _fail(sessions: Sessions, failure: str) -> None:
    async with sessions.begin() as session:
        for _ in range(2):
            statement = text(FAILURES[failure])
            if failure == "type":
                await session.execute(statement.bindparams(PICKY))
            else:
                await session.execute(statement, {"value": VALUE})


def create_app() -> FastAPI:
    app = main.create_app()

    @app.get("/background/{failure}")
    async def background(failure: str, sessions: SessionsDep, tasks: BackgroundTasks) -> None:
        tasks.add_task(_fail, sessions, failure)

    @app.get("/stream/{failure}")
    async def stream(failure: str, sessions: SessionsDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "started\n"
            await _fail(sessions, failure)

        return StreamingResponse(lines())

    @app.get("/group/{failure}")
    async def group(failure: str, sessions: SessionsDep) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_fail(sessions, failure))

    @app.get("/forgotten/{failure}")
    async def forgotten(failure: str, sessions: SessionsDep) -> None:
        task = asyncio.create_task(_fail(sessions, failure))
        await asyncio.wait([task])

    @app.get("/told/{failure}")
    async def told(failure: str, sessions: SessionsDep) -> None:
        try:
            await _fail(sessions, failure)
        except SQLAlchemyError as error:
            logging.getLogger("owner").warning("failed: %s, %r", error, error)
            raise RuntimeError(f"because of {error}") from error

    @app.websocket("/socket/{failure}")
    async def socket(websocket: WebSocket, failure: str, sessions: SessionsDep) -> None:
        await websocket.accept()
        await _fail(sessions, failure)

    @app.websocket("/told-socket/{failure}")
    async def told_socket(websocket: WebSocket, failure: str, sessions: SessionsDep) -> None:
        await websocket.accept()
        await told(failure, sessions)

    @app.websocket("/early/{failure}")
    async def early(websocket: WebSocket, failure: str, sessions: SessionsDep) -> None:
        await _fail(sessions, failure)

    return app


if __name__ == "__main__":
    cli.APP = "tests.service.late:create_app"
    cli.main()
