"""What people do with a session: the answer is right or an error, and no connection is lost.

Each of these answered 2xx for a row that was not stored, or kept its connection for good.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from httpx import AsyncClient
from sqlalchemy import Executable, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from starlette.types import Message

from {{ cookiecutter.package_name }}.database.connection import (
    EventLoopError,
    TransactionError,
)
from {{ cookiecutter.package_name }}.database.session import (
    SessionEndedError,
    SessionInUseError,
)
from {{ cookiecutter.package_name }}.web.dependencies import (
    ReadSessionDep,
    SessionDep,
    SessionsDep,
)

from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, eventually_gone, running

INSERT = insert(ScratchThing).values(name="a", amount=1)
COUNT = select(func.count()).select_from(ScratchThing)


@pytest.fixture
def app(app: FastAPI, things: str) -> FastAPI:
    """The service, with an empty table, and a route that tells how many connections are in use."""

    @app.get("/test/pool")
    async def pool(request: Request) -> int:
        checked_out: int = request.state.engine.pool.checkedout()
        return checked_out

    return app


async def _stored(database: Database, things: str) -> int:
    async with connect(database.url) as direct:
        count: int = await direct.fetchval(f"SELECT count(*) FROM {things}")
        return count


async def _nothing_is_left(client: AsyncClient, database: Database) -> None:
    async with asyncio.timeout(5):
        while (await client.get("/test/pool")).json():
            await asyncio.sleep(0.01)
    async with connect(database.url) as direct:
        await eventually_gone(
            direct, "datname = current_database() AND state LIKE 'idle in transaction%'"
        )


async def test_a_session_that_outlives_its_request(
    app: FastAPI, database: Database, things: str
) -> None:
    """In a background task, for instance: it began anew, and nobody ever committed."""
    outcomes: list[str] = []

    async def late(session: SessionDep) -> None:
        with pytest.raises(SessionEndedError) as error:
            await session.execute(INSERT)
        outcomes.append(str(error.value))

    @app.post("/test/background", status_code=202)
    async def background(session: SessionDep, tasks: BackgroundTasks) -> None:
        await session.execute(INSERT)
        tasks.add_task(late, session)

    async with running(app) as client:
        assert (await client.post("/test/background")).status_code == 202
        await _nothing_is_left(client, database)
    assert "ask for SessionsDep" in outcomes[0]
    assert await _stored(database, things) == 1


async def test_sessions_and_reading_are_for_what_comes_later(
    app: FastAPI, database: Database, things: str
) -> None:
    counts: list[int | None] = []

    async def late(sessions: SessionsDep, read: ReadSessionDep) -> None:
        async with sessions.begin() as session:
            await session.execute(INSERT)
        counts.append(await read.scalar(COUNT))

    @app.post("/test/background", status_code=202)
    async def background(
        sessions: SessionsDep, read: ReadSessionDep, tasks: BackgroundTasks
    ) -> None:
        tasks.add_task(late, sessions, read)

    async with running(app) as client:
        assert (await client.post("/test/background")).status_code == 202
    assert counts == [1]


async def test_two_tasks_at_once(app: FastAPI, database: Database, things: str) -> None:
    """On a cold pool the connection was lost for good; on a warm one it worked by luck."""
    errors: list[str] = []

    @app.post("/test/at-once", status_code=201)
    async def at_once(session: SessionDep) -> None:
        try:
            await asyncio.gather(*(session.execute(INSERT) for _ in range(3)))
        except SessionInUseError as error:
            errors.append(str(error))
            raise

    async with running(app) as client:
        for _ in range(12):  # more than the pool has connections
            assert (await client.post("/test/at-once")).status_code == 500
        await _nothing_is_left(client, database)
        assert (await client.get("/readyz")).status_code == 200
    assert len(errors) == 12
    assert "give each task a session of its own" in errors[0]
    assert await _stored(database, things) == 0


async def test_asyncio_run_in_a_plain_route(app: FastAPI, database: Database, things: str) -> None:
    """Its BEGIN failed in the other event loop, and half of the driver believed in it: the next
    transaction, of somebody else, was a savepoint in it, answered 201 and was never stored."""
    errors: list[str] = []

    @app.post("/test/plain", status_code=201)
    def plain(session: SessionDep) -> None:
        try:
            asyncio.run(session.execute(INSERT))
        except EventLoopError as error:
            errors.append(str(error))
            raise

    @app.post("/test/innocent", status_code=201)
    async def innocent(session: SessionDep) -> None:
        await session.execute(INSERT)

    async with running(app) as client:
        for _ in range(12):  # the first finds a pool without a connection
            assert (await client.post("/test/plain")).status_code == 500
            answers = await asyncio.gather(*(client.post("/test/innocent") for _ in range(3)))
            assert [answer.status_code for answer in answers] == [201] * 3
        await _nothing_is_left(client, database)
    assert "be `async def`" in errors[0]
    assert await _stored(database, things) == 36


async def test_an_error_that_a_route_swallows(
    app: FastAPI, database: Database, things: str
) -> None:
    """COMMIT of an aborted transaction answers ROLLBACK, and neither driver nor SQLAlchemy looks."""

    @app.post("/test/swallowing", status_code=201)
    async def swallowing(session: SessionDep) -> None:
        await session.execute(INSERT)
        with suppress(SQLAlchemyError):
            await session.execute(text("SELECT 1/0"))

    @app.post("/test/savepoint", status_code=201)
    async def savepoint(session: SessionDep) -> None:
        await session.execute(INSERT)
        with suppress(SQLAlchemyError):
            async with session.begin_nested():
                await session.execute(INSERT)
                await session.execute(text("SELECT 1/0"))

    async with running(app) as client:
        assert (await client.post("/test/swallowing")).status_code == 500
        assert await _stored(database, things) == 0
        assert (await client.post("/test/savepoint")).status_code == 201
        assert await _stored(database, things) == 1
        await _nothing_is_left(client, database)


async def test_a_dependency_that_commits_after_the_response(
    app: FastAPI, database: Database, things: str
) -> None:
    """FastAPI's default for one with `yield`: if the commit fails, 201 and no row."""

    async def own(sessions: SessionsDep) -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session

    @app.post("/test/late", status_code=201)
    async def late(session: Annotated[AsyncSession, Depends(own)]) -> None:
        await session.execute(INSERT)

    @app.post("/test/in-time", status_code=201)
    async def in_time(session: Annotated[AsyncSession, Depends(own, scope="function")]) -> None:
        await session.execute(INSERT)

    async with running(app) as client:
        assert (await client.post("/test/late")).status_code == 500
        assert await _stored(database, things) == 0
        assert (await client.post("/test/in-time")).status_code == 201
        assert await _stored(database, things) == 1
        await _nothing_is_left(client, database)


