"""The service as a process of its own: `serve`, its log, and how it ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from sqlalchemy import make_url
from typer.testing import CliRunner

from {{ cookiecutter.package_name }} import cli, logs
from {{ cookiecutter.package_name }}.web.limits import LONGEST

from tests.support import ROOT, Database, new_client, served

PYTHON = [sys.executable, "-m"]
SERVE = [*PYTHON, "{{ cookiecutter.package_name }}", "serve"]

# In a URL half of it has to be percent-encoded; "marked-secret" is in it either way.
PASSWORD = "marked-secret@/%#\N{LATIN SMALL LETTER E WITH ACUTE}marked-secret"
CLOSED_PORT = f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/database"


async def test_the_log_is_json_with_request_ids_and_the_pool(
    database: Database, tmp_path: Path
) -> None:
    request_id = "0123456789abcdef0123456789abcdef"
    async with served(database.pooler_url, tmp_path, DATABASE_POOL_SIZE="7") as service:
        response = await service.client.get("/readyz", headers={"X-Request-ID": request_id})
        assert (response.status_code, response.headers["x-request-id"]) == (200, request_id)
    assert service.process.returncode == 0
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert [line["pool_size"] for line in lines if line["event"] == "database engine"] == [7]
    [access] = [line for line in lines if "GET /readyz" in line["event"]]
    assert access["request_id"] == request_id


async def test_log_level(database: Database, tmp_path: Path) -> None:
    async with served(database.pooler_url, tmp_path, LOG_LEVEL="WARNING") as service:
        await service.client.get("/readyz")
    assert service.output == ""


async def test_workers_have_pools_of_their_own_and_metrics_together(
    database: Database, tmp_path: Path
) -> None:
    async with served(database.pooler_url, tmp_path, "--workers", "2") as service:
        for _ in range(20):  # each on a connection of its own, so that both workers get some
            async with new_client(service.client.base_url) as client:
                assert (await client.get("/readyz")).status_code == 200
        metrics = (await service.client.get("/metrics")).text
    assert service.process.returncode == 0
    assert service.output.count('"database engine"') == 2
    assert '{handler="/readyz",method="GET",status="2xx"} 20.0' in metrics


async def test_workers_end_when_their_parent_is_killed(database: Database, tmp_path: Path) -> None:
    """They would serve on, and keep the port from whoever starts in its place."""
    process = await asyncio.create_subprocess_exec(
        *(*SERVE, "--workers", "2", "--port", "0"),
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": database.pooler_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            for _ in range(2):
                while b"startup complete" not in await process.stdout.readline():
                    pass
        process.kill()
        async with asyncio.timeout(10):
            told = await process.stdout.read()  # until nobody has it open
        assert told.count(b"Application shutdown complete") == 2
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_the_password_is_nowhere(tmp_path: Path) -> None:
    talkative = {"LOG_LEVEL": "debug", "LOG_FORMAT": "console"}
    async with served(CLOSED_PORT, tmp_path, **talkative) as service:
        response = await service.client.get("/readyz")
        metrics = await service.client.get("/metrics")
    assert response.status_code == 503
    assert re.search(r"^\S+ \[info +\] database engine ", service.output, re.MULTILINE)
    assert "database failure" in service.output
    assert "marked-secret" not in service.output + response.text + metrics.text


@pytest.mark.parametrize("failure", ["closed port", "wrong login"])
async def test_no_command_tells_the_password(
    database: Database, servers_are_ours: None, failure: str
) -> None:
    """Alembic's ends with a traceback, which is where a careless error would show it."""
    env = {"DATABASE_URL": CLOSED_PORT, "DATABASE_MIGRATION_URL": CLOSED_PORT}
    if failure == "wrong login":
        env = {
            "DATABASE_URL": _wrong_login(database.pooler_url),
            "DATABASE_MIGRATION_URL": _wrong_login(database.url),
        }
    migrate = [*PYTHON, "{{ cookiecutter.package_name }}", "migrate"]
    alembic = [*PYTHON, "alembic"]
    log_format = "json" if failure == "closed port" else "console"
    outputs = await asyncio.gather(
        _ended(migrate, env | {"LOG_FORMAT": log_format}), _ended([*alembic, "current"], env)
    )
    for output in outputs:
        assert "can't connect to 127.0.0.1" in output or "authentication failed" in output
        assert "marked-secret" not in output


async def test_a_migration_refuses_a_login_that_the_service_could_not_use(
    database: Database, servers_are_ours: None
) -> None:
    """A deployment migrates once, and starts many replicas then: ten wrong logins block everybody."""
    env = {
        "DATABASE_URL": _wrong_login(database.pooler_url),
        "DATABASE_MIGRATION_URL": database.url,
    }
    output = await _ended([*PYTHON, "{{ cookiecutter.package_name }}", "migrate"], env)
    assert "DATABASE_URL can't be used:" in output


