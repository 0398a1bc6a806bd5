"""`doctor` tells the truth about what it is connected to, and leaves no trace there."""

import asyncio
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
import trustme
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from orders_api.cli import main
from orders_api.database.engine import create_engine
from orders_api.observe import address, doctor, patient
from orders_api.observe import pooler as pooler_checks
from orders_api.observe.doctor import examine
from orders_api.observe.findings import LEVELS, Finding, Report, lines
from orders_api.observe.patient import Client, Options
from orders_api.settings import Settings

import devstack
from devstack.pgbouncer import find_pgbouncer
from tests.pooler.backends import several
from tests.pooler.proxy import counted
from tests.support import ROOT, Database, connect

PASSWORD = "Swordfish-1/é"

pytestmark = pytest.mark.usefixtures("servers_are_ours")


@pytest.fixture(scope="module")
def pooler(database: Database) -> Iterator[str]:
    """One with more backends than `doctor` holds. Where there are fewer, it waits for 1 s to see so."""
    with devstack.pgbouncer(database.url) as url:
        yield url


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits gives up sooner."""
    for module in (address, doctor, patient):
        monkeypatch.setattr(module, "STEP", 2)


class Examined(dict[str, list[Finding]]):
    """The findings of each check."""

    def level(self, check: str) -> str:
        """The worst of one check's."""
        return max((it.level for it in self[check]), key=LEVELS.index)

    def value(self, name: str) -> Any:
        """What the only finding has that has this value."""
        [value] = [it.values[name] for found in self.values() for it in found if name in it.values]
        return value

    def said(self, check: str) -> str:
        """All words of a check."""
        return "\n".join(f"{it.observed} -> {it.advice}" for it in self.get(check, []))


async def _examine(url: str, **variables: Any) -> Examined:
    settings = Settings.model_validate(
        {"database_url": url} | {k: v for k, v in variables.items() if k in Settings.model_fields}
    )
    given = {k: v for k, v in variables.items() if k not in Settings.model_fields}
    options = Options(**{"project": ROOT} | given)
    found = Examined()
    for finding in await examine(settings, options, time.monotonic()):
        found.setdefault(finding.check, []).append(finding)
    return found


def _through(url: str, **query: str) -> str:
    return make_url(url).set(query=query).render_as_string(hide_password=False)


def _run(
    url: str, *arguments: str, stderr: int = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command itself."""
    return subprocess.run(
        [sys.executable, "-m", "orders_api", "doctor", *arguments],
        env=os.environ | {"DATABASE_URL": url} | variables,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
        timeout=30,
    )


@asynccontextmanager
async def _answering(says: bytes) -> AsyncIterator[str]:
    """A server that takes every connection, says this once it is spoken to, and then no more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://user:secret@127.0.0.1:{port}/database"


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("transaction", {}),
        ("transaction", {"server_round_robin": 1, "default_pool_size": 2}),
        ("transaction", {"server_round_robin": 1, "default_pool_size": 4}),
        ("transaction", {"default_pool_size": 1}),
        ("session", {"pool_mode": "session"}),
        ("session", {"pool_mode": "session", "default_pool_size": 2}),
        ("statement", {"pool_mode": "statement"}),
    ],
)
async def test_the_mode_is_found_by_experiment(
    database: Database, mode: str, options: dict[str, Any]
) -> None:
    """All listen on some port, and none has it in its name. A pool may be smaller than what is held."""
    with devstack.pgbouncer(database.url, **options) as url:
        found = await _examine(url)
    expected = {"transaction": "ok", "session": "warning", "statement": "failure"}
    check = "login" if mode == "statement" else "pooler"  # it refuses what a login begins with
    [it] = found[check]
    assert it.values["mode"] == mode
    assert it.level == expected[mode]
    if check == "pooler":
        assert it.values["product"] == "PgBouncer"
        assert found.value("leaks") is (mode == "transaction")


async def test_named_statements_survive_where_the_pooler_tracks_them(
    database: Database, folder: Path
) -> None:
    """PgBouncer does from 1.21 on, if it is told to."""
    tracks = find_pgbouncer(folder)[1] >= (1, 21)
    tracking = {"max_prepared_statements": 200} if tracks else {}
    with devstack.pgbouncer(database.url, **tracking) as url:
        assert (await _examine(url)).value("survive") is tracks
        assert (await _examine(url)).value("survive") is tracks, "the first one left something"


