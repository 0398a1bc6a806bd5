"""What a route asks for when it has to know the caller."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends
from fastapi.exceptions import HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from {{ cookiecutter.package_name }}.auth.keys import Keys
from {{ cookiecutter.package_name }}.auth.tokens import verify
from {{ cookiecutter.package_name }}.database.caller import (
    Caller,
    UserSession,
    UserSessions,
)


class _Bearer(SecurityBase):
    """For WebSockets too: FastAPI's own is for requests only."""

    model = HTTPBearer(bearerFormat="JWT", description="An access token of Supabase Auth.")
    scheme_name = "Supabase"

    async def __call__(self, connection: HTTPConnection) -> Caller:
        sent = ", ".join(connection.headers.getlist("authorization"))
        scheme, _, token = sent.partition(" ")
        if scheme.lower() != "bearer" or not token:
            told = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "Send an access token: Authorization: Bearer ...", told)
        return await verify(token.strip(" "), cast(Keys, connection.state.keys))


async def get_user_sessions(connection: HTTPConnection) -> UserSessions:
    return cast(UserSessions, connection.state.user_sessions)


get_caller = _Bearer()

CallerDep = Annotated[Caller, Depends(get_caller)]
"""Who is asking, by a token that was verified: 401 without one."""

UserSessionsDep = Annotated[UserSessions, Depends(get_user_sessions)]
"""What makes sessions of callers: `async with sessions.begin(caller) as session:`, as `SessionsDep` does."""


async def _transaction(
    connection: HTTPConnection, sessions: UserSessionsDep, caller: CallerDep
) -> AsyncIterator[UserSession]:
    if connection.scope["type"] == "websocket":
        raise TypeError("in a WebSocket ask for UserSessionsDep: a session for each message")
    async with sessions.begin(caller) as session:
        yield session


UserSessionDep = Annotated[UserSession, Depends(_transaction, scope="function")]
"""One transaction, as `SessionDep` is, in which PostgreSQL knows the caller. For reading, too."""
