"""A caller's transaction: PostgreSQL knows who is asking, in every statement, and nobody after it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from {{ cookiecutter.package_name }}.database.caller import UserSession, UserSessions
from {{ cookiecutter.package_name }}.database.session import (
    ReadSession,
    Sessions,
)
from {{ cookiecutter.package_name }}.settings import Settings

from tests.auth.callers import ALICE, BOB, NOTHING, is_caller, left_on_backends, who
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, make_engine

INSERT = insert(ScratchThing).values(name="a", amount=1)
COUNT = select(func.count()).select_from(ScratchThing)


def _one(settings: Settings, **changes: Any) -> Settings:
    """With one connection, so that whoever comes next has the last one's."""
    return settings.model_copy(update={"database_pool_size": 1, **changes})


async def test_each_caller_has_what_is_theirs(
    settings: Settings, database: Database, owned: str
) -> None:
    """On one connection, with the statements that it keeps."""
    seen = dict.fromkeys((ALICE.id, BOB.id), 0)
    async with make_engine(_one(settings), database) as engine:
        users = UserSessions(engine)
        for caller in (ALICE, BOB, ALICE, BOB, BOB, ALICE, ALICE):
            async with users.begin(caller) as session:
                await session.execute(INSERT)
                seen[caller.id] += 1
                assert await session.scalar(COUNT) == seen[caller.id]
                assert is_caller(await who(session), caller.claims)
            async with Sessions(engine).begin() as own:
                assert (await who(own)).login
    async with connect(database.url) as direct:
        rows = await direct.fetch(f"SELECT owner, count(*) FROM {owned} GROUP BY owner")
    assert {row["owner"]: row["count"] for row in rows} == seen


async def _commit(session: UserSession) -> None:
    await session.execute(INSERT)


async def _fail(session: UserSession) -> None:
    await session.execute(text("SELECT 1/0"))


async def _give_up(session: UserSession) -> None:
    async with asyncio.timeout(0.05):
        await session.execute(text("SELECT pg_sleep(5)"))


async def _raise(session: UserSession) -> None:
    await session.execute(INSERT)
    raise ZeroDivisionError


async def _only_take(session: UserSession) -> None:
    await session.connection()


@pytest.mark.parametrize("end", [_commit, _fail, _give_up, _raise, _only_take])
async def test_nobody_is_the_caller_after_it(
    settings: Settings,
    database: Database,
    owned: str,
    end: Callable[[UserSession], Awaitable[None]],
) -> None:
    """267 of 276 later transactions of a service were the last caller's, where this was forgotten."""
    async with make_engine(_one(settings), database) as engine:
        users = UserSessions(engine)
        for _ in range(4):  # on each backend
            with suppress(SQLAlchemyError, ZeroDivisionError, TimeoutError):
                async with users.begin(ALICE) as session:
                    await end(session)
            async with Sessions(engine).begin() as own:
                assert (await who(own)).login
        assert await left_on_backends(database.pooler_url) == NOTHING


async def _nested(session: UserSession) -> None:
    async with session.begin_nested():
        await session.execute(INSERT)
    with suppress(SQLAlchemyError):
        async with session.begin_nested():
            await _fail(session)


async def _commit_halfway(session: UserSession) -> None:
    await session.execute(INSERT)
    await session.commit()


async def _roll_back_halfway(session: UserSession) -> None:
    await session.execute(INSERT)
    await session.rollback()


async def _begin_by_hand(session: UserSession) -> None:
    async with session.begin():
        await session.execute(INSERT)


async def _flush(session: UserSession) -> None:
    session.add(ScratchThing(name="a", amount=1))
    await session.flush()


@pytest.mark.parametrize(
    "use", [_nested, _commit_halfway, _roll_back_halfway, _begin_by_hand, _flush]
)
async def test_every_use_of_a_session_is_the_callers(
    engine: AsyncEngine, owned: str, use: Callable[[UserSession], Awaitable[None]]
) -> None:
    async with UserSessions(engine).begin(ALICE) as session:
        await use(session)
        assert is_caller(await who(session), ALICE.claims)
    async with UserSessions(engine).begin(BOB) as session:
        assert await session.scalar(COUNT) == 0


@pytest.mark.parametrize("by", ["session", "connection"])
async def test_who_loses_a_connection_goes_on_as_the_caller(
    engine: AsyncEngine, database: Database, owned: str, by: str
) -> None:
    """SQLAlchemy takes another one for them, which nobody had told anything."""
    async with UserSessions(engine).begin(BOB) as session:
        await session.execute(INSERT)
    with suppress(InvalidRequestError):  # of the session, about what was done behind its back
        async with UserSessions(engine).begin(ALICE) as session:
            again = session if by == "session" else await session.connection()
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with connect(database.url) as direct:
                await direct.execute("SELECT pg_terminate_backend($1)", pid)
            with pytest.raises(DBAPIError):
                await session.execute(INSERT)
            await again.rollback()
            assert is_caller(await who(again), ALICE.claims)
            assert await again.scalar(COUNT) == 0


def test_a_type_checker_tells_sessions_apart() -> None:
    """mypy, which fails at an ignore that nothing needs."""

    def needs_a_caller(session: UserSession) -> None: ...

    def needs_a_reader(session: ReadSession) -> None: ...

    def check(user: UserSession, read: ReadSession, own: AsyncSession) -> None:
        needs_a_caller(user)
        needs_a_caller(read)  # type: ignore[arg-type]
        needs_a_caller(own)  # type: ignore[arg-type]
        needs_a_reader(user)  # type: ignore[arg-type]
