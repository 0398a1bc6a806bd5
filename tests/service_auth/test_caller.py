"""A caller's transaction, however it is used, and claims, whatever is in them."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orders_api.database.caller import UserSession, UserSessions
from orders_api.database.connection import TransactionError
from orders_api.database.failures import Failure, classify
from orders_api.database.session import (
    ReadSession,
    SessionEndedError,
    SessionInUseError,
    Sessions,
)
from orders_api.settings import Settings

import devstack
from tests.auth.callers import ALICE, BOB, NOTHING, is_caller, left_on_backends, made, who
from tests.pooler.backends import keeps_its_backend, several
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, make_engine

INSERT = insert(ScratchThing).values(name="a", amount=1)
COUNT = select(func.count()).select_from(ScratchThing)


def _one(settings: Settings, **changes: Any) -> Settings:
    """With one connection, so that whoever comes next has the last one's."""
    return settings.model_copy(update={"database_pool_size": 1, **changes})


async def _fail(session: UserSession) -> None:
    await session.execute(text("SELECT 1/0"))


async def test_settings_of_a_session_would_leak(
    engine: AsyncEngine, database: Database, owned: str
) -> None:
    """The control: a pooler through which `false` does not leak would prove nothing."""
    if await keeps_its_backend(database.pooler_url):
        pytest.skip("this pooler is in session mode, in which a client keeps its backend")
    careless = made(ALICE.id)
    object.__setattr__(careless, "sql", careless.sql.replace(", true)", ", false)"))
    try:
        async with UserSessions(engine).begin(careless) as session:
            assert is_caller(await who(session), ALICE.claims)
        assert await left_on_backends(database.pooler_url) - NOTHING
    finally:
        async with several(database.pooler_url) as connections:
            for it in connections:
                await it.execute("RESET ROLE; RESET request.jwt.claims; COMMIT")
    assert await left_on_backends(database.pooler_url) == NOTHING


async def _serializable(session: UserSession) -> None:
    await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
    assert await session.scalar(text("SHOW transaction_isolation")) == "serializable"


async def _read_only(session: UserSession) -> None:
    options = {"postgresql_readonly": True, "postgresql_deferrable": True}
    await session.connection(execution_options=options)
    assert await session.scalar(text("SHOW transaction_read_only")) == "on"


async def _by_the_connection(session: UserSession) -> None:
    connection = await session.connection()
    await connection.rollback()
    assert is_caller(await who(connection), ALICE.claims)
    await connection.rollback()
    await session.rollback()


async def _stream(session: UserSession) -> None:
    await session.execute(INSERT)
    rows = await session.stream(select(ScratchThing.id))
    assert len([row async for row in rows]) == 1


async def _driver(session: UserSession) -> Any:
    lent = await (await session.connection()).get_raw_connection()
    driver: Any = lent.driver_connection
    return driver


async def _savepoint_of_the_driver(session: UserSession) -> None:
    await session.execute(INSERT)
    driver = await _driver(session)
    async with driver.transaction():
        assert await driver.fetchval("SELECT current_user") == "authenticated"


@pytest.mark.parametrize(
    "use",
    [
        *(_serializable, _read_only, _stream, _savepoint_of_the_driver),
        pytest.param(
            _by_the_connection,
            marks=pytest.mark.filterwarnings("ignore:transaction already deassociated"),
        ),
    ],
)
async def test_every_use_of_a_session_is_the_callers(
    engine: AsyncEngine, owned: str, use: Callable[[UserSession], Awaitable[None]]
) -> None:
    async with UserSessions(engine).begin(ALICE) as session:
        await use(session)
        assert is_caller(await who(session), ALICE.claims)
    async with UserSessions(engine).begin(BOB) as session:
        assert await session.scalar(COUNT) == 0


