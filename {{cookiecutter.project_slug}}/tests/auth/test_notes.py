"""Notes, as their owner sees them, and as somebody does who has a token too but no right to them."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import select

from {{ cookiecutter.package_name }}.notes.models import Note
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep

from devstack.issuer import Issuer


class User:
    """Somebody new, with a token."""

    def __init__(self, client: AsyncClient, issuer: Issuer) -> None:
        self.id = str(uuid4())
        self.headers = {"Authorization": f"Bearer {issuer.token(self.id)}"}
        self._client = client

    async def send(self, method: str, path: str, body: Any = None, **params: Any) -> Response:
        return await self._client.request(
            method, path, json=body, params=params or None, headers=self.headers
        )

    async def create(self, text: str = "a") -> dict[str, Any]:
        response = await self.send("POST", "/notes", {"text": text})
        assert response.status_code == 201, response.text
        note: dict[str, Any] = response.json()
        return note

    async def notes(self, **params: Any) -> list[dict[str, Any]]:
        response = await self.send("GET", "/notes", **params)
        assert response.status_code == 200, response.text
        notes: list[dict[str, Any]] = response.json()["notes"]
        return notes


@pytest.fixture
def owner(client: AsyncClient, issuer: Issuer) -> User:
    return User(client, issuer)


@pytest.fixture
def stranger(client: AsyncClient, issuer: Issuer) -> User:
    return User(client, issuer)


async def test_create_and_read(owner: User) -> None:
    created = await owner.create("a")
    assert created["text"] == "a"
    assert (await owner.send("GET", f"/notes/{created['id']}")).json() == created
    assert await owner.notes() == [created]


async def test_change_leaves_alone_what_is_left_out(owner: User) -> None:
    created = await owner.create("a")
    path = f"/notes/{created['id']}"
    changed = (await owner.send("PATCH", path, {"text": "b"})).json()
    assert changed == created | {"text": "b"}
    assert (await owner.send("PATCH", path, {})).json() == changed
    assert (await owner.send("GET", path)).json() == changed


async def test_delete(owner: User) -> None:
    path = f"/notes/{(await owner.create())['id']}"
    assert (await owner.send("DELETE", path)).status_code == 204
    assert (await owner.send("GET", path)).status_code == 404


async def test_pages_have_the_owners_notes_only(owner: User, stranger: User) -> None:
    """Each full, whatever others have written in between."""
    ids = []
    for _ in range(5):
        ids.append((await owner.create())["id"])
        await stranger.create()
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = (await owner.send("GET", "/notes", limit=2, after=after)).json()
        assert len(page["notes"]) == min(2, len(ids) - len(seen))
        seen += [note["id"] for note in page["notes"]]
        after = page["next_after"]
    assert seen == ids


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("PATCH", {"text": "b"}), ("PATCH", {}), ("DELETE", None)]
)
async def test_anothers_note_is_as_one_that_is_not(
    owner: User, stranger: User, method: str, body: Any
) -> None:
    """Not a word differs, so that nobody learns which ids there are; and nothing is changed."""
    created = await owner.create()
    answers = []
    for number in (created["id"], 2**63 - 1):
        response = await stranger.send(method, f"/notes/{number}", body)
        assert response.status_code == 404
        answers.append(response.json() | {"request_id": "", "trace_id": ""})
    assert answers[0] == answers[1] | {"detail": f"There is no note {created['id']}."}
    assert await owner.notes() == [created]


async def test_anothers_note_is_on_no_page(owner: User, stranger: User) -> None:
    created = await owner.create()
    for params in (
        {},
        {"after": created["id"] - 1, "limit": 1},
        {"owner_id": owner.id},
        {"id": created["id"], "user": owner.id},
    ):
        assert await stranger.notes(**params) == []


@pytest.mark.parametrize("field", ["owner_id", "id", "created_at"])
async def test_no_body_names_the_owner(owner: User, stranger: User, field: str) -> None:
    forged = {"text": "a", field: owner.id}
    assert (await stranger.send("POST", "/notes", forged)).status_code == 422
    path = f"/notes/{(await stranger.create())['id']}"
    assert (await stranger.send("PATCH", path, forged)).status_code == 422
    assert (await stranger.send("PATCH", path, {field: owner.id})).status_code == 422
    assert await owner.notes() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/notes"),
        ("GET", "/notes"),
        *((it, "/notes/1") for it in ("GET", "PATCH", "DELETE")),
    ],
)
async def test_without_a_token_there_is_nothing(
    client: AsyncClient, owner: User, method: str, path: str
) -> None:
    """Whatever the body is: nobody learns what a body has to be."""
    for body in ({"text": "a"}, {"text": ""}):
        response = await client.request(method, path, json=body, params={"sub": owner.id})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["content-type"] == "application/problem+json"


async def test_many_at_once_each_have_their_own(client: AsyncClient, issuer: Issuer) -> None:
    users = [User(client, issuer) for _ in range(10)]

    async def use(user: User) -> None:
        for number in range(5):
            await user.create(f"{user.id} {number}")
            texts = [note["text"] for note in await user.notes()]
            assert texts == [f"{user.id} {it}" for it in range(number + 1)]

    await asyncio.gather(*map(use, users))


@pytest.mark.parametrize(
    "body",
    [{}, {"text": ""}, {"text": "a" * 10_001}, {"text": None}, {"text": "a\0b"}, [], None],
    ids=lambda body: repr(body)[:20],
)
async def test_what_can_not_be_stored_is_a_422(owner: User, body: Any) -> None:
    assert (await owner.send("POST", "/notes", body)).status_code == 422
    if body != {}:
        path = f"/notes/{(await owner.create())['id']}"
        assert (await owner.send("PATCH", path, body)).status_code == 422


@pytest.mark.parametrize(
    "path", ["/notes/0", f"/notes/{2**63}", "/notes/one", "/notes?limit=101", "/notes?after=-1"]
)
async def test_numbers_out_of_range_are_a_422(owner: User, path: str) -> None:
    assert (await owner.send("GET", path)).status_code == 422


async def test_who_forgets_the_caller_is_refused(
    app: FastAPI, owner: User, servers_are_ours: None
) -> None:
    """By a login that inherits nothing: any other would be shown nothing, or everything."""

    @app.get("/test/written")
    async def written(session: SessionDep) -> int:
        return len((await session.scalars(select(Note))).all())

    @app.get("/test/read")
    async def read(session: ReadSessionDep) -> int:
        return len((await session.scalars(select(Note))).all())

    created = await owner.create()
    assert await owner.notes() == [created]
    for path in ("/test/written", "/test/read"):
        assert (await owner.send("GET", path)).status_code == 403