async def test_postgresql_itself_is_no_pooler(database: Database) -> None:
    found = await _examine(database.url)
    assert found["pooler"][0].values["mode"] == "direct"
    assert found.value("product") == "PostgreSQL"
    assert {check for check in found if found.level(check) == "failure"} == set()
    assert found.value("survive") is True


@pytest.mark.parametrize("through", ["pooler", "directly"])
async def test_caches_of_statements_are_found(
    monkeypatch: pytest.MonkeyPatch, database: Database, pooler: str, through: str
) -> None:
    """Both on: behind a transaction pooler every other statement fails."""
    caches = {"statement_cache_size": 100, "prepared_statement_cache_size": 100}

    def with_caches(settings: Settings) -> AsyncEngine:
        url = settings.database_url
        named = replace(url, connect_args=url.connect_args | caches)
        changed = settings.model_copy(update={"database_url": named})
        return create_engine(changed)

    monkeypatch.setattr(patient, "create_engine", with_caches)
    found = await _examine(database.url if through == "directly" else pooler)
    if through == "directly":
        assert found.level("statements") == "warning"
        assert found.value("named") is True
    else:
        said = [it.advice for them in found.values() for it in them if it.level == "failure"]
        assert "database/engine.py" in "\n".join(said)


async def test_nothing_is_left_behind(database: Database) -> None:
    """No setting, no statement, no connection: on each of the backends that it used."""

    async def look(url: str) -> tuple[list[Any], int]:
        async with connect(database.url) as direct, several(url, 4) as sitting:
            settings = [
                [
                    # The name of a client is PgBouncer's business, which sets it for each.
                    await it.fetch(
                        "SELECT name, setting FROM pg_settings"
                        " WHERE name NOT IN ('search_path', 'application_name')"
                    ),
                    await it.fetch("SELECT name FROM pg_prepared_statements"),
                    await it.fetch(
                        "SELECT locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
                    ),
                    await it.fetch("SELECT relname FROM pg_class WHERE relpersistence = 't'"),
                ]
                for it in sitting
            ]
            query = "SELECT count(*) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace"
            return settings, await direct.fetchval(query)

    # In turn: what the driver closes by itself, by chance on the right backend, proves nothing.
    options = {"server_round_robin": 1, "default_pool_size": 4, "max_client_conn": 12}
    with devstack.pgbouncer(database.url, **options) as url:
        before = await look(url)
        for _ in range(3):
            found = await _examine(url)
            assert found.value("leaks") is True
        assert await look(url) == before
        async with AsyncExitStack() as stack:  # every place for a client is free again
            for _ in range(12):
                await stack.enter_async_context(connect(url))


async def test_what_another_doctor_has_left_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """Others kept the backend busy, so it could not take away what it had set there."""
    prepare, kept = Client.prepare, []

    async def prepare_for_good(client: Client, query: str, name: str = "") -> Any:
        kept.append(await prepare(client, query, name))  # or the driver closes it
        return kept[-1]

    async def bring_nobody(pid: int, clients: object) -> None:
        raise TimeoutError

    with devstack.pgbouncer(database.url, default_pool_size=1) as url:
        with monkeypatch.context() as patch:
            patch.setattr(Client, "prepare", prepare_for_good)
            patch.setattr(pooler_checks, "_bring_to", bring_nobody)
            found = await _examine(url)
        assert found.level("session") == "warning"
        assert "are left on a backend" in found.said("session")
        assert (await _examine(url)).value("leaks") is True


async def test_a_check_that_fails_leaves_no_transaction_to_the_next(
    monkeypatch: pytest.MonkeyPatch, pooler: str
) -> None:
    """All others would fail in it, and advise against that."""
    prepare = Client.prepare

    async def prepare_wrongly(client: Client, query: str, name: str = "") -> Any:
        return await prepare(client, "SELECT nowhere" if name else query, name)

    monkeypatch.setattr(Client, "prepare", prepare_wrongly)
    found = await _examine(pooler)
    assert "42703" in found.said("session")
    assert [it for it in found if "25P02" in found.said(it)] == []


class _Seat(Client):
    """A client of a full pool, which gets these backends, and then waits for ever."""

    def __init__(self, key: int, *pids: int) -> None:
        self.key, self.pids, self.driver = key, list(pids), Mock()

    async def hold(self) -> int:
        return self.pids.pop(0) if self.pids else await asyncio.sleep(60, 0)

    async def run(self, command: str) -> None:
        """It is taken."""