async def test_copy_is_the_callers(engine: AsyncEngine, database: Database, owned: str) -> None:
    """PostgreSQL itself refuses it where a policy would have to be asked."""
    table = {"table_name": "things", "schema_name": database.scratch}
    rows = {"records": [("b", 2)], "columns": ["name", "amount"]}
    users = UserSessions(engine)
    with pytest.raises(TransactionError, match="has not begun"):
        async with users.begin(ALICE) as session:
            await (await _driver(session)).copy_records_to_table(**table, **rows)
    with pytest.raises(Exception, match="COPY FROM not supported with row-level security"):
        async with users.begin(ALICE) as session:
            await session.execute(INSERT)
            await (await _driver(session)).copy_records_to_table(**table, **rows)
    async with users.begin(ALICE) as session:
        assert await session.scalar(COUNT) == 0


async def _autocommit(session: UserSession) -> None:
    await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})


async def _autocommit_of_the_driver(session: UserSession) -> None:
    lent: Any = await (await session.connection()).get_raw_connection()
    lent.dbapi_connection.autocommit = True
    await session.execute(INSERT)


async def _before_it_has_begun(session: UserSession) -> None:
    await (await _driver(session)).execute("SELECT 1")


@pytest.mark.parametrize("use", [_autocommit, _autocommit_of_the_driver, _before_it_has_begun])
@pytest.mark.parametrize("swallowing", [False, True])
async def test_what_would_run_as_the_login_is_an_error(
    settings: Settings,
    database: Database,
    owned: str,
    use: Callable[[UserSession], Awaitable[None]],
    swallowing: bool,
) -> None:
    """In AUTOCOMMIT `set_config(..., true)` has no effect. Nor may the next statement get through."""
    async with make_engine(_one(settings), database) as engine:
        users = UserSessions(engine)
        with pytest.raises((TransactionError, SQLAlchemyError)):
            async with users.begin(ALICE) as session:
                with suppress(*[TransactionError, SQLAlchemyError] if swallowing else []):
                    await use(session)
                assert is_caller(await who(session), ALICE.claims)
                raise TransactionError("it was the caller's after all")
        async with users.begin(BOB) as session:
            assert is_caller(await who(session), BOB.claims)


async def test_an_engine_in_autocommit_is_refused(engine: AsyncEngine, owned: str) -> None:
    users = UserSessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
    with pytest.raises(TransactionError, match="needs a transaction"):
        async with users.begin(ALICE) as session:
            with suppress(TransactionError):
                await session.execute(INSERT)
            await session.execute(INSERT)
    assert await ReadSession(engine).scalar(COUNT) == 0


async def test_a_connection_of_before_is_refused(
    settings: Settings, database: Database, owned: str
) -> None:
    """It can't tell PostgreSQL. The pool has another one afterwards."""
    async with make_engine(_one(settings), database) as engine:
        await ReadSession(engine).scalar(COUNT)
        users = UserSessions(engine)
        with pytest.raises(TransactionError, match="an engine that UserSessions has"):
            async with users.begin(ALICE) as session:
                await session.execute(INSERT)
        async with users.begin(ALICE) as session:
            assert is_caller(await who(session), ALICE.claims)
            assert await session.scalar(COUNT) == 0


async def test_it_can_be_misused_no_more_than_any_session(engine: AsyncEngine, owned: str) -> None:
    users = UserSessions(engine)
    with pytest.raises(SQLAlchemyError, match="nothing was stored"):
        async with users.begin(ALICE) as session:
            with suppress(SQLAlchemyError):
                await _fail(session)
    with pytest.raises(SessionEndedError):
        await session.execute(INSERT)
    with pytest.raises(SessionInUseError):
        async with users.begin(ALICE) as session:
            await asyncio.gather(*(session.execute(INSERT) for _ in range(3)))
    async with users.begin(ALICE) as session:
        assert await session.scalar(COUNT) == 0


