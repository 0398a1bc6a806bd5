"""The code of the documents, as a feature of the service: it does what they say."""

import asyncio
import hashlib
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from fastapi import FastAPI, Request
from httpx import AsyncClient
from sqlalchemy import Connection, MetaData, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase
from websockets.asyncio.client import connect as open_websocket

from {{ cookiecutter.package_name }}.database import base
from {{ cookiecutter.package_name }}.database.engine import create_engine, open_engine
from {{ cookiecutter.package_name }}.database.session import (
    ReadSession,
    SessionInUseError,
    Sessions,
)
from {{ cookiecutter.package_name }}.settings import Settings, load_settings

from tests.documents import files
from tests.support import Database, connect, eventually_gone, serving, work_in

Run = Callable[..., Awaitable[asyncio.subprocess.Process]]


class Apart(DeclarativeBase):
    """A base like the service's, which may have a `Book` of its own by now."""

    metadata = MetaData(naming_convention=base.Base.metadata.naming_convention)
    type_annotation_map = base.Base.type_annotation_map
    __mapper_args__ = base.Base.__mapper_args__


@pytest.fixture(scope="module")
def feature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package `documented` with the code of all documents, in a folder that Python looks into."""
    folder = tmp_path_factory.mktemp("routes")
    (folder / "documented").mkdir()
    for path, code in files().items():
        own = code.replace("{{ cookiecutter.package_name }}.books", "documented")
        own = own.replace('"/books', '"/test/books')  # the service may have /books by now
        (folder / "documented" / Path(path).name).write_text(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(base, "Base", Apart)
        import_module("documented.routes")
        yield folder


def _module(name: str) -> Any:
    return import_module(f"documented.{name}")


@pytest.fixture
async def tables(
    engine: AsyncEngine, database: Database, feature: Path
) -> AsyncIterator[AsyncEngine]:
    """The service's engine, with the feature's tables. Fails the test that leaves a transaction open."""
    tables = engine.execution_options(schema_translate_map={None: database.scratch})
    async with tables.begin() as connection:
        await connection.run_sync(Apart.metadata.create_all)
    yield tables
    async with connect(database.url) as direct:
        open_ones = "datname = current_database() AND state LIKE 'idle in transaction%'"
        await eventually_gone(direct, open_ones)
    async with asyncio.timeout(5):
        while tables.pool.checkedout():  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
    async with tables.begin() as connection:
        await connection.run_sync(Apart.metadata.drop_all)


@pytest.fixture
async def client(
    app: FastAPI, database: Database, tables: AsyncEngine
) -> AsyncIterator[AsyncClient]:
    """A client of the service with that feature, over a socket."""

    @app.get("/test/pool")
    async def pool(request: Request) -> int:
        checked_out: int = request.state.engine.pool.checkedout()
        return checked_out

    app.include_router(_module("routes").router, prefix="/test")
    work_in(app, database.scratch)
    async with serving(app) as client:
        client.base_url = client.base_url.join("/test")
        yield client
        async with asyncio.timeout(5):
            while (await client.get("/pool")).json():
                await asyncio.sleep(0.01)


@pytest.fixture
def opened(
    tables: AsyncEngine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any], None]:
    """Lets a module that opens an engine of its own find the feature's tables."""
    monkeypatch.setenv("DATABASE_URL", database.pooler_url)
    options = {"schema_translate_map": {None: database.scratch}}

    @asynccontextmanager
    async def in_schema(settings: Settings) -> AsyncIterator[AsyncEngine]:
        async with open_engine(settings) as engine:
            yield engine.execution_options(**options)

    def patch(module: Any) -> None:
        ways = {
            "open_engine": in_schema,
            "create_engine": lambda it: create_engine(it).execution_options(**options),
        }
        for name in ways.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, ways[name])

    return patch


