"""What a route asks for when it has to know the caller."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends
from fastapi.exceptions import HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase

from {{ cookiecutter.package_name }}.auth.keys import IssuerDownError, Keys
from {{ cookiecutter.package_name }}.auth.tokens import InvalidTokenError, verify
from {{ cookiecutter.package_name }}.database.caller import Caller, UserSession, UserSessions


class _Bearer(SecurityBase):
    """The token of the header Authorization, also in a WebSocket. FastAPI's own is for requests only."""

    def __init__(self) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of Supabase Auth.")
        self.scheme_name = "Supabase"

    async def __call__(self, connection: HTTPConnection) -> str:
        headers = connection.headers.getlist("authorization")
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            told = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "Send an access token: Authorization: Bearer ...", told)
        return token.strip()


async def get_caller(
    connection: HTTPConnection, token: Annotated[str, Depends(_Bearer())]
) -> Caller:
    keys: Keys = connection.state.keys
    try:
        return await verify(token, keys)
    except InvalidTokenError as error:
        told = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise HTTPException(401, str(error), told) from None
    except IssuerDownError:
        raise HTTPException(
            503, "Nobody's token can be verified now. Try again.", {"Retry-After": "10"}
        ) from None


async def get_user_sessions(connection: HTTPConnection) -> UserSessions:
    return cast(UserSessions, connection.state.user_sessions)


CallerDep = Annotated[Caller, Depends(get_caller)]
"""Who is asking, by a token that was verified: 401 without one."""

UserSessionsDep = Annotated[UserSessions, Depends(get_user_sessions)]
"""What makes sessions of callers: `async with sessions.begin(caller) as session:`, for what outlives the
request."""


async def _transaction(
    connection: HTTPConnection, sessions: UserSessionsDep, caller: CallerDep
) -> AsyncIterator[UserSession]:
    if connection.scope["type"] == "websocket":
        raise TypeError(
            "a UserSessionDep in a WebSocket would be one transaction for as long as the socket is "
            "open: ask for UserSessionsDep, and open a session for each message"
        )
    async with sessions.begin(caller) as session:
        yield session


UserSessionDep = Annotated[UserSession, Depends(_transaction, scope="function")]
"""One transaction, as `SessionDep` is, in which PostgreSQL knows the caller: policies hold, and what they
hide is not there. For reading too."""
