"""Two callers, and looking at whom PostgreSQL takes a transaction's statements for."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from {{ cookiecutter.package_name }}.database.caller import Caller

from tests.pooler.backends import several

# As policies ask it. '' is what a setting is on a backend on which somebody had it before.
UID = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"
_WHO = text(
    "SELECT current_user = session_user AS login, current_user AS role,"
    " coalesce(current_setting('request.jwt.claims', true), '') AS claims"
)


class Who(NamedTuple):
    login: bool
    """It is nobody's: the service's own."""
    role: str
    claims: Any


def made(user: str | UUID, role: str = "authenticated", **claims: object) -> Caller:
    user = UUID(str(user))
    return Caller(user, role, {"sub": str(user), "role": role, **claims})


ALICE = made("a11ce000-0000-4000-8000-000000000001")
BOB = made("b0b00000-0000-4000-8000-000000000002")


async def who(session: AsyncSession | AsyncConnection) -> Who:
    login, role, claims = (await session.execute(_WHO)).one()
    return Who(login, role, json.loads(claims) if claims else None)


def is_caller(who: Who, claims: Mapping[str, object]) -> bool:
    return who == (False, "authenticated", claims)


async def left_on_backends(pooler_url: str) -> set[Who]:
    """What another client of the pooler is, on each of its backends: nothing but the login."""
    async with several(pooler_url) as connections:
        rows = [row for it in connections for row in await it.fetch(str(_WHO))]
    return {Who(row["login"], "" if row["login"] else row["role"], row["claims"]) for row in rows}


NOTHING = {Who(login=True, role="", claims="")}