# What `opened` does, in a process of its own.
SCRIPT = """
import runpy, sys
from contextlib import asynccontextmanager
from {{ cookiecutter.package_name }}.database import engine

open_engine = engine.open_engine

@asynccontextmanager
async def in_schema(settings):
    async with open_engine(settings) as opened:
        yield opened.execution_options(schema_translate_map={None: sys.argv[2]})

engine.open_engine = in_schema
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
async def run(
    tables: AsyncEngine, database: Database, feature: Path, tmp_path: Path
) -> AsyncIterator[Run]:
    """Begins to run a module of the feature as a script."""
    path = os.pathsep.join((str(feature), os.environ.get("PYTHONPATH", "")))
    env = os.environ | {"DATABASE_URL": database.pooler_url, "PYTHONPATH": path}
    begun: list[asyncio.subprocess.Process] = []

    async def run(module: str) -> asyncio.subprocess.Process:
        arguments = ("-c", SCRIPT, f"documented.{module}", database.scratch)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments), cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        if process.returncode is None:  # the test has failed
            process.kill()
            await process.wait()


async def _create(client: AsyncClient, title: str) -> dict[str, Any]:
    response = await client.post("/test/books", json={"title": title})
    assert response.status_code == 201
    book: dict[str, Any] = response.json()
    return book


async def _titles(client: AsyncClient) -> list[str]:
    return [book["title"] for book in (await client.get("/test/books")).json()]


async def _books(tables: AsyncEngine, *titles: str) -> list[int]:
    """Store books; their ids."""
    book = _module("models").Book
    async with Sessions(tables).begin() as session:
        new = insert(book).returning(book.id, sort_by_parameter_order=True)
        return list(await session.scalars(new, [{"title": title} for title in titles]))


async def _count(tables: AsyncEngine, model: str, *where: Any) -> int:
    count = select(func.count()).select_from(getattr(_module("models"), model))
    return await ReadSession(tables).scalar(count.where(*where)) or 0


async def test_its_own_test(client: AsyncClient) -> None:
    await _module("test_books").test_a_book_is_created_once(client)


async def test_the_routes_of_the_readme(client: AsyncClient, tables: AsyncEngine) -> None:
    book = await _create(client, "a")
    assert (await client.get("/test/books/count")).json() == 1
    async with Sessions(tables).begin() as session:
        await session.execute(update(_module("models").Book).values(lent=True))
    assert (await client.put(f"/test/books/{book['id']}/return")).status_code == 204
    assert (await client.get("/test/books")).json() == [book]


async def test_a_list_goes_on_after_its_last(client: AsyncClient, tables: AsyncEngine) -> None:
    await _books(tables, *(str(number) for number in range(101)))
    page = (await client.get("/test/books")).json()
    assert len(page) == 100
    rest = await client.get("/test/books", params={"after": page[-1]["id"]})
    assert [book["title"] for book in rest.json()] == ["100"]


async def test_the_models_can_be_written_as_a_migration(engine: AsyncEngine, feature: Path) -> None:
    """An enum's members, where its values belong, were no Python."""

    def write(connection: Connection) -> str:
        context = MigrationContext.configure(connection)
        operations = produce_migrations(context, Apart.metadata).upgrade_ops
        assert operations is not None
        return render_python_code(operations)

    async with engine.connect() as connection:
        body = await connection.run_sync(write)
    compile(f"def upgrade():\n    {body}", "migration", "exec")


async def test_columns_of_every_kind(client: AsyncClient, tables: AsyncEngine) -> None:
    book = await _create(client, "a")
    path = f"/test/books/{book['id']}/loans"
    due = {"due_at": "2026-12-24T18:00:00+02:00"}
    created = await client.post(path, json=due)
    assert created.status_code == 201
    loan = {"id": created.json()["id"], "book_id": book["id"], "state": "out", "notes": {}}
    stored = loan | {"due_at": "2026-12-24T16:00:00Z"}
    assert (await client.get("/test/books/loans")).json() == [stored]
    for wrong in ("2026-12-24T18:00", "9999-12-31T23:59:59-12:00", "0.5", 0):
        assert (await client.post(path, json={"due_at": wrong})).status_code == 422
    assert (await client.post("/test/books/999999/loans", json=due)).status_code == 409
    models = _module("models")
    by_value = select(models.Loan.state).where(text("state = 'out'"))
    assert await ReadSession(tables).scalar(by_value) is models.State.OUT


async def test_json_is_changed_in_place(client: AsyncClient) -> None:
    book = await _create(client, "a")
    due = {"due_at": "2026-12-24T18:00Z"}
    loan = (await client.post(f"/test/books/{book['id']}/loans", json=due)).json()
    path = f"/test/books/loans/{loan['id']}/notes"
    asked = (client.put(f"{path}/{page}", json={"text": "torn"}) for page in range(1, 9))
    await asyncio.gather(*asked)
    notes = {str(page): "torn" for page in range(1, 9)}
    assert (await client.get("/test/books/loans")).json() == [loan | {"notes": notes}]
    assert (await client.put(f"{path}/9", json={"text": "\0"})).status_code == 422
    assert (
        await client.put("/test/books/loans/999999/notes/1", json={"text": "a"})
    ).status_code == 404