async def test_the_drivers_own_statements(app: FastAPI, database: Database, things: str) -> None:
    """COPY as the first thing in a session ran before its BEGIN, and was not rolled back."""
    schema, _, table = things.partition(".")

    @app.post("/test/copy", status_code=201)
    async def copy(session: SessionDep, first: bool = False) -> None:
        if not first:
            await session.execute(INSERT)
        raw = await (await session.connection()).get_raw_connection()
        assert raw.driver_connection
        await raw.driver_connection.copy_records_to_table(
            table, schema_name=schema, records=[("b", 2)], columns=["name", "amount"]
        )

    async with running(app) as client:
        assert (await client.post("/test/copy?first=true")).status_code == 500
        assert await _stored(database, things) == 0
        assert (await client.post("/test/copy")).status_code == 201
        assert await _stored(database, things) == 2
        await _nothing_is_left(client, database)


@pytest.mark.parametrize(
    "statement",
    [
        text("SET search_path = other"),
        select(func.set_config("request.jwt.claims", "{}", False)),
        select(func.pg_advisory_lock(1)),
        text("CREATE TEMP TABLE test_temporary (a int)"),
    ],
)
async def test_what_would_stay_for_whoever_comes_next(app: FastAPI, statement: Executable) -> None:
    """A pooler resets nothing: another tenant's rows, another caller's claims, in a request of anybody."""
    errors: list[str] = []

    async def use(session: AsyncSession | AsyncConnection) -> None:
        with pytest.raises(TransactionError) as error:
            await session.execute(statement)
        errors.append(str(error.value))

    @app.post("/test/stays")
    async def stays(session: SessionDep, request: Request) -> None:
        await use(session)
        async with request.state.engine.connect() as connection:
            await use(connection)
        await session.execute(text("SET LOCAL statement_timeout = '5s'"))
        await session.execute(select(func.set_config("request.jwt.claims", "{}", True)))
        await session.execute(select(func.pg_advisory_xact_lock(1)))
        await session.execute(text("CREATE TEMP TABLE test_temporary (a int) ON COMMIT DROP"))

    async with running(app) as client:
        assert (await client.post("/test/stays")).status_code == 200
    assert "write SET LOCAL" in errors[0]
    assert errors[0] == errors[1]