async def test_one_that_is_moved_where_a_pool_is_full_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the one that waited for ever is gone, so it can't be asked again."""
    monkeypatch.setattr(pooler_checks, "PATIENCE", 0.01)
    seats = [_Seat(1, 101, 102), _Seat(2)]
    assert await pooler_checks.find_mode(seats) == ("transaction", 2)
    kept = [_Seat(1, 101, 101), _Seat(2)]
    assert (await pooler_checks.find_mode(kept))[0] != "transaction"


async def test_a_wrong_password_is_sent_once(database: Database) -> None:
    """Ten of them make Supavisor block everybody."""
    async with counted(database.url) as (proxy, url):
        wrong = make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)
        found = await _examine(wrong, database_migration_url=wrong)
        assert proxy.refused == 1
    assert list(found)[-1] == "login"
    assert "28P01" in found.said("login") and "block everybody" in found.said("login")


async def test_what_does_not_answer_is_told_from_what_refuses(database: Database) -> None:
    unknown = make_url(database.pooler_url).set(database="nowhere")
    for url, words in {
        "postgresql://u:p@127.0.0.1:1/d": "nothing listens there",
        "postgresql://u:p@nowhere.invalid/d": "check the host's spelling",
        unknown.render_as_string(hide_password=False): "there is no such database",
    }.items():
        found = await _examine(url)
        assert found.level("login") == "failure"
        assert words in found.said("login")


async def test_a_pooler_that_is_busy_is_not_called_unreachable(
    database: Database, hasty: None
) -> None:
    """It takes the login, and then lets the first statement wait."""
    with devstack.pgbouncer(database.url, default_pool_size=1) as url:
        async with connect(url) as other:
            await other.execute("BEGIN")
            found = await _examine(url)
            await other.execute("ROLLBACK")
    assert found.level("login") == "failure"
    assert "server connections are busy" in found.said("login")


async def test_it_ends_in_time_if_nobody_answers() -> None:
    terminal, stderr = pty.openpty()
    async with _answering(b"") as url:
        started = time.monotonic()
        result = await asyncio.to_thread(_run, url, stderr=stderr)
        assert time.monotonic() - started < 15
    assert result.returncode == 2
    assert re.search("no answer within|while it was at: login", result.stdout)
    assert b"login ..." in os.read(terminal, 10_000), "nobody was told what it waits for"
    os.close(terminal)
    os.close(stderr)


async def test_tls_that_does_not_begin_is_no_answer(hasty: None) -> None:
    async with _answering(b"S") as url:
        found = await _examine(url)
    assert "no answer within" in found.said("login")
    assert found.level("tls") == "warning", "the login may have had the time"


