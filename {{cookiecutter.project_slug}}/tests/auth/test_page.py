"""The code of docs/auth.md, as a feature of the service: it does what the page says."""

from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from fastapi import FastAPI
from fastapi.requests import HTTPConnection
from httpx import AsyncClient
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.orm import DeclarativeBase

from {{ cookiecutter.package_name }}.auth.dependencies import get_user_sessions
from {{ cookiecutter.package_name }}.database import base
from {{ cookiecutter.package_name }}.database.caller import UserSessions
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.url import parse_url
from {{ cookiecutter.package_name }}.settings import Settings

from migrations.owned import owner_only
from tests.documents import blocks
from tests.support import ROOT, Database, connect, running

PAGE = ROOT / "docs" / "auth.md"


class Apart(DeclarativeBase):
    """A base like the service's, which may have bookmarks of its own by now."""

    metadata = MetaData(naming_convention=base.Base.metadata.naming_convention)
    type_annotation_map = base.Base.type_annotation_map
    __mapper_args__ = base.Base.__mapper_args__


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("page")
    (folder / "owned").mkdir()
    theirs = "{{ cookiecutter.package_name }}.bookmarks"
    for path, code in blocks(PAGE):
        own = code.replace(theirs, "owned").replace('"/bookmarks', '"/test/bookmarks')
        (folder / "owned" / Path(path).name).write_text(own)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(base, "Base", Apart)
        yield import_module("owned.routes")


@pytest.fixture
async def bookmarks(
    routes: Any, app: FastAPI, database: Database, settings: Settings
) -> AsyncIterator[AsyncClient]:
    """The service with that feature, migrated as the page says."""

    def revise(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL search_path = {database.scratch}"))
        Apart.metadata.create_all(connection)
        with Operations.context(MigrationContext.configure(connection)):
            owner_only("bookmarks", writable="url")

    def work_in_scratch(connection: HTTPConnection) -> UserSessions:
        tables = {None: database.scratch}
        return UserSessions(connection.state.engine.execution_options(schema_translate_map=tables))

    direct = settings.model_copy(update={"database_url": parse_url(database.url)})
    engine = create_engine(direct, migrations=True)
    async with engine.begin() as connection:
        await connection.run_sync(revise)
    await engine.dispose()
    app.include_router(routes.router)
    app.dependency_overrides[get_user_sessions] = work_in_scratch
    async with running(app) as client:
        yield client
    async with connect(database.url) as admin:
        await admin.execute(f"DROP TABLE {database.scratch}.bookmarks")


async def test_a_second_resource_has_owners(
    bookmarks: AsyncClient, bearer: Callable[[str], dict[str, str]]
) -> None:
    await import_module("owned.test_bookmarks").test_a_bookmark_is_its_owners(bookmarks, bearer)
    path, sent = "/test/bookmarks", {"url": "https://example.com"}
    created = await bookmarks.post(path, json=sent, headers=bearer("alice"))
    assert (await bookmarks.get(path, headers=bearer("alice"))).json() == [created.json()]
    forged = sent | {"owner_id": "a11ce000-0000-4000-8000-000000000001"}
    assert (await bookmarks.post(path, json=forged, headers=bearer("bob"))).status_code == 422
