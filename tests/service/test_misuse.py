"""What people do with a session: the answer is right or an error, and no connection is lost.

Each of these answered 2xx for a row that was not stored, or kept its connection for good.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from httpx import AsyncClient
from sqlalchemy import MetaData, String, func, insert, select, text
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from orders_api.database.base import Base
from orders_api.database.connection import EventLoopError
from orders_api.database.engine import create_engine, open_engine
from orders_api.database.session import (
    ReadSession,
    SessionEndedError,
    SessionInUseError,
)
from orders_api.settings import Settings
from orders_api.web.dependencies import (
    SessionDep,
)

from tests.support import Database, connect, eventually_gone, running

Use = Callable[[AsyncSession], Awaitable[Any]]


class Note(Base):
    __tablename__ = "notes"
    metadata = MetaData()

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(String(100), unique=True)
    changes: Mapped[int] = mapped_column(
        server_default=text("0"), onupdate=text("notes.changes + 1")
    )


NOTE = insert(Note).values(body="a")


@pytest.fixture
async def notes(app: FastAPI, database: Database) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """How many notes are stored. Fails the test that leaves a connection behind."""
    schema = database.schema or "public"

    @app.get("/pool")
    async def pool(request: Request) -> int:
        checked_out: int = request.state.engine.pool.checkedout()
        return checked_out

    async with connect(database.url) as direct:
        await direct.execute(
            f"CREATE TABLE {schema}.notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " body varchar(100) UNIQUE, changes int NOT NULL DEFAULT 0);"
            f"GRANT ALL ON {schema}.notes TO PUBLIC"
        )

        async def stored() -> int:
            count: int = await direct.fetchval(f"SELECT count(*) FROM {schema}.notes")
            return count

        yield stored
        await direct.execute(f"DROP TABLE {schema}.notes")


async def _nothing_is_left(client: AsyncClient, database: Database) -> None:
    async with asyncio.timeout(5):
        while (await client.get("/pool")).json():
            await asyncio.sleep(0.01)
    async with connect(database.url) as direct:
        await eventually_gone(
            direct, "datname = current_database() AND state LIKE 'idle in transaction%'"
        )


async def _execute(session: AsyncSession) -> None:
    await session.execute(NOTE)


async def _add(session: AsyncSession) -> None:
    session.add(Note(body="a"))


async def _scalar(session: AsyncSession) -> None:
    await session.scalar(select(func.count()).select_from(Note))


async def _get(session: AsyncSession) -> None:
    await session.get(Note, 1)


async def _commit(session: AsyncSession) -> None:
    await session.commit()


async def _stream(session: AsyncSession) -> None:
    await session.stream(select(Note))


async def _connection(session: AsyncSession) -> None:
    await session.connection()


async def _begin(session: AsyncSession) -> None:
    async with session.begin():
        session.add(Note(body="a"))


async def _run_sync(session: AsyncSession) -> None:
    await session.run_sync(lambda sync: sync.add(Note(body="a")))


USES = [_execute, _add, _scalar, _get, _commit, _stream, _connection, _begin, _run_sync]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_a_session_that_outlives_its_request(
    app: FastAPI, database: Database, notes: Callable[[], Awaitable[int]], use: Use
) -> None:
    """In a background task, a stream, a task of its own: it began anew, and nobody ever committed."""
    outcomes: list[BaseException | None] = []

    async def late(session: AsyncSession) -> None:
        try:
            await use(session)
        except Exception as error:  # noqa: BLE001
            outcomes.append(error)
        else:
            outcomes.append(None)

    @app.post("/background", status_code=202)
    async def background(session: SessionDep, tasks: BackgroundTasks, first: bool = False) -> None:
        if first:
            await session.execute(NOTE)
        tasks.add_task(late, session)

    @app.get("/stream")
    async def stream(session: SessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            await late(session)
            yield "a"

        return StreamingResponse(lines())

    @app.post("/task")
    async def task(session: SessionDep, request: Request) -> None:
        async def later() -> None:
            await asyncio.sleep(0.05)
            await late(session)

        request.state.task = asyncio.create_task(later())

    async with running(app) as client:
        await client.post("/background?first=true")
        await client.post("/background")
        await client.get("/stream")
        await client.post("/task")
        async with asyncio.timeout(5):
            while len(outcomes) < 4:
                await asyncio.sleep(0.01)
        assert [type(outcome) for outcome in outcomes] == [SessionEndedError] * 4
        await _nothing_is_left(client, database)
    assert "ask for SessionsDep" in str(outcomes[0])
    assert await notes() == 1


@pytest.mark.parametrize("way", ["session", "connection"])
async def test_a_result_that_outlives_its_session(
    app: FastAPI, database: Database, notes: Callable[[], Awaitable[int]], way: str
) -> None:
    """Its connection serves somebody else by then, whose transaction it would end."""
    late: list[AsyncResult[Any]] = []

    @app.post("/left", status_code=201)
    async def left(session: SessionDep) -> None:
        await session.execute(insert(Note), [{"body": str(number)} for number in range(200)])
        query = select(Note).execution_options(yield_per=2)
        if way == "session":
            late.append(await session.stream(query))
        else:
            late.append(await (await session.connection()).stream(query))
        await late[0].fetchmany(1)

    @app.post("/other", status_code=201)
    async def other(session: SessionDep) -> None:
        await session.execute(NOTE)
        with pytest.raises((asyncpg.InterfaceError, InvalidRequestError), match=r"closed|released"):
            await late[0].fetchall()

    async with running(app) as client:
        assert (await client.post("/left")).status_code == 201
        assert (await client.post("/other")).status_code == 201
        await _nothing_is_left(client, database)
    assert await notes() == 201


async def _gather(session: AsyncSession) -> None:
    await asyncio.gather(*(session.execute(text("SELECT pg_sleep(0.05)")) for _ in range(3)))


async def _gather_whatever_happens(session: AsyncSession) -> None:
    statements = (session.execute(insert(Note).values(body=str(n))) for n in range(3))
    await asyncio.gather(*statements, return_exceptions=True)


async def _flush_and_read(session: AsyncSession) -> None:
    session.add(Note(body="a"))
    await asyncio.gather(session.flush(), session.scalar(select(func.count()).select_from(Note)))


async def _group(session: AsyncSession) -> None:
    async with asyncio.TaskGroup() as group:
        for key in range(3):
            group.create_task(session.get(Note, key))


async def _leave_one_running(session: AsyncSession) -> None:
    session.info["task"] = asyncio.create_task(session.execute(NOTE))
    await asyncio.sleep(0)


async def _commit_meanwhile(session: AsyncSession) -> None:
    slow = session.execute(text("SELECT pg_sleep(0.05)"))
    await asyncio.gather(slow, session.commit())


async def _roll_back_meanwhile(session: AsyncSession) -> None:
    slow = session.execute(text("SELECT pg_sleep(0.05)"))
    await asyncio.gather(slow, session.rollback())


async def test_a_stream_and_a_statement_at_once(
    app: FastAPI, database: Database, notes: Callable[[], Awaitable[int]]
) -> None:
    """Whatever the driver makes of it."""

    @app.post("/at-once", status_code=201)
    async def at_once(session: SessionDep) -> None:
        await session.execute(NOTE)
        slow = select(func.pg_sleep(0.001).label("slept"), func.generate_series(1, 100))
        result = await session.stream(slow.execution_options(yield_per=10))
        await asyncio.gather(result.fetchall(), session.execute(insert(Note).values(body="b")))

    async with running(app) as client:
        for _ in range(12):
            assert (await client.post("/at-once")).status_code == 500
        await _nothing_is_left(client, database)
    assert await notes() == 0


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize(
    "use",
    [
        *(_gather, _gather_whatever_happens, _flush_and_read, _group, _leave_one_running),
        *(_commit_meanwhile, _roll_back_meanwhile),
    ],
    ids=lambda use: use.__name__,
)
async def test_two_tasks_at_once(
    app: FastAPI, database: Database, notes: Callable[[], Awaitable[int]], use: Use, warm: bool
) -> None:
    """On a cold pool the connection was lost for good; on a warm one it worked by luck."""
    errors: list[BaseException] = []

    @app.post("/at-once", status_code=201)
    async def at_once(session: SessionDep) -> None:
        await use(session)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Any:
        errors.extend(error.exceptions if isinstance(error, ExceptionGroup) else [error])
        raise error

    async with running(app) as client:
        if warm:
            assert (await client.get("/readyz")).status_code == 200
        for _ in range(12):  # more than the pool has connections
            assert (await client.post("/at-once")).status_code == 500
        await _nothing_is_left(client, database)
        assert (await client.get("/readyz")).status_code == 200
    assert {type(error) for error in errors} == {SessionInUseError}
    assert "give each task a session of its own" in str(errors[0])
    assert await notes() == 0


async def test_one_after_the_other_in_several_tasks(
    app: FastAPI, notes: Callable[[], Awaitable[int]]
) -> None:
    """A session is not tied to a task: beside a request to another service it may be used, too."""

    @app.post("/beside", status_code=201)
    async def beside(session: SessionDep) -> None:
        await asyncio.gather(session.execute(NOTE), asyncio.sleep(0.01))
        await asyncio.wait_for(session.execute(insert(Note).values(body="b")), 5)
        await asyncio.create_task(_scalar(session))

    async with running(app) as client:
        assert (await client.post("/beside")).status_code == 201
    assert await notes() == 2


async def _swallow(session: AsyncSession) -> None:
    await session.execute(NOTE)
    with suppress(SQLAlchemyError):
        await session.execute(text("SELECT 1/0"))


async def _swallow_of_the_driver(session: AsyncSession) -> None:
    await session.execute(NOTE)
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    with suppress(asyncpg.PostgresError):
        await raw.driver_connection.execute("SELECT 1/0")


async def _swallow_a_timeout(session: AsyncSession) -> None:
    await session.execute(NOTE)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await session.execute(text("SELECT pg_sleep(5)"))


async def _swallow_in_a_flush(session: AsyncSession) -> None:
    session.add(Note(body="a"))
    await session.flush()
    session.add(Note(body="a"))
    with suppress(SQLAlchemyError):
        await session.flush()


def _end_by_hand(by: str) -> Use:
    async def end(session: AsyncSession) -> None:
        await session.execute(NOTE)
        await session.execute(text(by))
        await session.execute(insert(Note).values(body="b"))

    return end


async def _end_by_the_driver(session: AsyncSession) -> None:
    await session.execute(NOTE)
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    await raw.driver_connection.execute("COMMIT AND CHAIN; INSERT INTO notes (body) VALUES ('b')")


async def _end_behind_another(session: AsyncSession) -> None:
    await session.execute(NOTE)
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    await raw.driver_connection.execute("SELECT 1; ROLLBACK")


async def _copy_first(session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    await raw.driver_connection.copy_records_to_table("notes", records=[("a",)], columns=["body"])


async def _driver_first(session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    await raw.driver_connection.fetch("INSERT INTO notes (body) VALUES ('a') RETURNING id")


async def _begin_of_the_driver(session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    async with raw.driver_connection.transaction():
        await raw.driver_connection.execute("INSERT INTO notes (body) VALUES ('a')")


async def _begin_by_hand(session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    assert raw.driver_connection
    await raw.driver_connection.execute("BEGIN; INSERT INTO notes (body) VALUES ('a'); COMMIT")


def _by_the_driver(method: str, *arguments: Any) -> Use:
    async def use(session: AsyncSession) -> None:
        await session.execute(NOTE)
        raw = await (await session.connection()).get_raw_connection()
        await getattr(raw.driver_connection, method)(*arguments)

    return use


FALSE = ("SELECT set_config('a.b', 'c', $1)", False)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (_swallow, "nothing was stored"),
        (_swallow_of_the_driver, "nothing was stored"),
        (_swallow_a_timeout, "rolled back"),
        (_swallow_in_a_flush, "rolled back"),
        (_end_by_hand("ROLLBACK"), "ends its transaction itself"),
        (_end_by_hand("rollback and chain"), "ends its transaction itself"),
        (_end_by_hand(" COMMIT"), "ends its transaction itself"),
        (_end_by_hand("END AND CHAIN"), "ends its transaction itself"),
        (_end_by_hand("ABORT"), "ends its transaction itself"),
        (_end_by_hand("PREPARE TRANSACTION 'a'"), "ends its transaction itself"),
        (_end_by_the_driver, "ends its transaction itself"),
        (_end_behind_another, "nothing to commit"),
        (_copy_first, "has not begun"),
        (_driver_first, "has not begun"),
        (_begin_of_the_driver, "has not begun"),
        (_begin_by_hand, "has not begun"),
        (_by_the_driver("fetch", "COMMIT"), "ends its transaction itself"),
        (_by_the_driver("execute", "SET a.b = 'c'"), "would stay"),
        (_by_the_driver("execute", *FALSE), "would stay"),
        (_by_the_driver("fetchval", *FALSE), "would stay"),
        (_by_the_driver("executemany", "SELECT pg_advisory_lock($1)", [(1,)]), "would stay"),
        (_by_the_driver("prepare", "SELECT pg_advisory_lock(1)"), "would stay"),
        (_by_the_driver("cursor", "SELECT pg_advisory_lock(1)"), "would stay"),
        (_by_the_driver("copy_from_query", "SELECT pg_advisory_lock(1)"), "would stay"),
        (_by_the_driver("add_listener", "a", print), "would stay"),
        (_by_the_driver("reset"), "ends its transaction itself"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_commit_that_stores_nothing_is_an_error(
    app: FastAPI,
    database: Database,
    notes: Callable[[], Awaitable[int]],
    caplog: pytest.LogCaptureFixture,
    use: Use,
    says: str,
) -> None:
    """COMMIT of an aborted transaction answers ROLLBACK, and neither driver nor SQLAlchemy looks."""
    errors: list[str] = []

    @app.post("/misused", status_code=201)
    async def misused(session: SessionDep) -> None:
        await use(session)

    @app.exception_handler(asyncpg.InterfaceError)
    @app.exception_handler(SQLAlchemyError)
    async def failed(request: Request, error: Exception) -> Any:
        errors.append(str(error))
        raise error

    async with running(app) as client:
        assert (await client.post("/misused")).status_code == 500
        await _nothing_is_left(client, database)
    assert says in errors[0]
    assert await notes() == 0


async def test_a_transaction_of_the_drivers_is_not_left_open(
    app: FastAPI, database: Database, notes: object
) -> None:
    """SQLAlchemy does not know of it, and the next who had the connection would be in it. Nor may it be
    used by who has given it back."""
    kept: list[Any] = []

    @app.post("/by-hand")
    async def by_hand(request: Request) -> None:
        async with request.state.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            kept.append(driver)
            await driver.execute("BEGIN")
            await driver.execute("SELECT 1")

    @app.post("/kept")
    async def keep(session: SessionDep) -> None:
        raw = await (await session.connection()).get_raw_connection()
        kept.append(raw.driver_connection)

    async with running(app) as client:
        assert (await client.post("/by-hand")).status_code == 200
        await _nothing_is_left(client, database)
        assert kept[0].is_closed()
        assert (await client.post("/kept")).status_code == 200
        with pytest.raises(asyncpg.InterfaceError, match="back in the pool"):
            await kept[1].fetchval("SELECT 1")
        assert (await client.get("/readyz")).status_code == 200


async def _execute_in_a_thread(connection: AsyncConnection) -> None:
    await asyncio.to_thread(asyncio.run, connection.execute(NOTE))


async def _commit_in_a_thread(connection: AsyncConnection) -> None:
    await connection.execute(NOTE)
    await asyncio.to_thread(asyncio.run, connection.commit())


async def _ask_the_driver_in_a_thread(connection: AsyncConnection) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await asyncio.to_thread(asyncio.run, driver.fetch("SELECT 1"))


async def _begin_in_a_thread(connection: AsyncConnection) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await asyncio.to_thread(asyncio.run, driver.transaction().start())


async def _dispose_in_a_thread(connection: AsyncConnection) -> None:
    await asyncio.to_thread(asyncio.run, connection.engine.dispose())


@pytest.mark.parametrize(
    "use",
    [
        _execute_in_a_thread,
        _commit_in_a_thread,
        _ask_the_driver_in_a_thread,
        _begin_in_a_thread,
        _dispose_in_a_thread,
    ],
    ids=lambda use: use.__name__,
)
async def test_a_connection_in_another_event_loop(
    app: FastAPI,
    database: Database,
    notes: Callable[[], Awaitable[int]],
    use: Callable[[AsyncConnection], Awaitable[None]],
) -> None:
    """Before anything is sent: two threads in one transport can end the process."""

    @app.post("/elsewhere")
    async def elsewhere(request: Request) -> None:
        async with request.state.engine.connect() as connection:
            with pytest.raises(EventLoopError, match="be `async def`"):
                await use(connection)

    @app.post("/innocent")
    async def innocent(session: SessionDep) -> None:
        await session.execute(insert(Note).values(body=str(uuid4())))

    async with running(app) as client:
        for _ in range(6):
            assert (await client.post("/elsewhere")).status_code == 200
            assert (await client.post("/innocent")).status_code == 200
        await _nothing_is_left(client, database)
    assert await notes() == 6


async def test_a_begin_that_fails_on_its_way(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg believes in it: the next transaction would be a savepoint in one that is not there."""
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        monkeypatch.setattr(asyncpg.Connection, "execute", None)
        with pytest.raises(TypeError):
            await driver.transaction().start()
        monkeypatch.undo()
    assert driver.is_closed()


def test_a_script_has_one_event_loop_after_another(settings: Settings) -> None:
    """And may make the engine outside of them. Not two at once."""
    engine = create_engine(settings)

    async def use() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def work() -> None:
        await use()
        with pytest.raises(EventLoopError, match="be `async def`"):
            await asyncio.to_thread(asyncio.run, use())
        await engine.dispose()

    asyncio.run(work())
    asyncio.run(work())


async def test_without_a_pool_each_event_loop_has_its_own_connections(settings: Settings) -> None:
    null = settings.model_copy(update={"database_pool": "null"})
    async with open_engine(null) as engine:
        read = ReadSession(engine)
        assert await asyncio.to_thread(asyncio.run, read.scalar(text("SELECT 1"))) == 1
        assert await read.scalar(text("SELECT 2")) == 2
