"""compose.yaml and what it runs, as far as that goes without Docker.

PostgreSQL's script and PgBouncer's configuration run here, on real servers. Supavisor does not: what
its script and its environment say is compared with what Supavisor documents.
"""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import Project, bake, devstack, environment
from test_projects import POOLERS

COMMAND = "python3 compose/generate_secrets.py"

# Of a tenant and its users, and whether Supavisor requires it. From
# https://github.com/supabase/supavisor/tree/v2.9.7: docs/configuration/tenants.md and users.md, and
# validate_required() in lib/supavisor/tenants/tenant.ex and user.ex (allow_list has a default there).
TENANT_FIELDS = {
    "external_id": True,
    "db_host": True,
    "db_port": True,
    "db_database": True,
    "default_parameter_status": True,
    "require_user": True,
    "users": True,
    "ip_version": False,
    "upstream_ssl": False,
    "upstream_verify": False,
    "upstream_tls_ca": False,
    "enforce_ssl": False,
    "auth_query": False,
    "default_pool_size": False,
    "sni_hostname": False,
    "default_max_clients": False,
    "client_idle_timeout": False,
    "allow_list": False,
}
USER_FIELDS = {
    "db_user": True,
    "db_password": True,
    "pool_size": True,
    "mode_type": True,
    "db_user_alias": False,
    "is_manager": False,
    "pool_checkout_timeout": False,
    "max_clients": False,
}
# docs/configuration/env.md, and ERL_AFLAGS of its Dockerfile, which it sets to IPv6.
SUPAVISOR_VARIABLES = {
    "DATABASE_URL",
    "DB_POOL_SIZE",
    "SECRET_KEY_BASE",
    "VAULT_ENC_KEY",
    "API_JWT_SECRET",
    "METRICS_JWT_SECRET",
    "REGION",
    "ERL_AFLAGS",
}