def test_it_ends_in_time_if_the_resolver_hangs() -> None:
    """It hangs in a thread, which Python's own end would wait for."""
    program = (
        "import socket, sys, time; socket.getaddrinfo = lambda *a, **k: time.sleep(60); "
        "from orders_api.cli import main; from orders_api.observe import address; "
        "address.STEP = 2; sys.argv = ['x', 'doctor']; main()"
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"DATABASE_URL": "postgresql://u:p@database.example/d"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert time.monotonic() - started < 15
    assert result.returncode == 2
    assert "check this machine's DNS" in result.stdout


@contextmanager
def _tls(database: Database, folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A PgBouncer with a certificate for `name`, and the CA's file."""
    ca = trustme.CA(organization_name="A CA of ours")
    certificate = ca.issue_cert(name)
    ca.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    options = {
        "client_tls_sslmode": "allow",
        "client_tls_key_file": folder / "server.key",
        "client_tls_cert_file": folder / "server.pem",
    }
    with devstack.pgbouncer(database.url, **options) as url:
        yield url, folder / "ca.pem"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that a PgBouncer of another user can read, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def test_tls_that_nobody_verifies_is_found(database: Database, folder: Path) -> None:
    with _tls(database, folder, "127.0.0.1") as (url, ca):
        for query in ({}, {"sslmode": "require"}):
            found = await _examine(_through(url, **query))
            assert found.level("tls") == "warning"
            assert "A CA of ours" in found.said("tls")
        verified = await _examine(url, database_ssl_root_cert=ca)
        assert verified.level("tls") == "ok"
        assert verified.value("verified") is True
        assert verified.value("days") > 300


async def test_a_certificate_of_another_host_is_found(database: Database, folder: Path) -> None:
    with _tls(database, folder, "elsewhere.example") as (url, ca):
        found = await _examine(url, database_ssl_root_cert=ca)
    assert found.level("tls") == "failure"
    assert "elsewhere.example" in found.said("tls")
    assert "login" not in found


@pytest.mark.parametrize(("route", "level"), [(False, "failure"), (True, "warning")])
async def test_a_host_with_only_ipv6_is_found(
    monkeypatch: pytest.MonkeyPatch, route: bool, level: str
) -> None:
    """Supabase's direct host, from a place that has IPv4."""
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 5432, 0, 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [found])
    monkeypatch.setattr(address, "has_route", lambda address: route)
    monkeypatch.setattr(doctor, "LIMIT", 1)
    examined = await _examine("postgresql://postgres:p@db.abc.supabase.co:5432/postgres")
    assert examined.level("host") == level
    assert "only IPv6" in examined.said("host")


async def test_a_role_that_may_too_much_or_too_little(database: Database) -> None:
    """Most tests here log in as the superuser of their cluster."""
    assert "is a superuser" in (await _examine(database.url)).said("role")
    role = f"reader_{uuid4().hex}"
    url = make_url(database.url).set(username=role, password="secret")
    async with connect(database.url) as direct:
        await direct.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret' BYPASSRLS")
        try:
            found = await _examine(url.render_as_string(hide_password=False))
        finally:
            await direct.execute(f"DROP ROLE {role}")
    said = found.said("role")
    assert "has BYPASSRLS" in said
    assert "may not SELECT on items, INSERT on items -> run `migrate`, or GRANT" in said


async def test_the_migrations_url(database: Database, pooler: str) -> None:
    """To another database, through a transaction pooler, and as it should be."""
    other = make_url(database.url).set(database="postgres").render_as_string(hide_password=False)
    found = await _examine(pooler, database_migration_url=other)
    assert found.level("migrations") == "failure"
    assert "another database" in found.said("migrations")
    found = await _examine(database.url, database_migration_url=pooler)
    assert found.level("migrations") == "warning"
    assert "in transaction mode" in found.said("migrations")
    found = await _examine(pooler, database_migration_url=database.url)
    assert found.level("migrations") == "ok"
    assert "directly" in found.said("migrations")


async def test_a_migrations_host_that_does_not_answer_is_not_called_busy(
    database: Database, hasty: None
) -> None:
    """No login was accepted there, and no statement sent."""
    async with _answering(b"") as url:
        found = await _examine(database.url, database_migration_url=url)
    assert found.level("migrations") == "failure"
    assert "no answer within" in found.said("migrations")
    assert "schema" in found, "the other checks go on"


@pytest.mark.filterwarnings("ignore:Revision gone")
@pytest.mark.parametrize(
    ("revision", "error"),
    [
        ('revision = "b"\ndown_revision = "gone"', "KeyError"),
        (f'import nowhere_{PASSWORD[:9]}\nrevision = "b"\ndown_revision = None', "ModuleNotFound"),
        (f'raise RuntimeError("{PASSWORD}")', "RuntimeError"),
    ],
)
async def test_a_check_that_breaks_costs_no_other_its_findings(
    tmp_path: Path,
    database: Database,
    revision: str,
    error: str,
) -> None:
    """What it says is not known, so only its class and its place are told."""
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "migrations" / "versions" / "broken.py").write_text(revision.replace("-", "_"))
    found = await _examine(database.url, replicas=1, project=tmp_path)
    assert list(found)[-2:] == ["migrations", "schema"]
    assert found.level("schema") == "failure"
    assert error in found.said("schema")
    assert "Swordfish" not in found.said("schema")


