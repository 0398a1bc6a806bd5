"""The code of the documents, as a feature of the service: it does what they say."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase
from websockets.asyncio.client import connect as open_websocket

from {{ cookiecutter.package_name }}.database import base

from tests.documents import README, ROUTES, files
from tests.support import Database, connect, serving, work_in


class Apart(DeclarativeBase):
    """A base like the service's, which may have a `Book` of its own by now."""

    metadata = MetaData(naming_convention=base.Base.metadata.naming_convention)
    type_annotation_map = base.Base.type_annotation_map
    __mapper_args__ = base.Base.__mapper_args__


@pytest.fixture(scope="module")
def feature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a package with the files of docs/routes.md and of the README, whose paths are below
    /test: the service may have /books by now."""
    name = "documented"
    folder = tmp_path_factory.mktemp("routes")
    (folder / name).mkdir()
    for path, code in files(ROUTES.read_text() + README.read_text()).items():
        own = code.replace("{{ cookiecutter.package_name }}.books", name)
        (folder / name / Path(path).name).write_text(own.replace('"/books', '"/test/books'))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(base, "Base", Apart)
        yield name


@pytest.fixture
async def client(
    app: FastAPI, engine: AsyncEngine, database: Database, feature: str
) -> AsyncIterator[AsyncClient]:
    """A client of the service with that feature, over a socket. Its table is empty."""
    app.include_router(import_module(f"{feature}.routes").router)
    work_in(app, database.scratch)
    table: Table = import_module(f"{feature}.models").Book.__table__
    tables = engine.execution_options(schema_translate_map={None: database.scratch})
    async with tables.begin() as connection:
        await connection.run_sync(table.create)
    async with serving(app) as client:
        yield client
    async with tables.begin() as connection:
        await connection.run_sync(table.drop)


async def _create(client: AsyncClient, title: str) -> dict[str, Any]:
    response = await client.post("/test/books", json={"title": title})
    assert response.status_code == 201
    book: dict[str, Any] = response.json()
    return book


async def _titles(client: AsyncClient) -> list[str]:
    return [book["title"] for book in (await client.get("/test/books")).json()]


async def test_its_own_test(client: AsyncClient, feature: str) -> None:
    await import_module(f"{feature}.test_books").test_a_book_is_created_once(client)


async def test_the_routes_of_the_readme(client: AsyncClient) -> None:
    book = await _create(client, "a")
    assert (await client.get("/test/books/count")).json() == 1
    await client.put(f"/test/books/{book['id']}/lend")
    assert (await client.put(f"/test/books/{book['id']}/return")).status_code == 204
    assert (await client.get("/test/books")).json() == [book]


async def test_a_write_by_entities(client: AsyncClient) -> None:
    book = await _create(client, "a")
    path = f"/test/books/{book['id']}/lend"
    assert (await client.put(path)).json() == book | {"lent": True}
    assert (await client.put(path)).status_code == 409
    assert (await client.get("/test/books")).json() == [book | {"lent": True}]
    assert (await client.put("/test/books/999999/lend")).status_code == 404


async def test_what_failed_in_a_savepoint_leaves_the_rest(client: AsyncClient) -> None:
    await _create(client, "b")
    new = [{"title": title} for title in "abc"]
    assert (await client.post("/test/books/many", json=new)).json() == ["b"]
    assert await _titles(client) == ["b", "a", "c"]


async def test_a_background_task_stores_what_it_writes(client: AsyncClient) -> None:
    book = await _create(client, "a")
    assert (await client.post(f"/test/books/{book['id']}/copy")).status_code == 202
    async with asyncio.timeout(5):
        while await _titles(client) != ["a", "Copy of a"]:
            await asyncio.sleep(0.01)


async def test_a_stream_has_every_row(client: AsyncClient, database: Database) -> None:
    fill = f"INSERT INTO {database.scratch}.books (title) SELECT generate_series(1, 1001)"
    async with connect(database.url) as direct:
        await direct.execute(fill)  # more than a page
    titles = (await client.get("/test/books/titles")).text.splitlines()
    assert titles == [str(number) for number in range(1, 1002)]


async def test_each_message_of_a_websocket_is_stored(client: AsyncClient) -> None:
    url = str(client.base_url).replace("http", "ws")
    async with open_websocket(f"{url}/test/books/live") as websocket:
        for title in "ab":
            await websocket.send(title)
            assert await websocket.recv() == "stored"
            assert (await _titles(client))[-1] == title
