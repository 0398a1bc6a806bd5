"""The commands: what they log, what they refuse, and that none tells the password."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from sqlalchemy import make_url
from typer.testing import CliRunner, Result

from {{ cookiecutter.package_name }} import cli, logs
from {{ cookiecutter.package_name }}.web.limits import LONGEST

from tests.support import ROOT, Database, new_client, served

MODULE = [sys.executable, "-m", "{{ cookiecutter.package_name }}"]

# In a URL half of it has to be percent-encoded; "marked-secret" is in it either way.
PASSWORD = "marked-secret@/%#\N{LATIN SMALL LETTER E WITH ACUTE}marked-secret"
CLOSED_PORT = f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/database"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A command in this process, which keeps its own signals and its own log: 2 s less than another."""
    for module, name in ((signal, "signal"), (logs, "configure_logging")):
        monkeypatch.setattr(module, name, lambda *_: None)

    def run(*command: str, **env: str) -> Result:
        result = CliRunner().invoke(cli.main, command, env=env)
        assert result.exception is None or isinstance(result.exception, SystemExit)  # no traceback
        assert "marked-secret" not in result.output
        return result

    return run


def _wrong_login(url: str) -> str:
    return make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)


async def test_workers_have_pools_of_their_own_and_one_log(
    database: Database, tmp_path: Path
) -> None:
    """Of JSON, with request ids. And `/metrics` adds up what all of them have served."""
    request_id = "0123456789abcdef0123456789abcdef"
    headers = {"X-Request-ID": request_id}
    env = {"DATABASE_POOL_SIZE": "7", "LOG_LEVEL": "debug"}
    async with served(database.pooler_url, tmp_path, "--workers", "2", **env) as service:
        while service.output.count("database engine") < 2:
            await asyncio.sleep(0.05)
        for _ in range(20):  # each on a connection of its own, which either worker may take
            async with new_client(service.client.base_url, headers=headers) as client:
                assert (await client.get("/readyz")).headers["x-request-id"] == request_id
        metrics = (await service.client.get("/metrics")).text
    assert service.process.returncode == 0
    assert '{handler="/readyz",method="GET",status="2xx"} 20.0' in metrics
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert [line["pool_size"] for line in lines if line["event"] == "database engine"] == [7, 7]
    requests = [line for line in lines if line.get("route") == "/readyz"]
    assert [line["request_id"] for line in requests] == [request_id] * 20


async def test_serve_says_once_why_it_cant_connect_and_goes_on(tmp_path: Path) -> None:
    """Without the password, also in the log for people and in what is answered."""
    talkative = {"LOG_LEVEL": "debug", "LOG_FORMAT": "console"}
    async with served(CLOSED_PORT, tmp_path, "--workers", "2", **talkative) as service:
        response = await service.client.get("/readyz")
        metrics = await service.client.get("/metrics")
    assert response.status_code == 503
    assert re.search(r"^\S+ \[info +\] database engine ", service.output, re.MULTILINE)
    assert service.output.count("DATABASE_URL could not be tried") == 1
    assert service.output.count("refused: nothing listens there") == 2  # at the start, and for us
    assert "marked-secret" not in service.output + response.text + metrics.text


def test_a_wrong_login_ends_every_command_with_a_hint(
    database: Database, servers_are_ours: None, run: Callable[..., Result]
) -> None:
    """`migrate` tries the service's as well: a deployment migrates once, and starts many replicas then,
    and ten wrong logins block everybody."""
    wrong = _wrong_login(database.pooler_url)
    for command, urls in (
        (["serve", "--workers", "2"], {"DATABASE_URL": wrong}),
        (["migrate"], {"DATABASE_URL": wrong, "DATABASE_MIGRATION_URL": database.url}),
    ):
        result = run(*command, **urls)
        assert result.exit_code == 1
        assert "DATABASE_URL can't be used:" in result.output
        assert "Check the user, the password and the database." in result.output


