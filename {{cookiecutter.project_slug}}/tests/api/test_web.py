"""Health, problems, request ids and metrics."""

import asyncio

import pytest
from fastapi import FastAPI, HTTPException, Request
from httpx import AsyncClient
from pydantic import BaseModel
from sqlalchemy import text
from structlog.testing import capture_logs

from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.settings import Settings
from {{ cookiecutter.package_name }}.web.dependencies import SessionDep
from {{ cookiecutter.package_name }}.web.limits import MAX_BODY

from tests.support import running, serving


async def test_health(client: AsyncClient) -> None:
    for path in ("/livez", "/readyz"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_alive_but_not_ready_without_a_database() -> None:
    url = "postgresql://user:marked-secret@127.0.0.1:1/database"
    app = create_app(Settings(database_url=url))
    async with running(app) as client:
        assert (await client.get("/livez")).status_code == 200
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "The database does not answer."
    assert "marked-secret" not in response.text


async def test_a_request_that_gets_no_connection_is_answered_503(settings: Settings) -> None:
    few = {"database_pool_size": 2, "database_pool_timeout": 0.2}
    app = create_app(settings.model_copy(update=few))
    leave = asyncio.Event()

    @app.get("/test/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        await leave.wait()

    async with running(app) as client:
        requests = [asyncio.create_task(client.get("/test/slow")) for _ in range(3)]
        [refused], others = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        leave.set()
        assert {(await it).status_code for it in others} == {200}
    busy = refused.result()
    assert busy.status_code == 503
    assert busy.headers["retry-after"] == "1"
    assert busy.headers["content-type"] == "application/problem+json"


async def test_a_defect_is_answered_without_its_text(app: FastAPI) -> None:
    @app.get("/test/defect")
    async def defect() -> None:
        raise RuntimeError("marked-secret")

    async with running(app) as client:
        response = await client.get("/test/defect")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.pop("request_id") == response.headers["x-request-id"]
    assert problem == {"title": "Internal Server Error", "status": 500}


async def test_a_defect_is_logged_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """The settings and the engine are what an error's text is likely to name."""
    url = "postgresql://user:marked-secret@127.0.0.1:1/database"
    settings = Settings(database_url=url)
    app = create_app(settings)

    @app.get("/test/defect")
    async def defect(request: Request) -> None:
        engine = request.state.engine
        raise RuntimeError(f"{settings!r} {settings} {engine!r} {engine.url} {engine.url!r}")

    async with serving(app) as client:
        response = await client.get("/test/defect")
    assert response.status_code == 500
    assert "RuntimeError: Settings(database_ssl_root_cert=" in caplog.text
    assert "marked-secret" not in response.text + caplog.text


async def test_a_value_that_the_database_refuses_is_not_logged(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    """asyncpg and PostgreSQL put it into the error's text."""

    @app.get("/test/refused")
    async def refused(session: SessionDep) -> None:
        await session.execute(text("SELECT CAST(CAST(:n AS text) AS int4)"), {"n": "marked-secret"})

    async with running(app) as client:
        response = await client.get("/test/refused")
    assert response.status_code == 422
    logged = capsys.readouterr().out
    assert "database failure" in logged
    assert "marked-secret" not in response.text + logged


async def test_a_wrong_statement_is_a_defect_too(app: FastAPI) -> None:
    """The log has its SQLSTATE all the same, on which docs/operations.md says what to do."""

    @app.get("/test/defect")
    async def defect(session: SessionDep) -> None:
        await session.execute(text("SELECT marked_secret"))

    with capture_logs() as lines:
        async with running(app) as client:
            response = await client.get("/test/defect")
    assert response.status_code == 500
    assert "marked_secret" not in response.text
    [failure] = [line for line in lines if line["event"] == "database failure"]
    assert failure["sqlstate"] == "42703"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/livez", 405)]
)
async def test_every_error_is_a_problem(
    client: AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_an_answer_that_has_no_body_has_none(app: FastAPI) -> None:
    @app.get("/test/unchanged")
    async def unchanged() -> None:
        raise HTTPException(304, headers={"ETag": '"1"'})

    async with running(app) as client:
        response = await client.get("/test/unchanged")
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"')
    assert "content-type" not in response.headers


async def test_a_405_names_every_method_of_the_path(app: FastAPI) -> None:
    """Starlette names those of the first route that matches."""

    @app.delete("/test/{number}")
    @app.get("/test/count")
    @app.post("/test/count")
    async def two() -> None: ...

    async with running(app) as client:
        response = await client.put("/test/count")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")


async def test_an_invalid_body_is_named_but_not_repeated(app: FastAPI) -> None:
    class Login(BaseModel):
        password: int

    @app.post("/test/login")
    async def login(login: Login) -> None: ...

    async with running(app) as client:
        response = await client.post("/test/login", json={"password": "marked-secret"})
        not_json = await client.post(
            "/test/login", content=b"{marked-secret", headers={"content-type": "application/json"}
        )
    assert (response.status_code, not_json.status_code) == (422, 422)
    assert response.json()["title"] == "Unprocessable Content"  # on every Python
    assert response.json()["errors"][0]["location"] == "body.password"
    assert "marked-secret" not in response.text + not_json.text


async def test_metrics_count_requests_by_route(client: AsyncClient) -> None:
    await client.get("/livez")
    metrics = (await client.get("/metrics")).text
    assert 'http_requests_total{handler="/livez",method="GET",status="2xx"} 1.0' in metrics


async def test_metrics_have_no_label_that_a_client_made_up(app: FastAPI) -> None:
    """Each would be kept for ever."""

    @app.get("/test/{thing}")
    async def thing(thing: str) -> None: ...

    async with serving(app) as client:
        for path in ("/marked", "/livez/marked", "/test/marked", "/test/marked/"):
            await client.get(path)
        assert (await client.request("MARKED", "/livez")).status_code == 400
        metrics = (await client.get("/metrics")).text
    assert 'handler="/test/{thing}"' in metrics
    assert "marked" not in metrics.lower()


async def test_a_made_up_request_id_is_replaced(client: AsyncClient) -> None:
    """It would be in every line of the log. The middleware's own check lets the second one through."""
    for sent in ("marked-secret", "0123456789abcdef" + "-" * 20_000 + "0123456789abcdef"):
        response = await client.get("/nowhere", headers={"X-Request-ID": sent})
        assert response.json()["request_id"] == response.headers["x-request-id"]
        assert len(response.headers["x-request-id"]) == 32


async def test_a_body_that_is_too_large_is_refused(app: FastAPI) -> None:
    @app.post("/test/sent")
    async def sent(body: dict[str, int]) -> None: ...

    async with running(app) as client:
        response = await client.post("/test/sent", content=b" " * (MAX_BODY + 1))
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