def test_a_check_that_breaks_is_in_the_report(database: Database, tmp_path: Path) -> None:
    program = (
        "from orders_api.observe import budget; from orders_api.cli import main; "
        "budget.plan_deployment = None; main()"
    )
    for options in ([], ["--json"]):
        result = subprocess.run(
            [sys.executable, "-c", program, "doctor", *options],
            env=os.environ | {"DATABASE_URL": database.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert result.returncode == 2
        assert "TypeError" in result.stdout and "at head" in result.stdout
        assert "Traceback" not in result.stderr
    levels = {it.check: it.level for it in _json(result).findings}
    assert (levels["budget"], levels["schema"]) == ("failure", "ok")


async def test_without_manifests_nobody_knows_how_many_replicas_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pooler: str
) -> None:
    """As in the image. One that is guessed fits everywhere."""
    monkeypatch.chdir(tmp_path)
    found = await _examine(pooler, project=None)
    assert found.level("budget") == "warning"
    assert "replicas not known" in found.said("budget")
    assert "give --replicas (and --workers, --surge)" in found.said("budget")
    assert "not compared" in found.said("schema")
    found = await _examine(pooler, replicas=2, client_limit=100, project=None)
    assert found.level("budget") == "ok"
    assert found.value("needed") == 51


async def test_the_schema_is_at_head_or_is_not(database: Database) -> None:
    assert (await _examine(database.url)).level("schema") == "ok"
    name = f"empty_{uuid4().hex}"
    async with connect(database.url) as direct:
        await direct.execute(f"CREATE DATABASE {name}")
        try:
            url = make_url(database.url).set(database=name).render_as_string(hide_password=False)
            found = await _examine(url)
        finally:
            await direct.execute(f"DROP DATABASE {name}")
    assert found.level("schema") == "failure"
    assert "run `migrate`" in found.said("schema")
    assert "finds no table items" in found.said("role")


async def test_a_pool_above_the_budget_is_found(database: Database, pooler: str) -> None:
    pods = {"replicas": 2, "workers": 4, "surge": 1, "client_limit": 200}
    found = await _examine(pooler, **pods)
    assert found.level("budget") == "failure"
    assert "(2 x 2 + 1) replicas x 4 workers x (10 + 0) connections + 1 = 201 of 200" in found.said(
        "budget"
    )
    assert "DATABASE_POOL_SIZE=9" in found.said("budget")
    found = await _examine(pooler, **pods | {"database_pool_size": 9})
    assert found.level("budget") == "ok"
    assert found.value("needed") == 181
    found = await _examine(database.url, replicas=10)
    assert found.level("budget") == "failure", "directly, max_connections is the limit"


async def test_a_limit_that_nobody_gave_is_not_guessed(pooler: str) -> None:
    found = await _examine(pooler, replicas=1)
    assert found.level("budget") == "warning"
    assert "--client-limit" in found.said("budget")
    found = await _examine(pooler, replicas=1, plan="small")
    assert found.value("limit") == 400


def _json(result: subprocess.CompletedProcess[str]) -> Report:
    return Report.model_validate_json(result.stdout)


def test_the_exit_code_says_how_bad_it_is() -> None:
    refused = _run("not a URL", "--json")
    assert refused.returncode == 2
    assert _json(refused).findings[0].check == "settings"
    assert CliRunner().invoke(main, ["doctor", "--plan", "huge"]).exit_code == 2


async def test_the_password_is_never_printed(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """Whatever is wrong, and in whatever form the password is in the URL."""
    url = make_url(database.url).set(password=PASSWORD)
    right = url.render_as_string(hide_password=False)
    encoded = re.sub(r".*:([^@]*)@.*", r"\1", right)
    place = f"{url.host}:{url.port}/{url.database}"
    for given in (
        right,
        f"postgresql://{url.username}@{place}?password={encoded}",
        f"postgresql://{url.username}:{PASSWORD}@{place}",
        right.replace("/test", "/nowhere"),
        right.replace(str(url.port), "1"),
        f"{right}&{encoded}=1",
    ):
        monkeypatch.setenv("DATABASE_URL", given)
        report = await asyncio.to_thread(doctor.report, Options(), time.monotonic())
        assert report.level == "failure"
        printed = "\n".join([*lines(report), report.model_dump_json()])
        for form in (PASSWORD, encoded, "Swordfish"):
            assert form not in printed
    result = await asyncio.to_thread(_run, right, DATABASE_MIGRATION_URL=right)
    assert "Swordfish" not in result.stdout + result.stderr


def test_the_service_knows_nothing_of_it() -> None:
    """`serve` must not pay for a command that nobody calls."""
    program = "import sys, orders_api.main, orders_api.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "orders_api.database" in loaded.stdout
    assert "observe" not in loaded.stdout
