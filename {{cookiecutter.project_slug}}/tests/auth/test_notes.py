from httpx import AsyncClient

from devstack.issuer import Issuer


async def test_a_note_is_its_owners(client: AsyncClient, issuer: Issuer) -> None:
    alice, bob = ({"Authorization": f"Bearer {issuer.token(it)}"} for it in ("alice", "bob"))
    created = await client.post("/notes", json={"text": "a"}, headers=alice)
    assert created.status_code == 201, created.text
    path = f"/notes/{created.json()['id']}"
    assert (await client.get(path, headers=alice)).json() == created.json()
    assert (await client.get(path, headers=bob)).status_code == 404
    assert (await client.get(path)).status_code == 401