async def test_who_is_asking_is_known_and_holds_no_connection(
    client: AsyncClient, app: FastAPI, tables: AsyncEngine
) -> None:
    @app.get("/test/held")
    async def held(request: Request, member: _module("routes").MemberDep) -> int:  # type: ignore[valid-type]
        checked_out: int = request.state.engine.pool.checkedout()
        return checked_out

    member = _module("models").Member
    async with Sessions(tables).begin() as session:
        key = hashlib.sha256(b"secret").digest()
        number = await session.scalar(insert(member).values(key=key).returning(member.id))
    right = {"Authorization": "Bearer secret"}
    assert (await client.get("/test/books/me", headers=right)).json() == number
    assert (await client.get("/held", headers=right)).json() == 0
    for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
        response = await client.get("/test/books/me", headers=wrong)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_background_task_stores_what_it_writes(client: AsyncClient) -> None:
    book = await _create(client, "a")
    for _ in range(2):  # the second fails, and the server closes its connection
        copied = await client.post(
            f"/test/books/{book['id']}/copy", headers={"Connection": "close"}
        )
        assert copied.status_code == 202
    async with asyncio.timeout(5):
        while await _titles(client) != ["a", "Copy of a"]:
            await asyncio.sleep(0.01)


async def test_nothing_is_held_while_another_service_is_asked(
    client: AsyncClient, tables: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (number,) = await _books(tables, "a")
    held = []

    async def ask(title: str) -> str:
        held.append((await client.get("/pool")).json())
        if title == "b":  # which is changed meanwhile
            async with Sessions(tables).begin() as session:
                await session.execute(update(_module("models").Book).values(title="c"))
        return "b"

    monkeypatch.setattr(_module("routes"), "full_title", ask)
    answers = [await client.put(f"/test/books/{it}/title") for it in (number, number, 999999)]
    assert [answer.status_code for answer in answers] == [200, 409, 404]
    assert answers[0].json()["title"] == "b"
    assert await _titles(client) == ["c"]
    assert held == [0, 0]


async def test_many_insert_or_update_one(client: AsyncClient, tables: AsyncEngine) -> None:
    await _books(tables, "a")
    async with Sessions(tables).begin() as session:
        await session.execute(update(_module("models").Book).values(lent=True))
    asked = (client.put("/test/books", json={"title": title}) for title in "ab" * 8)
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["lent"] for answer in answers} == {False}
    assert await _titles(client) == ["a", "b"]


async def test_what_failed_in_a_savepoint_leaves_the_rest(client: AsyncClient) -> None:
    await _create(client, "b")
    new = [{"title": title} for title in "abc"]
    assert (await client.post("/test/books/many", json=new)).json() == ["b"]
    assert await _titles(client) == ["b", "a", "c"]


async def test_a_dependency_over_a_session_and_one_with_its_own(client: AsyncClient) -> None:
    twice = [{"title": "a"}] * 2
    assert (await client.post("/test/books/shelf", json=twice)).status_code == 409
    assert await _titles(client) == ["2 books"]
    assert (await client.post("/test/books/shelf", json=[{"title": "b"}])).status_code == 201
    assert sorted(await _titles(client)) == ["1 books", "2 books", "b"]


async def test_pages_by_a_moment_have_every_loan(client: AsyncClient, database: Database) -> None:
    """Also where many are of one moment, across the end of a page."""
    book = await _create(client, "a")
    fill = (
        f"INSERT INTO {database.scratch}.loans (book_id, due_at) SELECT {book['id']},"
        " timestamptz '2026-12-24 18:00:00.000001+02' + n % 2 * interval '1 day' FROM generate_series(1, 250) n"
    )
    async with connect(database.url) as direct:
        await direct.execute(fill)
    seen: list[dict[str, Any]] = []
    after: dict[str, Any] = {}
    while page := (await client.get("/test/books/loans", params=after)).json():
        seen += page
        after = {"after_due": page[-1]["due_at"], "after_id": page[-1]["id"]}
    assert len({loan["id"] for loan in seen}) == len(seen) == 250
    assert seen == sorted(seen, key=lambda loan: (loan["due_at"], loan["id"]))


async def test_several_reads_at_once(client: AsyncClient, tables: AsyncEngine) -> None:
    await _books(tables, "a", "b")
    assert (await client.get("/test/books/summary")).json() == {"stored": 2, "lent": 0}
    routes = _module("routes")
    with pytest.raises(ExceptionGroup) as raised:  # as the document says
        async with Sessions(tables).begin() as session:
            await routes.summarize(session)
    assert raised.group_contains(SessionInUseError)


async def test_a_route_reads_what_it_wrote(client: AsyncClient) -> None:
    assert (await client.post("/test/books/counted", json={"title": "a"})).json() == 1
    assert (await client.post("/test/books/counted", json={"title": "a"})).status_code == 409
    assert (await client.post("/test/books/counted", json={"title": "b"})).json() == 2


