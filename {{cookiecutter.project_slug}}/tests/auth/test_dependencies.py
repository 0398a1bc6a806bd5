"""What a route that asks for the caller answers, and what it does not tell."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fastapi import FastAPI, WebSocket
from httpx import AsyncClient, Response
from sqlalchemy import select, text, update
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import InvalidStatus

from {{ cookiecutter.package_name }}.auth.dependencies import (
    CallerDep,
    UserSessionDep,
    UserSessionsDep,
)
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings

from devstack.issuer import USERS, Issuer
from tests.api.test_schema import keeps_to_its_schema
from tests.pooler.workload import ScratchThing
from tests.support import Database, connect, running, served, serving

ALICE = USERS["alice"]
PATH = "/test/caller"


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    """With a route for whoever has a token."""

    @app.get(PATH)
    async def read_caller(caller: CallerDep) -> str:
        return str(caller.id)

    return app


def _is_refused(response: Response, challenge: str) -> bool:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == response.status_code
    return (response.status_code, response.headers["www-authenticate"]) == (401, challenge)


NO_TOKEN, BAD_TOKEN = "Bearer", 'Bearer error="invalid_token"'


@pytest.mark.parametrize("form", ["Bearer {}", "bearer  {} "])
async def test_who_has_a_token_is_known(client: AsyncClient, issuer: Issuer, form: str) -> None:
    headers = {"Authorization": form.format(issuer.token())}
    assert (await client.get(PATH, headers=headers)).json() == ALICE


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], NO_TOKEN),
        ([b"Bearer "], NO_TOKEN),
        ([b"Basic TOKEN"], NO_TOKEN),
        ([b"Bearer TOKEN", b"Bearer TOKEN"], BAD_TOKEN),
        ([b"Bearer TOKENa"], BAD_TOKEN),
    ],
)
async def test_without_a_token_nobody_is_known(
    client: AsyncClient, issuer: Issuer, headers: list[bytes], challenge: str
) -> None:
    """Nor with two, of which another program may read the other one."""
    token = issuer.token().encode()
    sent = [(b"Authorization", it.replace(b"TOKEN", token)) for it in headers]
    assert _is_refused(await client.get(PATH, headers=sent), challenge)


async def test_while_nobody_can_verify_it_is_a_503(settings: Settings) -> None:
    away = Issuer("http://127.0.0.1:1")
    app = create_app(settings.model_copy(update={"supabase_url": away.url}))

    @app.get(PATH)
    async def read_caller(caller: CallerDep) -> str:
        return str(caller.id)

    async with running(app) as client:
        headers = {"Authorization": f"Bearer {away.token()}"}
        response = await client.get(PATH, headers=headers)
        assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert response.headers["content-type"] == "application/problem+json"
        assert (await client.get("/livez")).status_code == 200


async def test_what_a_policy_refuses_is_a_403(
    app: FastAPI, bearer: Callable[[str], dict[str, str]], owned: str
) -> None:
    @app.post("/test/give/{to}")
    async def give(to: str, session: UserSessionDep) -> None:
        session.add(ScratchThing(name="a", amount=1))
        await session.flush()
        await session.execute(update(ScratchThing).values(name="b"))
        await session.execute(text(f"UPDATE {owned} SET owner = :owner"), {"owner": to})

    async with running(app) as client:
        for to, status in ((ALICE, 200), (USERS["bob"], 403)):
            response = await client.post(f"/test/give/{to}", headers=bearer("alice"))
            assert response.status_code == status
        assert response.json()["detail"] == "The database does not allow this."
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_commit_that_fails_is_no_2xx(
    app: FastAPI, bearer: Callable[[str], dict[str, str]], database: Database, owned: str
) -> None:
    async with connect(database.url) as direct:
        await direct.execute(f"ALTER TABLE {owned} ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")

    @app.post("/test/twice", status_code=201)
    async def twice(session: UserSessionDep) -> None:
        session.add_all(ScratchThing(name="a", amount=amount) for amount in (1, 2))

    async with running(app) as client:
        assert (await client.post("/test/twice", headers=bearer("alice"))).status_code == 409


async def test_a_websocket_has_a_caller(
    app: FastAPI, bearer: Callable[[str], dict[str, str]], owned: str
) -> None:
    @app.websocket("/test/socket")
    async def socket(socket: WebSocket, caller: CallerDep, sessions: UserSessionsDep) -> None:
        await socket.accept()
        for _ in range(2):
            async with sessions.begin(caller) as session:
                session.add(ScratchThing(name="a", amount=1))
            async with sessions.begin(caller) as session:
                names = (await session.scalars(select(ScratchThing.name))).all()
            await socket.send_text(f"{caller.id} {len(names)}")

    @app.websocket("/test/transaction")
    async def transaction(socket: WebSocket, session: UserSessionDep) -> None:
        await socket.accept()

    async with serving(app) as client:
        url = str(client.base_url).replace("http", "ws", 1)

        async def listen(path: str, headers: dict[str, str]) -> AsyncIterator[str]:
            async with connect_websocket(
                f"{url}/test/{path}", additional_headers=headers, proxy=None
            ) as socket:
                for _ in range(2):
                    yield str(await socket.recv())

        told = [it async for it in listen("socket", bearer("alice"))]
        assert told == [f"{ALICE} 1", f"{ALICE} 2"]
        for path, headers, status in (
            ("socket", {}, 401),
            ("socket", {"Authorization": "Bearer a"}, 401),
            ("transaction", {}, 401),
            ("transaction", bearer("alice"), 500),
        ):
            with pytest.raises(InvalidStatus) as refusal:
                [it async for it in listen(path, headers)]
            assert refusal.value.response.status_code == status
            if status == 401:
                assert "Bearer" in refusal.value.response.headers["www-authenticate"]


async def test_openapi_says_which_routes_want_a_token(client: AsyncClient) -> None:
    """/docs has its button Authorize by that."""
    document = (await client.get("/openapi.json")).json()
    [(name, scheme)] = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["paths"][PATH]["get"]["security"] == [{name: []}]
    assert "4XX" in document["paths"][PATH]["get"]["responses"]
    assert "parameters" not in document["paths"][PATH]["get"]
    assert "security" not in document["paths"]["/livez"]["get"]


async def test_the_api_keeps_to_its_schema_for_a_user(
    app: FastAPI, tmp_path: Path, bearer: Callable[[str], dict[str, str]]
) -> None:
    """For who has no token it is what tests/api/test_schema.py sees, as are paths that ask for none."""
    header = f"Authorization:{bearer('alice')['Authorization']}"
    secured = [
        path
        for path, methods in app.openapi()["paths"].items()
        if any("security" in operation for operation in methods.values())
    ]
    options = [it for path in secured for it in ("--include-path", path)]
    await keeps_to_its_schema(app, tmp_path, "--header", header, *options)


async def test_no_token_and_no_claim_is_in_the_log(
    database: Database, issuer: Issuer, tmp_path: Path, servers_are_ours: None
) -> None:
    env = {"LOG_LEVEL": "debug", "SUPABASE_URL": issuer.url}
    good, bad = issuer.token(), issuer.token(iss="http://evil")
    async with served(database.pooler_url, tmp_path, **env) as service:
        for token in (good, bad, "marked-secret"):
            for path in ("/notes", "/livez", "/nowhere"):
                headers = {"Authorization": f"Bearer {token}"}
                response = await service.client.get(path, headers=headers)
                assert token not in response.text
    assert "GET" in service.output
    for secret in (*good.split("."), *bad.split(".")[1:], "marked-secret", "alice@", ALICE):
        assert secret not in service.output


async def test_no_route_forgets_who_is_asking(app: FastAPI) -> None:
    """With another session than a caller's, it would ask for no token, and show what the login sees."""
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if "401" in operation["responses"]:
                told = f"{method.upper()} {path} says 401 and asks for no caller: UserSessionDep?"
                assert operation.get("security"), told