def test_a_migration_without_the_services_database(
    database: Database, run: Callable[..., Result]
) -> None:
    """It says that it could not try the login. A failure of its own is one message."""
    schema = ["-x", f"schema={database.schema}"] if database.schema else []
    result = run("migrate", *schema, DATABASE_URL=CLOSED_PORT, DATABASE_MIGRATION_URL=database.url)
    assert result.exit_code == 0
    assert "refused: nothing listens there" in result.output
    assert "DATABASE_URL could not be tried" in result.output
    result = run("migrate", DATABASE_URL=CLOSED_PORT)
    assert result.exit_code == 1
    assert "The migration failed: " in result.output
    assert "Connect call failed" in result.output


def test_alembic_does_not_tell_the_password() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "alembic", "current"],
        cwd=ROOT,  # where Alembic finds its configuration
        env=os.environ | {"DATABASE_URL": CLOSED_PORT, "LOG_LEVEL": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "can't connect to 127.0.0.1" in output
    assert "marked-secret" not in output


def test_help_is_there_at_once_and_does_not_tell_the_password() -> None:
    """Whatever a command needs is imported when it runs: this takes a second otherwise."""
    program = (
        "import sys\n"
        "from {{ cookiecutter.package_name }}.cli import main\n"
        "print(*sys.modules)\n"
        "from typer.testing import CliRunner\n"
        "for command in ([], ['serve'], ['migrate'], ['tune']):\n"
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
    assert "Try no larger pool." in told
    assert "marked-secret" not in told
    imported = {name.partition(".")[0] for name in modules.split()}
    assert not imported & {"alembic", "asyncpg", "fastapi", "pydantic", "sqlalchemy", "uvicorn"}


def test_a_connection_may_be_idle_for_as_long_as_the_refused_wait(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    """uvicorn closes it after 5 seconds by default, and who sends just then gets no answer."""
    options: dict[str, Any] = {"timeout_keep_alive": 5}
    monkeypatch.setattr(uvicorn, "run", lambda app, **given: options.update(given))
    assert run("serve", DATABASE_URL=CLOSED_PORT).exit_code == 0
    assert options["timeout_keep_alive"] > LONGEST


@pytest.mark.parametrize(("log_format", "level"), [("json", "info"), ("console", "error")])
def test_the_log_has_its_level_and_no_local_variables(
    tmp_path: Path, log_format: str, level: str
) -> None:
    """rich would print them, the password and thousands of lines among them."""
    program = (
        "import logging\n"
        "from {{ cookiecutter.package_name }}.logs import configure_logging\n"
        "from {{ cookiecutter.package_name }}.settings import load_settings\n"
        "configure_logging(load_settings())\n"
        "def fail(password):\n    raise RuntimeError('told')\n"
        "try:\n    fail('marked-' + 'secret')\n"
        "except RuntimeError:\n    logging.exception('failed')\n"
        "logging.info('by the way')\n"
    )
    variables = {"DATABASE_URL": CLOSED_PORT, "LOG_FORMAT": log_format, "LOG_LEVEL": level}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RuntimeError: told" in result.stdout
    assert ("by the way" in result.stdout) == (level == "info")
    assert "marked-secret" not in result.stdout


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "DATABASE_URL is not set."),
        ({"DATABASE_URL": "marked-secret"}, "DATABASE_URL can't be used: it is not a URL."),
        (
            {"DATABASE_URL": "postgresql://u:marked-secret@h/d", "DATABASE_POOL_SIZE": "0"},
            "DATABASE_POOL_SIZE: input should be greater than 0",
        ),
    ],
)
def test_a_bad_environment_is_one_message(
    run: Callable[..., Result], variables: dict[str, str], message: str, command: str
) -> None:
    result = run(command, **variables)
    assert result.exit_code == 1
    assert message in result.output


def test_a_bad_environment_ends_every_worker_with_one_message(tmp_path: Path) -> None:
    """As a process of its own, which has no traceback either."""
    result = subprocess.run(
        [*MODULE, "serve", "--workers", "2"],
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": "marked-secret"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode != 0
    assert "DATABASE_URL can't be used: it is not a URL." in result.stderr
    assert "Traceback" not in result.stderr
    assert "marked-secret" not in result.stdout + result.stderr