async def _loans(tables: AsyncEngine, **values: Any) -> None:
    (book,) = await _books(tables, "a")
    async with Sessions(tables).begin() as session:
        await session.execute(insert(_module("models").Loan).values(book_id=book, **values))


async def test_a_script_does_its_work_once_at_a_time(
    run: Run, tables: AsyncEngine, database: Database
) -> None:
    models = _module("models")
    await _loans(tables, due_at=func.now())
    late = models.Loan.state == models.State.LATE
    async with connect(database.url) as direct, direct.transaction():
        await direct.execute("SELECT pg_advisory_xact_lock(hashtext('overdue'))")
        assert await (await run("overdue")).wait() == 0
        assert await _count(tables, "Loan", late) == 0
    assert await (await run("overdue")).wait() == 0
    assert await _count(tables, "Loan", late) == 1


async def _queue(tables: AsyncEngine, *titles: str) -> None:
    books = await _books(tables, *titles)
    async with Sessions(tables).begin() as session:
        jobs = [{"book_id": book} for book in books]
        await session.execute(insert(_module("models").Job), jobs)


async def test_a_worker_ends_when_it_is_told_to(run: Run, tables: AsyncEngine) -> None:
    await _queue(tables, "a", "b")
    worker = await run("worker")
    async with asyncio.timeout(20):
        while await _count(tables, "Job"):
            await asyncio.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0


