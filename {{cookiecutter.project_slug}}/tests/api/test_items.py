from typing import Any

import pytest
from httpx import AsyncClient


async def _create(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/items", json={"name": "a", **fields})
    assert response.status_code == 201
    item: dict[str, Any] = response.json()
    return item


async def test_create_and_read(client: AsyncClient) -> None:
    created = await _create(client, description="the first")
    assert created["id"] > 0
    assert (created["name"], created["description"]) == ("a", "the first")
    assert created["created_at"] == created["updated_at"]
    response = await client.get(f"/items/{created['id']}")
    assert (response.status_code, response.json()) == (200, created)


async def test_change_leaves_alone_what_is_left_out(client: AsyncClient) -> None:
    created = await _create(client, description="the first")
    path = f"/items/{created['id']}"
    changed = (await client.patch(path, json={"name": "b"})).json()
    assert (changed["name"], changed["description"]) == ("b", "the first")
    cleared = (await client.patch(path, json={"description": None})).json()
    assert (cleared["name"], cleared["description"]) == ("b", None)
    assert (await client.patch(path, json={})).json() == cleared
    assert (await client.get(path)).json() == cleared


async def test_a_change_moves_updated_at(client: AsyncClient) -> None:
    created = await _create(client)
    changed = (await client.patch(f"/items/{created['id']}", json={"name": "b"})).json()
    assert changed["created_at"] == created["created_at"]
    assert changed["updated_at"] > created["updated_at"]


async def test_delete(client: AsyncClient) -> None:
    path = f"/items/{(await _create(client))['id']}"
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404


async def test_pages_follow_one_another_without_gaps(client: AsyncClient) -> None:
    ids = [(await _create(client))["id"] for _ in range(5)]
    seen: list[int] = []
    after: int | None = ids[0] - 1
    while after is not None:
        page = (await client.get("/items", params={"limit": 2, "after": after})).json()
        seen += [item["id"] for item in page["items"]]
        after = page["next_after"]
    assert seen == ids


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_item_is_a_404(client: AsyncClient, method: str) -> None:
    body = {"name": "b"} if method == "PATCH" else None
    response = await client.request(method, f"/items/{2**63 - 1}", json=body)
    assert response.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "a" * 201},
        {"name": None},
        {"name": "a\0b"},
        {"name": "a", "description": "\0"},
        {"name": "a", "colour": "red"},
        [],
        None,
    ],
    ids=repr,
)
async def test_what_can_not_be_stored_is_a_422(client: AsyncClient, body: Any) -> None:
    assert (await client.post("/items", json=body)).status_code == 422
    item = await _create(client)
    if body != {}:
        path = f"/items/{item['id']}"
        assert (await client.patch(path, json=body)).status_code == 422
        assert (await client.get(path)).json() == item


@pytest.mark.parametrize(
    "path",
    [
        "/items/0",
        f"/items/{2**63}",
        "/items/one",
        "/items?limit=101",
        f"/items?after={2**63}",
        "/items?after=NaN",
        "/items?limit=%00",
    ],
)
async def test_numbers_out_of_range_are_a_422(client: AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 422


async def test_the_longest_name_is_stored(client: AsyncClient) -> None:
    name = "\N{GRINNING FACE}" * 200
    assert (await _create(client, name=name))["name"] == name


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": "\xff"}',
        b'{"name": "a", "description": "\\ud800"}',
    ],
)
async def test_bytes_that_are_no_text_are_refused(client: AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/items", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
