"""The role that the service logs in as: fit to act for callers, or told of at once."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from {{ cookiecutter.package_name }}.auth.dependencies import UserSessionDep, get_caller
from {{ cookiecutter.package_name }}.database import metrics
from {{ cookiecutter.package_name }}.database.caller import Caller, UserSessions
from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.database.session import Sessions
from {{ cookiecutter.package_name }}.logs import format_traceback
from {{ cookiecutter.package_name }}.main import create_app
from {{ cookiecutter.package_name }}.observe.doctor import examine
from {{ cookiecutter.package_name }}.observe.patient import Options
from {{ cookiecutter.package_name }}.settings import Settings

from tests.auth.callers import ALICE, is_caller, made, who
from tests.support import Database, connect, make_engine, running, served

Login = Callable[[str], AbstractAsyncContextManager[str]]

# What it may be, and what is said of it.
FIT = "NOINHERIT"
UNFIT = {
    "SUPERUSER": "is a superuser",
    "BYPASSRLS": "has BYPASSRLS",
    "": " is not granted authenticated",
}


@pytest.fixture
def login(database: Database, role: str, servers_are_ours: None) -> Login:
    """Makes a login with these attributes, for as long as it is used; of FIT, a member."""

    @asynccontextmanager
    async def log_in(attributes: str) -> AsyncIterator[str]:
        name = f"login_{uuid4().hex[:12]}"
        target = make_url(database.url).set(username=name, password="secret")
        async with connect(database.url) as direct:
            await direct.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' {attributes}")
            if attributes:
                await direct.execute(f"GRANT {role} TO {name}")
            try:
                yield target.render_as_string(hide_password=False)
            finally:
                await direct.execute(f"DROP ROLE {name}")

    return log_in


def _settings(settings: Settings, url: str) -> Settings:
    changes = {"database_url": url, "database_pool_size": 1}
    return Settings.model_validate(settings.model_dump() | changes)


async def test_a_login_that_is_no_member(
    settings: Settings, database: Database, login: Login
) -> None:
    """The service's fault, whoever asks: not a 403. It mends as soon as somebody grants it."""
    async with login("") as url, make_engine(_settings(settings, url), database) as engine:
        users = UserSessions(engine)
        for _ in range(3):
            with pytest.raises(SQLAlchemyError, match="GRANT authenticated TO") as error:
                async with users.begin(ALICE) as session:
                    await session.execute(text("SELECT 1"))
            assert classify(error.value) is Failure.UNKNOWN
            async with Sessions(engine).begin() as own:
                assert (await who(own)).login
        with pytest.raises(SQLAlchemyError):  # nothing has begun, so there is nothing to commit
            async with users.begin(ALICE) as session:
                with suppress(SQLAlchemyError):
                    await session.execute(text("SELECT 1"))
        async with connect(database.url) as direct:
            await direct.execute(f"GRANT authenticated TO {make_url(url).username}")
        async with users.begin(ALICE) as session:
            assert is_caller(await who(session), ALICE.claims)


async def test_a_role_that_there_is_not(settings: Settings, database: Database) -> None:
    async with make_engine(settings, database) as engine:
        with pytest.raises(SQLAlchemyError, match="GRANT nowhere TO") as error:
            async with UserSessions(engine).begin(made(ALICE.id, role="nowhere")) as session:
                await session.execute(text("SELECT 1"))
        assert classify(error.value) is Failure.UNKNOWN


@pytest.mark.parametrize(("attributes", "told"), UNFIT.items())
async def test_doctor_fails_a_login_that_is_not_fit(
    settings: Settings, login: Login, attributes: str, told: str
) -> None:
    async with login(attributes) as url:
        found = await examine(_settings(settings, url), Options(), time.monotonic())
    [finding] = [it for it in found if it.check == "role" and told in it.observed]
    assert finding.level == "failure"


async def test_doctor_and_serve_say_nothing_of_one_that_is(
    settings: Settings, login: Login, tmp_path: Path
) -> None:
    """Best is one that may nothing by itself: what callers may is their role's."""
    async with login(FIT) as url:
        found = await examine(_settings(settings, url), Options(), time.monotonic())
        async with served(url, tmp_path) as service:
            output = service.output
    [role] = [it.observed for it in found if it.check == "role"]
    # It was granted no table of other features.
    assert str(make_url(url).username) in role
    assert "granted authenticated" not in role and "notes" not in role
    assert "not fit to act" not in output


async def test_serve_says_so_once(login: Login, tmp_path: Path) -> None:
    """Not once for each worker."""
    async with login("BYPASSRLS") as url, served(url, tmp_path, "--workers", "2") as service:
        lines = [json.loads(it) for it in service.output.splitlines()]
    [line] = [it for it in lines if "not fit to act for callers" in it["event"]]
    assert line["level"] == "warning" and "has BYPASSRLS" in line["reason"]


def _always(caller: Caller) -> Callable[[], Caller]:
    return lambda: caller


async def test_claims_are_in_no_log_and_no_trace(
    settings: Settings,
    database: Database,
    owned: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are people's data, and are sent as the text of SQL."""
    caplog.set_level("DEBUG")
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(metrics, "_tracer", tracer)
    tracebacks: list[str] = []

    async def run(sql: str, session: UserSessionDep) -> None:
        with tracer.start_as_current_span("request"):
            try:
                await session.execute(text(sql))
            except SQLAlchemyError as error:
                tracebacks.append(format_traceback((type(error), error, error.__traceback__)))
                raise

    statements = {
        "SELECT 1": 200,
        "SELECT 1/0": 500,
        "SELECT nothing": 500,
        "SELECT CAST(current_setting('request.jwt.claims') AS int)": 422,
        f"INSERT INTO {owned} (name, amount, owner) VALUES ('a', 1, gen_random_uuid())": 403,
    }
    for role in ("authenticated", "nowhere"):
        app = create_app(settings)
        caller = made(ALICE.id, role=role, app_metadata={"team": "verysecret"})
        app.dependency_overrides[get_caller] = _always(caller)
        app.add_api_route("/test/sql", run)
        async with running(app) as client:
            for statement, status in statements.items():
                answer = await client.get("/test/sql", params={"sql": statement})
                assert answer.status_code == (status if role == "authenticated" else 500)
                assert "verysecret" not in answer.text
    told = "".join((*tracebacks, caplog.text, *capfd.readouterr()))
    assert "GRANT nowhere" in told and len(tracebacks) == 9
    traced = [span.to_json() for span in spans.get_finished_spans()]
    assert any('"db.query.text": "SELECT 1/0"' in it for it in traced)
    for it in (told, *traced):
        assert "verysecret" not in it and "set_config" not in it