async def test_orm_habits(app: FastAPI, things: str) -> None:
    """Computed values are there after a flush: reading one ended in MissingGreenlet. And a route may
    ask for an isolation level, begin and commit by itself."""

    @app.post("/test/things", status_code=201)
    async def create(session: SessionDep) -> int:
        thing = ScratchThing(name="a", amount=1)
        session.add(thing)
        await session.flush()
        return thing.id

    @app.put("/test/things/{key}")
    async def change(key: int, session: SessionDep) -> int:
        await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        thing = await session.get_one(ScratchThing, key)
        thing.name += "b"
        await session.flush()
        return thing.changes

    @app.delete("/test/things/{key}")
    async def delete(key: int, session: SessionDep) -> str | None:
        async with session.begin():
            await session.delete(await session.get_one(ScratchThing, key))
        level: str | None = await session.scalar(text("SHOW transaction_isolation"))
        return level

    async with running(app) as client:
        path = f"/test/things/{(await client.post('/test/things')).json()}"
        assert [(await client.put(path)).json() for _ in range(2)] == [1, 2]
        assert (await client.delete(path)).json() == "read committed"


async def _websocket(app: FastAPI, path: str) -> list[Message]:
    """Connect, send one text, and hang up."""
    received: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
        await app(scope | {"state": dict(state or {}), "subprotocols": []}, receive, send)
    return sent


async def test_a_websocket(app: FastAPI) -> None:
    """A SessionDep would be one transaction for as long as the socket is open."""

    @app.websocket("/test/refused")
    async def refused(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()

    @app.websocket("/test/accepted")
    async def accepted(socket: WebSocket, sessions: SessionsDep, read: ReadSessionDep) -> None:
        await socket.accept()
        name = await socket.receive_text()
        async with sessions.begin() as session:
            session.add(ScratchThing(name=name, amount=1))
        await socket.send_text(str(await read.scalar(COUNT)))

    with pytest.raises(TypeError, match="open a session for each message"):
        await _websocket(app, "/test/refused")
    answers = await _websocket(app, "/test/accepted")
    assert [message.get("text") for message in answers] == [None, "1"]


async def test_a_dependency_that_reads_holds_no_connection(app: FastAPI) -> None:
    """Who is asking, for instance: a connection for the whole request would halve the pool."""

    async def who(session: ReadSessionDep) -> int | None:
        return await session.scalar(COUNT)

    @app.get("/test/held")
    async def held(request: Request, who: Annotated[int | None, Depends(who)]) -> Any:
        return request.state.engine.pool.checkedout()

    async with running(app) as client:
        assert (await client.get("/test/held")).json() == 0