@pytest.fixture(scope="module", params=POOLERS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Not to be changed."""
    return bake(tmp_path_factory.mktemp(request.param), pooler=request.param)


@pytest.fixture
def changed(project: Project, tmp_path: Path) -> Project:
    """A copy to change."""
    return Project(Path(shutil.copytree(project.path, tmp_path / "copy")), project.package)


def generate(project: Project) -> subprocess.CompletedProcess[str]:
    """Run the command that compose.yaml asks for."""
    return subprocess.run(
        [sys.executable, *COMMAND.split()[1:]],
        cwd=project.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def assignments(env: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in env.read_text().splitlines())


def compose(project: Project, **variables: str) -> Any:
    """compose.yaml, with its variables filled in as Compose does it."""

    def fill(match: re.Match[str]) -> str:
        name, kind, text = match.groups()
        if match[0] == "$$":
            return "$"
        if kind == ":?":
            assert name in variables, f"required variable {name} is missing: {text}"
        return variables.get(name) or (text if kind == ":-" else "")

    def filled(value: Any) -> Any:
        match value:
            case dict():
                return {key: filled(below) for key, below in value.items()}
            case list():
                return [filled(below) for below in value]
            case str():
                return re.sub(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}", fill, value)
        return value

    return filled(yaml.safe_load((project.path / "compose.yaml").read_text()))


def test_it_follows_the_schema(project: Project) -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    result = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_images_are_pinned_and_nobody_else_can_connect(project: Project) -> None:
    services = compose(project, **dict.fromkeys(required(project), "x"))["services"]
    built = {service.get("image") for service in services.values() if "build" in service}
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to others: {port}"
        if service.get("image") not in built:
            assert re.search(r":\d+\.\d+", service["image"]), f"{name} may change under us"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (project.path / source).is_file(), source


def test_the_service_may_do_no_more_than_in_production(project: Project) -> None:
    services = compose(project, **dict.fromkeys(required(project), "x"))["services"]
    for name in ("migrate", "service"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert not set(services[name]["environment"]) & {*required(project), "POSTGRES_PASSWORD"}
    # Built once: two builds of one name at the same time can fail.
    built = [it for it in services.values() if it.get("build") == "."]
    assert [it["image"] for it in built] == [services["migrate"]["image"]]
    assert services["migrate"]["pull_policy"] == "never"
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"] == {"pooler": {"condition": "service_healthy"}}
    after = {"migrate": {"condition": "service_completed_successfully"}}
    assert services["service"]["depends_on"] == after
    [cli] = project.path.glob("src/*/cli.py")
    [grace_period] = re.findall(r"^GRACE_PERIOD = (\d+)$", cli.read_text(), re.MULTILINE)
    stopping = services["service"]["stop_grace_period"]
    assert int(grace_period) < int(stopping.removesuffix("s"))


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize("auth", ["none", "supabase"])
def test_the_service_gets_every_variable_that_it_has_to_have(
    tmp_path: Path, pooler: str, auth: str
) -> None:
    """Or Compose says which is missing. Of what is no secret, the command above makes up nothing."""
    project = bake(tmp_path, pooler=pooler, auth=auth)
    [settings] = project.path.glob("src/*/settings.py")
    fields = re.findall(r"^    ([a-z_]+): \w+$", settings.read_text(), re.MULTILINE)
    assert ("supabase_url" in fields) == (auth == "supabase")
    variables = {name: f"{name}'s" for name in required(project)}
    services = compose(project, **variables)["services"]
    for name in ("migrate", "service"):
        given = services[name]["environment"]
        assert given.keys() >= {field.upper() for field in fields}
        if auth == "supabase":
            assert given["SUPABASE_URL"] == "SUPABASE_URL's"
            assert given["SUPABASE_JWKS_URL"] == ""  # as if it were not set
        else:
            assert "SUPABASE_URL" not in variables
    assert generate(project).returncode == 0
    assert "SUPABASE_URL" not in assignments(project.path / ".env")


def required(project: Project) -> list[str]:
    """The variables without which compose.yaml refuses to run."""
    return re.findall(r"\$\{(\w+):\?", (project.path / "compose.yaml").read_text())


def test_every_variable_is_documented_or_generated(project: Project) -> None:
    """And none is a URL: .env may hold production's."""
    text = (project.path / "compose.yaml").read_text()
    example = (project.path / ".env.example").read_text()
    assert len(required(project)) == len(set(required(project)))
    for name in set(re.findall(r"\$\{(\w+)", text)):
        assert not name.endswith("URL")
        if name in required(project):
            assert re.search(rf"^# .*\b{name}\b", example, re.MULTILINE), name
            assert not re.search(rf"^#?{name}=", example, re.MULTILINE), name
        else:
            [default] = set(re.findall(rf"\$\{{{name}:-(\w+)\}}", text))
            assert f"\n#{name}={default}\n" in example
    for message in re.findall(r":\?([^}]*)\}", text):
        assert message == f"run {COMMAND}"


def test_the_generated_secrets_are_all_it_needs(changed: Project) -> None:
    env = changed.path / ".env"
    told = generate(changed)
    assert told.returncode == 0, told.stderr
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    secrets = assignments(env)
    assert sorted(secrets) == sorted(required(changed))
    assert len(set(secrets.values())) == len(secrets)
    for name, secret in secrets.items():
        # In a URL as it is, and 32 bytes: exactly what Supavisor's VAULT_ENC_KEY has to have.
        assert re.fullmatch(r"[A-Za-z0-9_-]{32}", secret)
        assert name in told.stdout
        assert secret not in told.stdout + told.stderr
    pooler = compose(changed, **secrets)["services"]["pooler"]["environment"]
    if "SECRET_KEY_BASE" in pooler:
        # https://hexdocs.pm/plug/Plug.Session.COOKIE.html
        assert len(pooler["SECRET_KEY_BASE"]) >= 64
        assert len(pooler["VAULT_ENC_KEY"]) == 32

    before = env.read_text()
    assert "every secret already" in generate(changed).stdout
    assert env.read_text() == before


def test_what_is_in_the_file_stays(changed: Project) -> None:
    env = changed.path / ".env"
    lines = b"# mine\r\n\nDATABASE_URL=postgresql://u:p@h/d?a=b&c\nSERVICE_PASSWORD='own' # mine\n"
    env.write_bytes(lines + b"export POSTGRES_PASSWORD=")
    env.chmod(0o644)
    assert generate(changed).returncode == 0
    content = env.read_bytes()
    assert content.startswith(lines + b"export POSTGRES_PASSWORD=\n")
    assert content.count(b"SERVICE_PASSWORD") == 1
    assert re.search(rb"^POSTGRES_PASSWORD=\S{32}$", content, re.MULTILINE)
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert not (changed.path / ".env.new").exists()


def test_what_can_not_be_used_is_named(changed: Project) -> None:
    env = changed.path / ".env"
    env.write_text("SERVICE_PASSWORD=marked@secret\n")
    told = generate(changed)
    assert told.returncode == 1
    assert "SERVICE_PASSWORD in .env can't be put into a URL" in told.stderr
    assert "marked" not in told.stdout + told.stderr
    assert env.read_text() == "SERVICE_PASSWORD=marked@secret\n"

    env.write_bytes(b"A=\xff\n")
    assert "save it as UTF-8" in generate(changed).stderr
    env.unlink()
    env.mkdir()
    told = generate(changed)
    assert told.returncode == 1
    assert re.fullmatch(r"\S+/\.env can't be used: Is a directory\.\n", told.stderr)
    (changed.path / "compose.yaml").unlink()
    assert "compose.yaml can't be used: No such file" in generate(changed).stderr


@pytest.fixture(scope="module")
def supavisor(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return bake(tmp_path_factory.mktemp("tenant"), pooler="supavisor")


def test_the_tenant_has_the_fields_that_supavisor_documents(supavisor: Project) -> None:
    """It drops what it does not know without a word."""
    text = (supavisor.path / "compose" / "supavisor.exs").read_text()
    tenant, user = text.split('"users" => [')
    for part, fields in ((tenant + '"users" =>', TENANT_FIELDS), (user, USER_FIELDS)):
        written = set(re.findall(r'^ +"(\w+)" =>|"(users)" =>$', part, re.MULTILINE))
        names = {name for pair in written for name in pair if name}
        assert names <= fields.keys()
        assert names >= {name for name, is_required in fields.items() if is_required}


def test_supavisor_gets_what_it_documents_and_what_the_tenant_needs(supavisor: Project) -> None:
    services = compose(supavisor, **dict.fromkeys(required(supavisor), "x"))["services"]
    text = (supavisor.path / "compose" / "supavisor.exs").read_text()
    given = set(services["pooler"]["environment"])
    read = set(re.findall(r'(?:fetch_env!|number\.)\("(\w+)"\)', text))
    assert read <= given
    assert given == SUPAVISOR_VARIABLES | read

    # The same names and ports on both sides.
    service = services["service"]["environment"]
    said = dict(re.findall(r'"(\w+)" => "?(\w+)"?,', text))
    for name, port in (("DATABASE_URL", 6543), ("DATABASE_MIGRATION_URL", 5432)):
        url = urlsplit(service[name])
        assert url.username == f"{said['db_user']}.{said['external_id']}"
        assert (url.hostname, url.port) == ("pooler", port)
        assert url.path == f"/{said['db_database']}"
    [script] = services["pooler"]["volumes"]
    assert f'eval_file("{script.split(":")[1]}")' in services["pooler"]["command"][-1]


PASSWORD = "a-password_of.32~characters-here"


def found(service: Project, expression: str) -> Any:
    """What devstack knows of this machine's servers."""
    program = (
        "import json, pathlib, tempfile; from devstack.pgbouncer import find_pgbouncer;"
        "from devstack.postgres import find_postgres; from devstack import process;"
        f"print(json.dumps({expression}))"
    )
    result = subprocess.run(
        [service.python, "-c", program],
        cwd=service.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def psql(service: Project, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The client of the PostgreSQL that devstack finds."""
    folder = found(service, "str(find_postgres())")
    assert Path(folder, "psql").is_file(), f"{folder} has no psql: install PostgreSQL's client"
    return subprocess.run(
        [f"{folder}/psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", *arguments, url],
        env=environment(SERVICE_PASSWORD=PASSWORD),
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def prepared(service: Project) -> Iterator[str]:
    """A PostgreSQL on which postgres.sql has run, as the service's own role."""
    with devstack(service) as stack:
        script = str(service.path / "compose" / "postgres.sql")
        result = psql(service, stack["database_url"], "--file", script)
        assert result.returncode == 0, result.stderr
        port = urlsplit(stack["database_url"]).port
        yield f"postgresql://service:{PASSWORD}@127.0.0.1:{port}/service"


@pytest.fixture(scope="module")
def database_url(service: Project) -> Iterator[str]:
    with prepared(service) as url:
        yield url


def test_the_role_owns_its_database_and_nothing_else(service: Project, database_url: str) -> None:
    sql = (
        "CREATE SCHEMA own; CREATE TABLE public.own (id int); DROP TABLE public.own;"
        " DROP SCHEMA own;"
        " SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
        " rolcanlogin FROM pg_roles WHERE rolname = current_user"
    )
    told = psql(service, database_url, "--tuples-only", "--no-align", "--quiet", "--command", sql)
    assert told.stdout == "f|f|f|f|f|t\n", told.stderr
    wrong = psql(service, database_url.replace(PASSWORD, "wrong"), "--command", "SELECT 1")
    assert "password authentication failed" in wrong.stderr


@pytest.fixture(scope="module")
def pgbouncer(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return bake(tmp_path_factory.mktemp("pgbouncer"), pooler="pgbouncer")


@contextmanager
def pooling(
    service: Project, pgbouncer: Project, database_url: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run compose/pgbouncer.sh with the environment of compose.yaml: its process and its URL.

    A `pgbouncer` that stands first on PATH puts this machine's addresses into the configuration,
    and takes out what a PgBouncer before 1.21 does not know, before it starts the real one.
    """
    (command, version), unprivileged, port = found(
        service,
        "[find_pgbouncer(pathlib.Path(tempfile.mkdtemp())),"
        " process.unprivileged(), process.free_port()]",
    )
    old = version < [1, 21]
    changes = {
        "host=postgres port=5432": f"host=127.0.0.1 port={urlsplit(database_url).port}",
        "listen_addr = 0.0.0.0": "listen_addr = 127.0.0.1",
        "listen_port = 6432": f"listen_port = {port}",
        "max_prepared_statements = 0": "" if old else "max_prepared_statements = 0",
    }
    lines = [f"grep -q '{before}' \"$1\" || exit 9" for before in changes]
    edits = " ".join(f"-e 's/{before}/{after}/'" for before, after in changes.items())
    lines += [f'sed {edits} "$1" >here.ini', f"exec {' '.join(command)} here.ini"]

    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name, "log")
        (folder / "pgbouncer").write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (folder / "pgbouncer").chmod(0o755)
        shutil.copyfile(pgbouncer.path / "compose" / "pgbouncer.sh", folder / "pgbouncer.sh")
        given = compose(pgbouncer, SERVICE_PASSWORD=PASSWORD, POSTGRES_PASSWORD="x", **variables)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*unprivileged, "sh", folder / "pgbouncer.sh"],
                cwd="/",
                env=environment(
                    **given["services"]["pooler"]["environment"],
                    PATH=f"{folder}:{os.environ['PATH']}",
                    TMPDIR=name,
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                # In the background of a shell it is ignored, by all that is started there.
                preexec_fn=lambda: signal.signal(signal.SIGQUIT, signal.SIG_DFL),  # noqa: PLW1509
            )
        try:
            while "process up" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield process, database_url.replace(f":{urlsplit(database_url).port}/", f":{port}/")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
            process.wait(timeout=20)


# What becomes of so many clients: the backends that they meet one after the other, each staying
# connected; those of their transactions at the same time; and why some were refused.
ASK = """
import asyncio, json, sys, asyncpg

async def begin(connection):
    try:
        await connection.execute("BEGIN", timeout=1)
        return await connection.fetchval("SELECT pg_backend_pid()")
    except TimeoutError:
        return None

async def main(url, clients):
    held, refused = [], []
    for _ in range(clients):
        try:
            held.append(await asyncpg.connect(url, statement_cache_size=0, timeout=5))
        except asyncpg.PostgresError as error:
            refused.append(str(error))
    one_by_one = []
    for connection in held:
        one_by_one.append(await begin(connection))
        if one_by_one[-1]:
            await connection.execute("ROLLBACK")
    print(json.dumps([one_by_one, [await begin(connection) for connection in held], refused]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def ask(service: Project, url: str, clients: int) -> list[Any]:
    result = subprocess.run(
        [service.python, "-c", ASK, url, str(clients)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout))


def test_pgbouncer_pools_transactions_within_the_limits(
    service: Project, pgbouncer: Project, database_url: str
) -> None:
    limits = {"POOLER_POOL_SIZE": "2", "POOLER_CLIENT_LIMIT": "3"}
    with pooling(service, pgbouncer, database_url, **limits) as (_, url):
        one_by_one, at_once, refused = ask(service, url, 4)
        assert None not in one_by_one  # a session-mode pooler keeps the third waiting
        assert len(set(at_once[:2])) == 2
        assert at_once[2:] == [None]
        assert len(refused) == 1
        assert "no more connections allowed" in refused[0]


def test_migrations_and_tests_work_with_that_role_and_that_pooler(
    service: Project, pgbouncer: Project, database_url: str
) -> None:
    """What CI does, as far as this takes no minutes."""
    with pooling(service, pgbouncer, database_url) as (_, url):
        urls = {
            "DATABASE_URL": f"{url}?sslmode=disable",
            "DATABASE_MIGRATION_URL": f"{database_url}?sslmode=disable",
        }
        service.check("orders-api", "migrate", **urls)
        own = {"TEST_DATABASE_URL": database_url, "TEST_POOLER_URL": url}
        suites = ("tests/migrations/test_migrations.py", "tests/pooler/test_control.py")
        told = service.check("pytest", "-q", *suites, **own)
        assert re.search(r"\d+ passed", told)
        # The control did not find this pooler too kind.
        assert "skipped" not in told


def test_callers_are_let_in_with_that_role(auth_service: Project, pgbouncer: Project) -> None:
    """Which may not create the role `authenticated`, and does not rise above row-level security."""
    with (
        prepared(auth_service) as database_url,
        pooling(auth_service, pgbouncer, database_url) as (_, url),
    ):
        urls = {
            "DATABASE_URL": f"{url}?sslmode=disable",
            "DATABASE_MIGRATION_URL": f"{database_url}?sslmode=disable",
            "SUPABASE_URL": "https://example.supabase.co",
        }
        auth_service.check("orders-api", "migrate", **urls)
        own = {"TEST_DATABASE_URL": database_url, "TEST_POOLER_URL": url}
        told = auth_service.check("pytest", "-q", "tests/auth/test_notes.py", **own)
        assert re.search(r"\d+ passed", told)
        sql = (
            "SELECT rolsuper, rolbypassrls, pg_has_role(oid, 'authenticated', 'SET'),"
            " pg_has_role(oid, 'authenticated', 'USAGE') FROM pg_roles WHERE rolname = current_user"
        )
        told = psql(
            auth_service, database_url, "--tuples-only", "--no-align", "--command", sql
        ).stdout
        assert told == "f|f|t|f\n"


def test_pgbouncers_health_is_that_of_the_way_to_the_database(
    service: Project, pgbouncer: Project, database_url: str
) -> None:
    pooler = compose(pgbouncer, **dict.fromkeys(required(pgbouncer), PASSWORD))["services"][
        "pooler"
    ]
    kind, check = pooler["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    folder = Path(psql(service, database_url, "--command", "SELECT 1").args[0]).parent
    with pooling(service, pgbouncer, database_url) as (_, url):
        check = check.replace("--port=6432", f"--port={urlsplit(url).port}")
        for password, healthy in ((PASSWORD, True), ("wrong", False)):
            result = subprocess.run(
                ["sh", "-c", check],
                env=environment(PATH=f"{folder}:{os.environ['PATH']}", SERVICE_PASSWORD=password),
                capture_output=True,
                text=True,
                check=False,
            )
            assert (result.returncode == 0) == healthy, result.stderr


def test_pgbouncer_ends_although_a_client_stays(
    service: Project, pgbouncer: Project, database_url: str
) -> None:
    pooler = compose(pgbouncer, **dict.fromkeys(required(pgbouncer), "x"))["services"]["pooler"]
    with pooling(service, pgbouncer, database_url) as (process, url):
        stay = "import asyncio, asyncpg, sys\n"
        stay += "async def main():\n    connection = await asyncpg.connect(sys.argv[1])\n"
        stay += "    print('connected', flush=True)\n    await asyncio.sleep(60)\n"
        stay += "asyncio.run(main())\n"
        client = subprocess.Popen(
            [service.python, "-c", stay, url], stdout=subprocess.PIPE, text=True
        )
        try:
            assert client.stdout
            assert client.stdout.readline() == "connected\n"
            begun = time.monotonic()
            process.send_signal(signal.Signals[pooler["stop_signal"]])
            process.wait(timeout=8)  # Compose kills after 10
            assert time.monotonic() - begun < 8
        finally:
            client.kill()
            client.communicate()


@pytest.mark.parametrize("name", ["POOLER_POOL_SIZE", "POOLER_CLIENT_LIMIT"])
def test_a_limit_that_is_no_number_is_named(
    service: Project, pgbouncer: Project, database_url: str, name: str
) -> None:
    message = f"^{name} has to be a whole number, 1 or more. See .env.example.\n"
    with (
        pytest.raises(AssertionError, match=message),
        pooling(service, pgbouncer, database_url, **{name: "many"}),
    ):
        pass
