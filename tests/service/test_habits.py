"""What people bring along from plain SQLAlchemy: it is stored, or the answer is an error.

Each of these answered 2xx for a row that was not stored, or 500 for one that was.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import HTTPException
from fastapi.responses import Response
from sqlalchemy import ForeignKey, MetaData, String, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from orders_api.database.base import Base
from orders_api.database.session import (
    SessionEndedError,
    Sessions,
)
from orders_api.web.dependencies import (
    ReadSessionDep,
    SessionDep,
    SessionsDep,
)
from orders_api.web.problems import install_problem_handlers

from tests.support import Database, connect, eventually_gone, running

Use = Callable[[AsyncSession], Awaitable[Any]]


class Habit(Base):
    __tablename__ = "habits"
    metadata = MetaData(schema="scratch")

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(String(100), unique=True)
    amount: Mapped[int] = mapped_column(server_default=text("0"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    of_id: Mapped[int | None] = mapped_column(ForeignKey("scratch.habits.id"))
    of: Mapped["Habit | None"] = relationship(back_populates="all", remote_side=[id])
    all: Mapped[list["Habit"]] = relationship(back_populates="of", cascade="")
    __mapper_args__ = {"eager_defaults": True, "version_id_col": version}  # noqa: RUF012


HABIT = insert(Habit).values(body="a")


@pytest.fixture
async def stored(app: FastAPI, database: Database) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """How many habits are stored, but for the first, which is there. Fails the test that leaves a
    transaction behind."""
    table = f"{database.scratch}.habits"
    async with connect(database.url) as direct:
        await direct.execute(
            f"CREATE TABLE {table} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body varchar(100)"
            " UNIQUE DEFERRABLE INITIALLY DEFERRED, amount int NOT NULL DEFAULT 0,"
            f" version int NOT NULL DEFAULT 1, of_id int REFERENCES {table}); GRANT ALL ON {table} TO PUBLIC"
        )
        await direct.execute(f"INSERT INTO {table} (body) VALUES ('first')")

        async def count() -> int:
            stuck = "datname = current_database() AND state LIKE 'idle in transaction%'"
            await eventually_gone(direct, stuck)
            found: int = await direct.fetchval(f"SELECT count(*) - 1 FROM {table}")
            return found

        yield count
        await direct.execute(f"DROP TABLE {table}")


async def _forget_execute(session: AsyncSession) -> None:
    session.execute(HABIT)  # type: ignore[unused-coroutine]


async def _forget_a_condition(session: AsyncSession) -> None:
    if session.scalar(select(Habit.id).where(Habit.body == "b")):
        await session.execute(HABIT)


async def _forget_delete(session: AsyncSession) -> None:
    session.delete(await session.get_one(Habit, 1))  # type: ignore[unused-coroutine]


async def _forget_rollback(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    session.rollback()  # type: ignore[unused-coroutine]


async def _forget_and_commit(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    session.execute(insert(Habit).values(body="b"))  # type: ignore[unused-coroutine]
    await session.commit()


async def _forget_run_sync(session: AsyncSession) -> None:
    session.run_sync(lambda sync: sync.add(Habit(body="a")))  # type: ignore[unused-coroutine]


async def _start_a_task(session: AsyncSession) -> None:
    session.info["task"] = asyncio.create_task(session.execute(HABIT))


async def _run_in_a_thread(session: AsyncSession) -> None:
    await run_in_threadpool(session.execute, HABIT)  # type: ignore[unused-coroutine]


async def _relate(session: AsyncSession) -> None:
    Habit(body="a", of=await session.get_one(Habit, 1))


async def _close(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    await session.close()


async def _close_after_a_flush(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    await session.flush()
    await session.aclose()


async def _close_after_a_statement(session: AsyncSession) -> None:
    await session.execute(HABIT)
    await session.run_sync(lambda sync: sync.close())


async def _close_after_a_commit_and_more(session: AsyncSession) -> None:
    await session.commit()
    await session.execute(HABIT)
    await session.close()


async def _reset(session: AsyncSession) -> None:
    await session.execute(HABIT)
    await session.reset()


async def _enter(session: AsyncSession) -> None:
    async with session:
        await session.execute(HABIT)
        await session.commit()


async def _commit_the_connection(session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.execute(HABIT)
    await connection.commit()


async def _redirect(session: AsyncSession) -> None:
    await session.execute(HABIT)
    raise HTTPException(303, headers={"Location": "/"})


async def _raise_accepted(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    raise HTTPException(202)


async def _raise_accepted_for_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).execute(HABIT)
    raise HTTPException(202)


FORGOTTEN = [
    *(_forget_execute, _forget_a_condition, _forget_delete, _forget_rollback, _forget_and_commit),
    *(_forget_run_sync, _start_a_task, _run_in_a_thread),
]
NOT_YOURS, ROLLED_BACK = "leave out close()", "an exception rolls back"


async def _is_refused(app: FastAPI, use: Use, says: str) -> None:
    errors: list[str] = []

    @app.post("/habit", status_code=201)
    async def habit(session: SessionDep) -> None:
        await use(session)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Any:
        errors.append(str(error))
        raise error

    async with running(app) as client:
        assert (await client.post("/habit")).status_code == 500
        assert (await client.get("/readyz")).status_code == 200
    assert says in errors[0]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("use", FORGOTTEN, ids=lambda use: use.__name__)
async def test_what_never_ran_is_an_error(
    app: FastAPI, stored: Callable[[], Awaitable[int]], use: Use
) -> None:
    await _is_refused(app, use, "never ran")
    assert await stored() == 0


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (_relate, "not in session"),
        (_close, NOT_YOURS),
        (_close_after_a_flush, NOT_YOURS),
        (_close_after_a_statement, NOT_YOURS),
        (_close_after_a_commit_and_more, NOT_YOURS),
        (_reset, NOT_YOURS),
        (_enter, NOT_YOURS),
        (_commit_the_connection, NOT_YOURS),
        (_redirect, ROLLED_BACK),
        (_raise_accepted, ROLLED_BACK),
        (_raise_accepted_for_the_connection, ROLLED_BACK),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_would_not_be_stored_is_an_error(
    app: FastAPI, stored: Callable[[], Awaitable[int]], use: Use, says: str
) -> None:
    await _is_refused(app, use, says)
    assert await stored() == 0


def test_an_object_that_was_not_added_is_an_error_without_pytest() -> None:
    """Which makes an error of every warning: in a service this one has to be an error by itself."""
    warn = "Object of type <Habit> not in session, add operation along 'Habit.all' will not proceed"
    code = (
        "import warnings, sqlalchemy.exc, orders_api.main;"
        f"warnings.warn({warn!r}, sqlalchemy.exc.SAWarning)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1


async def _commit_and_close(session: AsyncSession) -> None:
    try:
        habit = Habit(body="a")
        session.add(habit)
        await session.commit()
        await session.refresh(habit)
    finally:
        await session.close()


async def _read_and_close(session: AsyncSession) -> None:
    await session.get(Habit, 1)
    await session.close()
    session.add(Habit(body="a"))


async def _return_a_redirect(session: AsyncSession) -> Response:
    session.add(Habit(body="a"))
    return Response(status_code=303, headers={"Location": "/"})


async def _raise_with_nothing_to_store(session: AsyncSession) -> None:
    await session.execute(HABIT)
    await session.commit()
    await session.get(Habit, 1)
    raise HTTPException(303, headers={"Location": "/"})


async def _cancel_what_has_begun(session: AsyncSession) -> None:
    session.add(Habit(body="a"))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("use", "status"),
    [
        (_commit_and_close, 201),
        (_read_and_close, 201),
        (_return_a_redirect, 303),
        (_raise_with_nothing_to_store, 303),
        (_cancel_what_has_begun, 201),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_is_stored_is_answered_so(
    app: FastAPI, stored: Callable[[], Awaitable[int]], use: Use, status: int
) -> None:
    """A caller who is told 500 tries again, and stores it twice."""

    @app.post("/habit", status_code=201, response_model=None)
    async def habit(session: SessionDep) -> Any:
        return await use(session)

    async with running(app) as client:
        assert (await client.post("/habit")).status_code == status
    assert await stored() == 1


async def test_a_session_is_opened_with_async_with(
    app: FastAPI, stored: Callable[[], Awaitable[int]]
) -> None:
    """Without it nobody commits, and the connection is lost until the garbage collector comes."""
    late: list[str] = []

    @app.post("/open")
    async def opened(sessions: SessionsDep, tasks: BackgroundTasks) -> None:
        for act in ("execute", "add"):
            with pytest.raises(SessionEndedError, match="has not begun"):
                await getattr(sessions.begin(), act)(HABIT)
        async with sessions.begin() as session:
            await session.execute(HABIT)
        with pytest.raises(SessionEndedError, match="has ended"):
            await session.__aenter__()
        tasks.add_task(session.execute, HABIT)  # which FastAPI takes for a plain function

    @app.exception_handler(SessionEndedError)
    async def failed(request: Request, error: SessionEndedError) -> Any:
        late.append(str(error))

    async with running(app) as client:
        assert (await client.post("/open")).status_code in (200, 500)
    assert await stored() == 1


async def test_a_commit_after_the_response(
    app: FastAPI, stored: Callable[[], Awaitable[int]]
) -> None:
    """FastAPI's default for an own dependency: 201, and no row where the commit fails."""

    async def own(sessions: SessionsDep) -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session

    async def beside(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    @app.post("/late", status_code=201)
    async def late(session: Annotated[AsyncSession, Depends(own)]) -> None:
        await session.execute(HABIT)

    @app.post("/late/sync", status_code=201)
    def late_sync(session: Annotated[AsyncSession, Depends(own)]) -> None:
        session.add(Habit(body="a"))

    @app.post("/in-time", status_code=201)
    async def in_time(session: Annotated[AsyncSession, Depends(own, scope="function")]) -> None:
        await session.execute(HABIT)

    @app.post("/job", status_code=201)
    async def job(sessions: SessionsDep, request: Request) -> None:
        begun = asyncio.Event()

        async def work() -> None:
            async with sessions.begin() as session:
                begun.set()
                await asyncio.sleep(0.05)
                await session.execute(insert(Habit).values(body="b"))

        request.app.state.job = asyncio.create_task(work())
        await begun.wait()

    # Next to the routes, as one that main.py adds first.
    app.user_middleware.insert(-1, Middleware(BaseHTTPMiddleware, dispatch=beside))
    async with running(app) as client:
        for path in ("/late", "/late/sync"):
            assert (await client.post(path)).status_code == 500, path
        assert await stored() == 0
        assert (await client.post("/in-time")).status_code == 201
        assert (await client.post("/in-time")).status_code == 409
        assert (await client.post("/job")).status_code == 201
        await app.state.job
    assert await stored() == 2


async def test_what_was_read_before_a_commit_or_a_lock_is_read_anew(
    app: FastAPI, stored: Callable[[], Awaitable[int]]
) -> None:
    """The objects that the session had were answered, and written over what others had stored."""

    async def pay(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            await session.execute(update(Habit).values(amount=Habit.amount + 100))

    one = select(Habit).where(Habit.id == 1)

    @app.post("/amounts")
    async def amounts(session: SessionDep, sessions: SessionsDep) -> list[int]:
        habit = await session.get_one(Habit, 1)  # the session keeps what somebody has
        seen = [habit.amount]
        await pay(sessions)
        seen.append((await session.scalars(one.with_for_update())).one().amount)
        await session.commit()
        await pay(sessions)
        seen.append((await session.get_one(Habit, 1)).amount)
        await session.commit()
        await pay(sessions)
        seen.append((await session.scalars(one)).one().amount)
        await session.commit()
        await pay(sessions)
        seen.append((await session.execute(one.with_for_update())).scalar_one().amount)
        habit.amount += 1
        # Its own changes are not read over.
        seen.append((await session.get_one(Habit, 1)).amount)
        habit.amount += 1
        seen.append((await session.scalars(one)).one().amount)
        with session.no_autoflush:
            habit.amount += 1
            seen.append((await session.scalars(one.with_for_update())).one().amount)
        async with session.begin_nested():
            habit.amount += 1
        return [*seen, habit.amount]

    async with running(app) as client:
        assert (await client.post("/amounts")).json() == [0, 100, 200, 300, 400, 401, 402, 403, 404]


async def test_somebody_elses_change_is_a_conflict(
    app: FastAPI, stored: Callable[[], Awaitable[int]]
) -> None:
    """Of a version, or of a row that is gone meanwhile: it was a 500."""

    @app.put("/{way}")
    async def put(way: str, session: SessionDep, sessions: SessionsDep) -> None:
        habit = await session.get_one(Habit, 1)
        async with sessions.begin() as other:
            theirs = await other.get_one(Habit, 1)
            if way == "gone":
                await other.delete(theirs)
            theirs.body = "theirs"
        habit.body = "mine"

    async with running(app) as client:
        assert (await client.put("/version")).status_code == 409
        assert (await client.put("/gone")).status_code == 409


async def test_a_failure_in_a_middleware_is_answered_like_a_routes(
    app: FastAPI, stored: Callable[[], Awaitable[int]]
) -> None:
    """It was a 500, with nothing that tells the caller to try again. So it was in a mounted application."""
    part = FastAPI()
    install_problem_handlers(part)
    app.mount("/part", part)

    @part.post("/unavailable")
    async def unavailable(read: ReadSessionDep) -> None:
        await read.execute(text("SELECT pg_cancel_backend(pg_backend_pid())"))

    @app.middleware("http")
    async def look(request: Request, call_next: RequestResponseEndpoint) -> Response:
        match request.url.path:
            case "/unavailable":
                await request.state.read_session.execute(
                    text("SELECT pg_cancel_backend(pg_backend_pid())")
                )
            case "/conflict":
                async with request.state.sessions.begin() as session:
                    await session.execute(insert(Habit).values(body="first"))
            case "/group":
                async with asyncio.TaskGroup() as group:
                    cancel = text("SELECT pg_cancel_backend(pg_backend_pid())")
                    group.create_task(request.state.read_session.execute(cancel))
            case "/defect":
                try:
                    await request.state.read_session.execute(text("SELECT 1/0"))
                except SQLAlchemyError as error:
                    raise RuntimeError from error
        return await call_next(request)

    async with running(app) as client:
        for path in ("/unavailable", "/group", "/part/unavailable"):
            response = await client.post(path)
            assert response.status_code == 503, path
            assert response.headers["Retry-After"] == "1"
        assert (await client.post("/conflict")).status_code == 409
        assert (await client.post("/defect")).status_code == 500
