"""What a route asks for by type."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from {{ cookiecutter.package_name }}.database.metrics import spent
from {{ cookiecutter.package_name }}.database.session import ReadSession, Sessions


# async, though nothing is awaited: FastAPI runs a plain function in its thread pool, and each request
# would make that detour.
async def get_sessions(connection: HTTPConnection) -> Sessions:
    """What makes sessions: the lifespan opened it."""
    return cast(Sessions, connection.state.sessions)


async def get_read_session(connection: HTTPConnection) -> ReadSession:
    """The one for all requests: it holds nothing."""
    return cast(ReadSession, connection.state.read_session)


SessionsDep = Annotated[Sessions, Depends(get_sessions)]
"""For what is not one transaction, or outlives the request's: `async with sessions.begin() as session:`
in a background task, in a streamed response, for each message of a WebSocket, for each of several
tasks."""

ReadSessionDep = Annotated[ReadSession, Depends(get_read_session)]
"""For reading, each statement by itself: the fewest round trips, and no connection is held between two
statements. May be used anywhere, also after the request, and by many tasks at once."""


async def _transaction(
    connection: HTTPConnection, sessions: SessionsDep
) -> AsyncIterator[AsyncSession]:
    if connection.scope["type"] == "websocket":
        raise TypeError(
            "a SessionDep in a WebSocket would be one transaction for as long as the socket is open: "
            "ask for SessionsDep, and open a session for each message"
        )
    async with sessions.begin() as session:
        yield session


# scope="function": by default a dependency's exit runs after the response was sent, and a commit
# that fails there has already answered 201.
SessionDep = Annotated[AsyncSession, Depends(_transaction, scope="function")]
"""One transaction: committed before the response is sent, rolled back on any error. The connection
is taken at the first statement and is back in the pool before the response leaves; what comes after
that, such as a background task, has to ask for `SessionsDep`."""


class CommitBeforeResponse:
    """Refuses a response whose transaction is still open, as an own dependency's is by default: its
    commit may fail after the caller was told that all went well."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            request = spent.get() if message["type"] == "http.response.start" else None
            # Another task's transaction is work beside the request, or a stream's.
            if request and asyncio.current_task() in request.open:
                raise RuntimeError(
                    "a transaction is still open, and would be committed after its response if at all: let "
                    'the dependency that opens it end with the route, Depends(..., scope="function")'
                )
            await send(message)

        await self.app(scope, receive, checked if scope["type"] == "http" else send)
