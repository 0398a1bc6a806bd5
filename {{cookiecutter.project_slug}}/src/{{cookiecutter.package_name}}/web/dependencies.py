"""What a route asks for by type."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy.ext.asyncio import AsyncSession

from {{ cookiecutter.package_name }}.database.session import Sessions


# async, though nothing is awaited: FastAPI runs a plain function in its thread pool, and each request
# would make that detour.
async def get_sessions(connection: HTTPConnection) -> Sessions:
    """The session maker that the lifespan opened."""
    return cast(Sessions, connection.state.sessions)


async def get_read_sessions(connection: HTTPConnection) -> Sessions:
    """The one for reading."""
    return cast(Sessions, connection.state.read_sessions)


SessionsDep = Annotated[Sessions, Depends(get_sessions)]
"""For what outlives the request's own transaction, such as a streamed response."""


ReadSessionsDep = Annotated[Sessions, Depends(get_read_sessions)]


async def _transaction(sessions: SessionsDep) -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


# scope="function": by default a dependency's exit runs after the response was sent, and a commit
# that fails there has already answered 201.
SessionDep = Annotated[AsyncSession, Depends(_transaction, scope="function")]
"""One transaction: committed before the response is sent, rolled back on any error. The connection
is taken at the first statement and is back in the pool before the response leaves."""


async def _read(sessions: ReadSessionsDep) -> AsyncIterator[AsyncSession]:
    session = sessions()
    try:
        yield session
    finally:  # what `async with` does, without a task of its own: there is nothing to roll back
        await session.close()


ReadSessionDep = Annotated[AsyncSession, Depends(_read, scope="function")]
"""For reading, without a transaction: half the round trips, and the pooler's backend is free between
statements. Refuses to write, but does not look into textual SQL."""