async def test_each_job_is_done_and_one_that_fails_stays(
    tables: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, sessions = _module("worker"), Sessions(tables)
    await _queue(tables, *(str(number) for number in range(12)))
    done: list[int] = []

    async def print_label(book_id: int) -> None:
        done.append(book_id)
        sixth = len(done) == 6
        await asyncio.sleep(0.01)
        if sixth:
            raise ZeroDivisionError

    async def until_none() -> None:
        while await worker.work(sessions):
            pass

    monkeypatch.setattr(worker, "print_label", print_label)
    ended = await asyncio.gather(*(until_none() for _ in range(3)), return_exceptions=True)
    assert [type(it) for it in ended if it] == [ZeroDivisionError]
    assert sorted(set(done)) == sorted(done)
    assert len(done) == 12
    assert await _count(tables, "Job") == 1
    job = _module("models").Job
    async with sessions.begin() as session:  # five minutes later
        await session.execute(update(job).values(due_at=func.now()))
    await until_none()
    assert len(done) == 13
    assert await _count(tables, "Job") == 0


async def test_a_task_of_celery_has_a_loop_and_an_engine_of_its_own(
    opened: Callable[[Any], None],
    tables: AsyncEngine,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (book,) = await _books(tables, "a")
    tasks = _module("celery_tasks")
    opened(tasks)
    for _ in range(3):
        await asyncio.to_thread(tasks.print_again, book)
    with pytest.raises(DBAPIError, match="SQLSTATE 23503"):
        await asyncio.to_thread(tasks.print_again, book + 1)
    assert await _count(tables, "Job") == 3
    url = f"{database.url}{'&' if '?' in database.url else '?'}application_name=celery"
    monkeypatch.setenv("DATABASE_URL", url)
    await asyncio.to_thread(tasks.print_again, book)
    async with connect(database.url) as direct:
        await eventually_gone(direct, "application_name = 'celery'")


async def test_without_a_pool_an_engine_serves_several_loops(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one it is `Event loop is closed` in the second."""
    monkeypatch.setenv("DATABASE_URL", database.pooler_url)
    monkeypatch.setenv("DATABASE_POOL", "null")
    engine = create_engine(load_settings())
    for _ in range(3):
        asked = ReadSession(engine).scalar(select(1))
        assert await asyncio.to_thread(asyncio.run, asked) == 1


async def test_a_worker_of_one_loop_has_one_engine(
    opened: Callable[[Any], None], tables: AsyncEngine
) -> None:
    (book,) = await _books(tables, "a")
    tasks = _module("arq_tasks")
    opened(tasks)
    context: dict[str, Any] = {}
    await tasks.startup(context)
    await asyncio.gather(*(tasks.print_later(context, book) for _ in range(12)))
    await tasks.shutdown(context)
    assert context["engine"].pool.checkedin() == 0
    assert await _count(tables, "Job") == 12


async def test_a_rule_over_several_rows_holds_by_trying_again(tables: AsyncEngine) -> None:
    """Two that read before either has written: the second fails, at its commit or before."""
    (book,) = await _books(tables, "a")
    models, routes = _module("models"), _module("routes")
    both, tries = asyncio.Barrier(2), 0

    async def only_one(session: AsyncSession) -> bool:
        nonlocal tries
        tries += 1
        found = await session.scalar(select(func.count(models.Job.id)))
        if tries <= 2:
            await both.wait()
        if not found:
            session.add(models.Job(book_id=book))
        return not found

    asked = (routes.serializable(Sessions(tables), only_one) for _ in range(2))
    assert sorted(await asyncio.gather(*asked)) == [False, True]
    assert tries == 3
    assert await _count(tables, "Job") == 1
    async with Sessions(tables).begin() as session:
        assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_a_deadlock_is_tried_again(tables: AsyncEngine) -> None:
    books = await _books(tables, "a", "b")
    both, tries = asyncio.Barrier(2), 0

    async def rename(session: AsyncSession, order: list[int]) -> None:
        nonlocal tries
        tries += 1
        first = tries <= 2
        for book in order:
            query = update(_module("models").Book).where(_module("models").Book.id == book)
            await session.execute(query.values(lent=True))
            if first:
                await both.wait()
                first = False

    serializable, sessions = _module("routes").serializable, Sessions(tables)
    await asyncio.gather(
        serializable(sessions, lambda session: rename(session, books)),
        serializable(sessions, lambda session: rename(session, books[::-1])),
    )
    assert tries >= 3


@pytest.mark.parametrize(("sqlstate", "times"), [("40001", 5), ("23505", 1), ("40003", 1)])
async def test_tries_are_few_and_for_what_passes(
    tables: AsyncEngine, sqlstate: str, times: int
) -> None:
    tries = 0
    fail = text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")

    async def work(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await session.execute(fail)

    with pytest.raises(DBAPIError):
        await _module("routes").serializable(Sessions(tables), work)
    assert tries == times


async def test_there_are_no_more_than_three_loans(client: AsyncClient, tables: AsyncEngine) -> None:
    book = await _create(client, "a")
    new = {"due_at": "2026-12-24T18:00Z"}
    asked = (client.post(f"/test/books/{book['id']}/limited", json=new) for _ in range(8))
    statuses = {answer.status_code for answer in await asyncio.gather(*asked)}
    assert statuses <= {201, 409, 503}
    assert await _count(tables, "Loan") <= 3


async def test_a_stream_has_every_row(client: AsyncClient, tables: AsyncEngine) -> None:
    await _books(tables, *(str(number) for number in range(1001)))  # more than a page
    titles = (await client.get("/test/books/titles")).text.splitlines()
    assert titles == [str(number) for number in range(1001)]


async def test_each_message_of_a_websocket_is_stored(client: AsyncClient) -> None:
    url = str(client.base_url).rstrip("/").replace("http", "ws")
    async with open_websocket(f"{url}/test/books/live") as websocket:
        for title in "ab":
            await websocket.send(title)
            assert await websocket.recv() == "stored"
            assert (await _titles(client))[-1] == title


async def test_many_rows_go_in_together_and_out_again(tables: AsyncEngine) -> None:
    sessions, load, file = Sessions(tables), _module("load").load, io.StringIO()
    await _books(tables, "1")
    for _ in range(2):  # the second has nothing new
        await load(sessions, (str(number) for number in range(5000)))
    with pytest.raises(DBAPIError, match="SQLSTATE 22001"):
        await load(sessions, ["a", "b" * 101])
    with pytest.raises(ZeroDivisionError):
        await load(sessions, (str(1 / (1 - number)) for number in range(2)))
    await _module("save").save(sessions, file)
    titles = file.getvalue().splitlines()
    assert titles == ["1", *(str(number) for number in range(5000) if number != 1)]


async def test_what_is_cancelled_is_done_as_a_whole_or_not_at_all(
    tables: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, load, worker = Sessions(tables), _module("load").load, _module("worker")
    await _queue(tables, *(str(number) for number in range(30)))
    labels: list[int] = []

    async def print_label(book_id: int) -> None:
        labels.append(book_id)

    async def cancel(it: Coroutine[Any, Any, object], moment: int) -> None:
        task = asyncio.create_task(it)
        await asyncio.sleep(moment / 2000)
        task.cancel()
        await asyncio.wait([task])

    monkeypatch.setattr(worker, "print_label", print_label)
    for moment in range(30):
        await cancel(load(sessions, (f"{moment}-{row}" for row in range(100))), moment)
        await cancel(worker.work(sessions), moment)
    assert await _count(tables, "Book") % 100 == 30
    async with sessions.begin() as session:  # five minutes later
        await session.execute(update(_module("models").Job).values(due_at=func.now()))
    while await worker.work(sessions):
        pass
    assert len(set(labels)) == 30