async def test_serve_says_once_why_it_cant_connect_and_goes_on(tmp_path: Path) -> None:
    async with served(CLOSED_PORT, tmp_path, "--workers", "2", LOG_LEVEL="debug") as service:
        assert (await service.client.get("/livez")).status_code == 200
    assert "marked-secret" not in service.output
    lines = [json.loads(line) for line in service.output.splitlines()]
    [failure] = [line for line in lines if line["event"] == "database failure"]
    assert (failure["host"], failure["port"]) == ("127.0.0.1", 1)
    assert "refused" in failure["reason"]
    assert "DATABASE_URL could not be tried" in service.output


async def test_a_migration_says_that_it_could_not_try_the_services_login(
    database: Database,
) -> None:
    env = {"DATABASE_URL": CLOSED_PORT, "DATABASE_MIGRATION_URL": database.url}
    schema = ["-x", f"schema={database.schema}"] if database.schema else []
    migrate = [*PYTHON, "{{ cookiecutter.package_name }}", "migrate", *schema]
    output = await _ended(migrate, env, 0)
    assert '"reason": "refused: nothing listens there' in output
    assert "DATABASE_URL could not be tried" in output


def test_help_is_there_at_once_and_does_not_tell_the_password() -> None:
    """Whatever a command needs is imported when it runs: this takes a second otherwise."""
    program = (
        "import sys\n"
        "from {{ cookiecutter.package_name }}.cli import main\n"
        "print(*sys.modules)\n"
        "from typer.testing import CliRunner\n"
        "for command in ([], ['serve'], ['migrate']):\n"
        "    print(CliRunner().invoke(main, [*command, '--help'], catch_exceptions=False).output)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"DATABASE_URL": CLOSED_PORT},
        capture_output=True,
        text=True,
        check=True,
    )
    modules, _, told = result.stdout.partition("\n")
    assert "Address to listen on." in told and "For migrations/env.py" in told
    assert "marked-secret" not in told
    imported = {name.partition(".")[0] for name in modules.split()}
    assert not imported & {"alembic", "asyncpg", "fastapi", "pydantic", "sqlalchemy", "uvicorn"}


def test_a_connection_may_be_idle_for_as_long_as_the_refused_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvicorn closes it after 5 seconds by default, and who sends just then gets no answer."""
    options: dict[str, Any] = {"timeout_keep_alive": 5}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given))
    for module, name in ((signal, "signal"), (logs, "configure_logging")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setenv("DATABASE_URL", CLOSED_PORT)
    cli.serve()
    assert options["timeout_keep_alive"] > LONGEST


def _wrong_login(url: str) -> str:
    return make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)


async def _ended(command: list[str], env: dict[str, str], returncode: int = 1) -> str:
    """What a command printed that ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,  # where Alembic finds its configuration
        env=os.environ | {"LOG_LEVEL": "debug"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == returncode
    return output.decode()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_has_no_local_variables(tmp_path: Path, log_format: str) -> None:
    """rich would print them, the password and thousands of lines among them."""
    program = (
        "import logging\n"
        "from {{ cookiecutter.package_name }}.logs import configure_logging\n"
        "from {{ cookiecutter.package_name }}.settings import load_settings\n"
        "configure_logging(load_settings())\n"
        "def fail(password):\n    raise RuntimeError('told')\n"
        "try:\n    fail('marked-' + 'secret')\n"
        "except RuntimeError:\n    logging.exception('failed')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": "postgresql://h/d", "LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RuntimeError: told" in result.stdout
    assert "marked-secret" not in result.stdout


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "DATABASE_URL is not set."),
        ({"DATABASE_URL": "marked-secret"}, "DATABASE_URL can't be used: it is not a URL."),
        (
            {"DATABASE_URL": "mysql://u:marked-secret@h/d", "LOG_LEVEL": "debug"},
            "DATABASE_URL can't be used: its scheme is not one of",
        ),
        (
            {"DATABASE_URL": "postgresql://u:marked-secret@h/d", "DATABASE_POOL_SIZE": "0"},
            "DATABASE_POOL_SIZE: input should be greater than 0",
        ),
    ],
)
def test_a_bad_environment_is_one_message(
    variables: dict[str, str], message: str, command: str
) -> None:
    result = CliRunner().invoke(cli.main, [command], env=variables)
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)  # without a traceback
    assert "marked-secret" not in result.output


def test_a_bad_environment_ends_every_worker_with_one_message(tmp_path: Path) -> None:
    """As a process of its own, which has no traceback either."""
    result = subprocess.run(
        [*SERVE, "--workers", "2"],
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": "marked-secret"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert "DATABASE_URL can't be used: it is not a URL." in result.stderr
    assert "Traceback" not in result.stderr
    assert "marked-secret" not in result.stdout + result.stderr


def test_a_wrong_login_ends_serve_with_a_hint(
    database: Database, tmp_path: Path, servers_are_ours: None
) -> None:
    result = subprocess.run(
        [*SERVE, "--workers", "2"],
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": _wrong_login(database.pooler_url)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert "Check the user, the password and the database." in result.stderr
    assert "Traceback" not in result.stderr
    assert "marked-secret" not in result.stdout + result.stderr
