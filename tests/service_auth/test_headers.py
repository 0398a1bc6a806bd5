"""Authorization in every form that we know."""

import pytest
from fastapi import FastAPI

from orders_api.auth.dependencies import CallerDep

from devstack.issuer import USERS, Issuer
from tests.support import running

FORMS = ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}  "]
NO_TOKEN, BAD_TOKEN = "Bearer", 'Bearer error="invalid_token"'
REFUSED = [
    ([], NO_TOKEN),
    ([b""], NO_TOKEN),
    ([b"Bearer"], NO_TOKEN),
    ([b"Bearer "], NO_TOKEN),
    ([b"TOKEN"], NO_TOKEN),
    ([b"Basic TOKEN"], NO_TOKEN),
    ([b"Bearer\tTOKEN"], NO_TOKEN),
    ([b"Bearer\xa0TOKEN"], NO_TOKEN),
    ([b"Basic YTpi", b"Bearer TOKEN"], NO_TOKEN),
    ([b"Bearer TOKEN", b"Bearer TOKEN"], BAD_TOKEN),
    ([b"Bearer TOKEN, Bearer TOKEN"], BAD_TOKEN),
    ([b"Bearer TOKEN,"], BAD_TOKEN),
    ([b"Bearer \xa0TOKEN\x85"], BAD_TOKEN),
    ([b"Bearer TOKEN\xff"], BAD_TOKEN),
    ([b'Bearer "TOKEN"'], BAD_TOKEN),
    ([b"Bearer TOKENa"], BAD_TOKEN),
]


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    @app.get("/test/caller")
    async def read_caller(caller: CallerDep) -> str:
        return str(caller.id)

    return app


async def test_what_has_no_good_token_names_nobody(app: FastAPI, issuer: Issuer) -> None:
    """Nor what has two, of which another program may read the other one."""
    token = issuer.token()
    async with running(app) as client:
        for form in FORMS:
            sent = {"Authorization": form.format(token)}
            assert (await client.get("/test/caller", headers=sent)).json() == USERS["alice"]
        for headers, challenge in REFUSED:
            lines = [(b"Authorization", it.replace(b"TOKEN", token.encode())) for it in headers]
            response = await client.get("/test/caller", headers=lines)
            told = (response.status_code, response.headers.get("www-authenticate"))
            assert told == (401, challenge), headers
            assert response.headers["content-type"] == "application/problem+json"