@pytest.mark.parametrize("how", ["timeout", "cancelled", "refused"])
async def test_a_begin_without_an_answer_wedges_nothing(
    settings: Settings, database: Database, owned: str, how: str
) -> None:
    """asyncpg believes that it has begun. Whoever comes next on this pool of one begins anew."""
    patience = {"database_command_timeout": 0.3} if how == "timeout" else {}
    with devstack.pgbouncer(database.url, default_pool_size=1, query_wait_timeout=1) as url:
        changes = {"database_url": url, "database_pool_size": 1, **patience}
        settings = Settings.model_validate(settings.model_dump() | changes)
        async with make_engine(settings, database) as engine, connect(url) as busy:
            users = UserSessions(engine)
            async with users.begin(ALICE) as session:
                await session.execute(INSERT)
            await busy.execute("BEGIN")
            with pytest.raises((SQLAlchemyError, TimeoutError)) as error:
                async with users.begin(ALICE) as session:
                    async with asyncio.timeout(0.1 if how == "cancelled" else None):
                        await session.execute(INSERT)
            if isinstance(error.value, SQLAlchemyError):
                assert classify(error.value) is Failure.UNAVAILABLE
            await busy.execute("ROLLBACK")
            async with Sessions(engine).begin() as own:
                assert (await who(own)).login
            for _ in range(3):
                async with users.begin(BOB) as session:
                    assert is_caller(await who(session), BOB.claims)
                    await session.execute(INSERT)
    async with connect(database.url) as direct:
        assert await direct.fetchval(f"SELECT count(*) FROM {owned}") == 4


HARMLESS = [
    *("'", "''", "\\", "\\'", "'; DROP TABLE things; --", "$$", "$1", "{}", "%s", ":x", "/*", "--"),
    *("\\u0000", "\\\\u0000", "\\n\\", '"', '\\"', "\x01\x1f\x7f", "\u2028\u2029", "é"),
    *("\U0001f600", "E'\\''", "\r\n\t", "\ufeff", "\uffff", "", " "),
    *("'" * 1001, "\\" * 1001, "x" * 2**20),
]
HARMFUL = ["\0", "a\0b", "\\\0", "\\\\\0", "\ud800", "\udc00\ud800", float("nan"), float("inf")]


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_claims_arrive_as_they_are(database: Database, conforming: str) -> None:
    chosen = random.Random(14)
    pieces = [it for it in HARMLESS if len(it) < 100]
    cases: list[object] = [*HARMLESS, 1e308, -0.0, 10**100, True, None, [], {}, [[[{"a": {}}]]]]
    for _ in range(300):
        words = ["".join(chosen.choices(pieces, k=6)) for _ in range(3)]
        cases.append({words[0]: [words[1], {words[2]: chosen.random()}]})
    async with connect(database.url) as direct:
        await direct.execute(f"SET standard_conforming_strings = {conforming}")
        for case in cases:
            caller = made(ALICE.id, case=case)
            await direct.execute(f"BEGIN; {caller.sql.replace('authenticated', 'none', 1)}")
            [row] = await direct.fetch(
                "SELECT it, it::jsonb = $1::text::jsonb AS same"
                " FROM current_setting('request.jwt.claims') AS it",
                json.dumps(caller.claims, ensure_ascii=False),
            )
            assert json.loads(row["it"]) == caller.claims and row["same"]
            await direct.execute("ROLLBACK")


@pytest.mark.parametrize("value", HARMFUL, ids=ascii)
def test_what_jsonb_can_not_hold_is_refused(value: object) -> None:
    """Policies that read the claims would fail, each time, with an error of PostgreSQL's."""
    for claims in ({"it": value}, {"it": [{"in": value}]}):
        with pytest.raises(ValueError, match=r"surrogates|NUL|JSON compliant"):
            made(ALICE.id, **claims)
    if isinstance(value, str):
        with pytest.raises(ValueError, match=r"surrogates|NUL"):
            made(ALICE.id, it={value: 1})


def test_the_login_is_no_role_of_a_caller() -> None:
    """`set_config('role', 'none')` is how to be the login again."""
    with pytest.raises(ValueError, match="the login itself"):
        made(ALICE.id, role="none")
