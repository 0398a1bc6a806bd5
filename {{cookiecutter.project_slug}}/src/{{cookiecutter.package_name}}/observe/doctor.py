"""Examine what the service is connected to, and whether its settings are safe there.

It only reads, and leaves nothing behind. Each check is a function that yields what it found; what it
learnt for those after it is on the `Patient`.
"""

import asyncio
import ipaddress
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import typer
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.auth.keys import Keys
{%- endif %}
from {{ cookiecutter.package_name }}.cli import project
from {{ cookiecutter.package_name }}.database.base import Base
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.database.caller import FAULT
{%- endif %}
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.url import DatabaseURL
from {{ cookiecutter.package_name }}.observe import pooler as experiment
from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.budget import (
    LEAST_CLIENTS,
    PLANS,
    plan_deployment,
)
from {{ cookiecutter.package_name }}.observe.certificate import show
from {{ cookiecutter.package_name }}.observe.findings import (
    LEVELS,
    Finding,
    Report,
    failure,
    lines,
    ok,
    warning,
)
from {{ cookiecutter.package_name }}.observe.pooler import Client, Kept, Pooler
from {{ cookiecutter.package_name }}.settings import (
    ConfigurationError,
    Settings,
    load_settings,
    unknown_variables,
)

# Seconds for all checks, with the imports here, and for each one. With connections that are slow to
# close it still ends within 15.
LIMIT = 12
STEP = 5

CLIENTS = 4  # at once: enough to see somebody moved, and few enough for any pool
ROUND_TRIPS = 50
FAR = 25  # ms of a round trip: more than between two data centres of a region
CERTIFICATE_DAYS = 30

# A role that only one provider's servers have.
PROVIDERS = {
    "azure_pg_admin": "Azure",
    "cloudsqlsuperuser": "Google Cloud SQL",
    "neon_superuser": "Neon",
    "rds_superuser": "Amazon RDS",
    "supabase_admin": "Supabase",
}

_SERVER = """
    SELECT split_part(version(), ' on ', 1) AS version, current_user, rolsuper, rolbypassrls,
        current_setting('application_name') AS application,
        current_setting('transaction_read_only') = 'on' AS read_only,
        current_setting('max_connections')::int AS max_connections,
        current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
        (SELECT sum(numbackends)::int FROM pg_stat_database) AS in_use,
        (SELECT min(rolname)::text FROM pg_roles WHERE rolname = ANY ($1::text[])) AS provider
    FROM pg_roles WHERE rolname = current_user
"""
_DATABASE = "SELECT current_database(), pg_postmaster_start_time()"
_MAY_CREATE = "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
_PRIVILEGES = """
    SELECT name, privilege, has_any_column_privilege(to_regclass(name), privilege)
{%- if cookiecutter.auth == "supabase" %} OR coalesce(
        has_any_column_privilege(to_regrole('authenticated')::oid, to_regclass(name), privilege), false)
{%- endif %} AS may
    FROM unnest($1::text[]) AS name, unnest(ARRAY['SELECT', 'INSERT']) AS privilege
"""
# If the driver gives its statements names, this one is in its own answer.
_NAMED = (
    "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%FROM pg_prepared_statements%'"
)
_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@dataclass(frozen=True)
class Options:
    """What the command was told."""

    replicas: int | None = None
    workers: int | None = None
    surge: int | None = None
    client_limit: int | None = None
    plan: str | None = None


@dataclass
class Patient:
    """What is examined, and what is known of it by now."""

    settings: Settings
    options: Options
    stack: AsyncExitStack
    local: bool = True
    """The server is on this machine."""
    engine: AsyncEngine = field(init=False)
    connection: AsyncConnection = field(init=False)
    server: asyncpg.Record = field(init=False)
    clients: list[Client] = field(default_factory=list)
    pooler: Pooler = experiment.UNKNOWN
    product: str = "PostgreSQL"
    kept: Kept | None = None
    migrating: Client | None = None

    def make_engine(self, url: DatabaseURL, *, migrations: bool = False) -> AsyncEngine:
        """The service's own engine, with no pool and little patience."""
        given = url.connect_args.get("timeout", self.settings.database_connect_timeout)
        hasty = replace(url, connect_args=url.connect_args | {"timeout": min(given, STEP - 1)})
        changes = {
            "database_url": hasty,
            "database_migration_url": hasty,
            "database_pool": "null",
            "database_command_timeout": min(self.settings.database_command_timeout, STEP - 1),
        }
        return create_engine(self.settings.model_copy(update=changes), migrations=migrations)

    async def connect(self, engine: AsyncEngine) -> AsyncConnection:
        """A connection that is closed in the end."""
        return await self.stack.enter_async_context(engine.connect())


async def url(it: Patient) -> AsyncIterator[Finding]:
    """What DATABASE_URL says, without its password."""
    target = it.settings.database_url
    ignored = f"; without effect: {', '.join(target.ignored)}" if target.ignored else ""
    yield ok(f"{_where(target)}{ignored}", host=target.url.host, port=target.url.port)
    for variable in unknown_variables():
        yield warning(f"{variable} is set, and nothing reads it", "remove it: see .env.example")


async def host(it: Patient) -> AsyncIterator[Finding]:
    """Which kinds of address the host has."""
    name, port = it.settings.database_url.url.host or "", it.settings.database_url.url.port
    if name.startswith("/"):
        return  # a unix socket
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STEP - 1):
            answer = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        yield failure(f"no answer about {name} within {STEP - 1} s", "check this machine's DNS")
        return
    except socket.gaierror:
        return  # the login says why
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in answer))
    it.local = all(ipaddress.ip_address(address).is_loopback for address in addresses)
    ipv6 = [address for address in addresses if ":" in address]
    told = f"{name} is {', '.join(addresses)}"
    values = {"ipv4": len(addresses) - len(ipv6), "ipv6": len(ipv6)}
    advice = "take the pooler's string from the dashboard, or another host with an IPv4 address"
    if it.local or values["ipv4"]:
        yield ok(told, **values)
    elif any(map(_has_route, ipv6)):
        yield warning(f"{told}: only IPv6, which not every place has", advice, **values)
    else:
        yield failure(f"{told}: only IPv6, which this machine does not have", advice, **values)


async def tls(it: Patient) -> AsyncIterator[Finding]:
    """Whether the connection is encrypted, and whether the server has proved who it is."""
    target = it.settings.database_url
    name, context = target.url.host or "", target.connect_args.get("ssl")
    verifying = context if target.tls == "verified" else None
    shown = None
    if name.startswith("/"):
        return
    if target.tls != "disable":
        direct = target.connect_args.get("direct_tls", False)
        try:
            async with asyncio.timeout(STEP / 2):
                shown = await show(name, target.url.port or 5432, verifying, direct=direct)
        except OSError:
            return  # the login says why
    values: dict[str, Any] = {"on": shown is not None, "verified": False}
    if shown is None:
        advice = "sslmode=require, or better DATABASE_SSL_ROOT_CERT, which also verifies"
        if it.local:
            yield ok("off; nothing leaves this machine", **values)
        else:
            yield warning("off: whoever is between can read along", advice, **values)
        return
    ends = f"ends in {shown.days} days" if shown.days >= 0 else "has ended"
    told = f"certificate of {shown.issuer} for {', '.join(shown.names) or 'no name'}, {ends}"
    values["days"] = shown.days
    if verifying is None:
        advice = "DATABASE_SSL_ROOT_CERT: the CA's file, on Supabase from the database settings"
        yield warning(f"on, but nobody checks who answers; {told}", advice, **values)
    elif shown.refused:
        advice = "use a host that it is for, and the CA that signed it"
        yield failure(f"refused: {shown.refused}; {told}", advice, **values)
    else:
        values["verified"] = True
        by = "verified" if verifying.check_hostname else "verified, the host's name excepted"
        if shown.days < CERTIFICATE_DAYS:
            yield warning(f"on, {by}; {told}", "have it renewed", **values)
        else:
            yield ok(f"on, {by}; {told}", **values)


async def login(it: Patient) -> AsyncIterator[Finding]:
    """One login, as the service does it. What is refused is not sent again."""
    started = time.monotonic()
    try:
        it.engine = it.make_engine(it.settings.database_url)
        it.connection = await it.connect(it.engine)
    except SQLAlchemyError as error:
        refused = explain(error)
        if "statement pooling mode" in refused.observed:
            refused.values["mode"] = "statement"
        yield refused
        return
    it.clients.append(await Client.of(it.connection))
    it.server = await it.clients[0].row(_SERVER, list(PROVIDERS))
    milliseconds = round(1000 * (time.monotonic() - started))
    yield ok(f"accepted after {milliseconds} ms", milliseconds=milliseconds)


async def pooler(it: Patient) -> AsyncIterator[Finding]:
    """What answers, and in which mode."""
    try:
        while len(it.clients) < CLIENTS:
            it.clients.append(await Client.of(await it.connect(it.engine)))
    except SQLAlchemyError as error:
        yield explain(error)  # no place for so many
    it.pooler = await experiment.find_mode(it.clients)
    mode, backends = it.pooler.mode, it.pooler.backends
    if it.server["application"] == "Supavisor":
        it.product = "Supavisor"
    elif mode != "direct":
        it.product = "PgBouncer" if await _is_pgbouncer(it) else "a pooler"
    provider = PROVIDERS.get(it.server["provider"])
    server = f"{it.server['version']}{f' at {provider}' if provider else ''}"
    values = {"product": it.product, "mode": mode, "backends": backends, "provider": provider}
    if mode == "direct":
        yield ok(f"{server}, and no pooler before it", **values)
    elif mode == "transaction":
        met = f"{len(it.clients)} clients met {backends} backends"
        yield ok(f"{it.product} in transaction mode ({met}), before {server}", **values)
    elif mode == "session":
        told = f"{it.product} in session mode (each client keeps its backend), before {server}"
        advice = "use the transaction mode's port (Supabase: 6543), or pool_mode = transaction"
        yield warning(told, advice, **values)
    else:
        told = f"{it.product}, before {server}; in which mode can't be seen: no backend came free"
        yield warning(told, "try again when there is less to do", **values)
    if it.server["read_only"]:
        advice = "connect to the primary, or see default_transaction_read_only"
        yield failure("the server only reads", advice, read_only=True)


async def session(it: Patient) -> AsyncIterator[Finding]:
    """Whether what one client sets is there for the next."""
    if it.pooler.mode in ("direct", "session"):
        yield ok("settings of a session stay with their client", leaks=False)
        return
    if len(it.clients) == 1 or it.pooler.mode == "unknown":
        return
    try:
        it.kept = await experiment.find_kept(it.clients, it.pooler)
    except TimeoutError:
        told = "geqo_seed was set on a backend and not reset: others keep that backend busy"
        yield warning(told, "it is harmless, and goes when the pooler closes that connection")
        return
    if it.kept.setting:
        advice = "SET LOCAL and set_config(..., true) are safe; SET, LISTEN, session locks are not"
        yield ok("settings of a session are there for the next client", advice, leaks=True)
    else:
        yield ok("the pooler resets a backend after each transaction", leaks=False)


async def statements(it: Patient) -> AsyncIterator[Finding]:
    """Whether the engine names its statements, and whether such ones survive."""
    named = bool((await it.connection.execute(text(_NAMED))).all())
    await it.connection.rollback()
    survive = it.kept.statement if it.kept else it.pooler.mode in ("direct", "session") or None
    would = {True: "survive here", False: "do not survive here", None: "were not tried"}[survive]
    values = {"named": named, "survive": survive}
    advice = (
        "statement_cache_size and prepared_statement_cache_size have to be 0: database/engine.py"
    )
    if not named:
        yield ok(f"the service's have no names; named ones {would}", **values)
    elif survive:
        told = f"the service's have names, which {would} until a migration changes a type"
        yield warning(told, advice, **values)
    else:
        yield failure(f"the service's have names, which {would}", advice, **values)


async def timeouts(it: Patient) -> AsyncIterator[Finding]:
    """What the server itself limits, for this role."""
    query = "SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in _TIMEOUTS)
    values = dict(await it.clients[0].row(query))
    told = ", ".join(f"{name} {'none' if it == '0' else it}" for name, it in values.items())
    advice = ""
    if values["idle_in_transaction_session_timeout"] == "0":
        advice = (
            "against transactions that a lost client leaves open: ALTER ROLE "
            f"{it.server['current_user']} SET idle_in_transaction_session_timeout = '60s'"
        )
    yield ok(told, advice, **values)


async def trips(it: Patient) -> AsyncIterator[Finding]:
    """How long a round trip takes, to the database and back."""
    took: list[float] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(STEP / 2):
            for _ in range(ROUND_TRIPS):
                started = time.perf_counter()
                await it.clients[0].run("SELECT 1")
                took.append(1000 * (time.perf_counter() - started))
    took.sort()
    p50, p99 = took[len(took) // 2], took[math.ceil(0.99 * len(took)) - 1]
    told = (
        f"{len(took)} took {p50:.2f} ms at p50, {p99:.2f} ms at p99: a read {p50:.2f} ms (1 trip), "
        f"a write {3 * p50:.2f} ms (3 trips)"
    )
    values = {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "count": len(took)}
    if p50 > FAR:
        yield warning(
            told,
            "run the service in the database's region, or see what keeps the pooler busy",
            **values,
        )
    else:
        yield ok(told, **values)


async def budget(it: Patient) -> AsyncIterator[Finding]:
    """Whether the pools of all processes fit into what the pooler, or PostgreSQL, takes."""
    most, in_use = it.server["max_connections"], it.server["in_use"]
    yield ok(f"max_connections {most}, {in_use} in use", max_connections=most, in_use=in_use)
    if it.settings.database_pool == "null":
        told = "DATABASE_POOL=null: as many connections as requests at once"
        yield warning(told, "DATABASE_POOL=queue, unless this runs as functions")
        return
    options, mode = it.options, it.pooler.mode
    try:
        deployment = plan_deployment(
            it.settings,
            (project() or Path()) / "kubernetes",
            replicas=options.replicas,
            workers=options.workers,
            surge=options.surge,
        )
    except ValueError as error:
        yield warning(str(error), "give --replicas (and --workers, --surge)")
        return
    needed, limit, room = deployment.needed, options.client_limit, most - it.server["reserved"]
    if limit is None and options.plan and mode == "transaction":
        limit = PLANS[options.plan].clients
    if mode == "direct" or (mode == "session" and (limit or needed) >= room):
        limit = room  # each client has a backend
    values = {"needed": needed, "limit": limit}
    least = LEAST_CLIENTS.get(it.product, 0) if mode == "transaction" else 0
    if limit is None and needed < least:
        yield ok(f"{deployment}: less than the {least} that {it.product} takes at least", **values)
    elif limit is None:
        what = "its pool size, in session mode" if mode == "session" else "--plan on Supabase"
        advice = f"give --client-limit ({what})"
        yield warning(f"{deployment}; how many there may be is not known", advice, **values)
    elif needed < limit:
        yield ok(f"{deployment} of {limit}: {limit - needed} are left for others", **values)
    else:
        told = f"{deployment} of {limit}: {needed - limit + 1} too many"
        yield failure(told, deployment.advice(limit), **values)


async def role(it: Patient) -> AsyncIterator[Finding]:
    """What the login may do: what it has to, and no more."""
    user = it.server["current_user"]
{%- if cookiecutter.auth == "supabase" %}
    for [fault] in await it.clients[0].rows(FAULT):
        yield failure(fault, "see the login roles in docs/auth.md")
{%- else %}
    for may, what in (("rolsuper", "is a superuser"), ("rolbypassrls", "has BYPASSRLS")):
        if it.server[may]:
            told = f"{user} {what}: no privilege and no row-level security holds for it"
            yield warning(told, "log in as a role that may do no more than the service has to")
            break
{%- endif %}
    quoted = it.connection.dialect.identifier_preparer.format_table
    # One whose schema is named, such as Supabase's auth.users, is somebody else's.
    names = [quoted(it) for it in Base.metadata.sorted_tables if it.schema is None]
    rows = await it.clients[0].rows(_PRIVILEGES, names)
    refused = [f"{row['privilege']} on {row['name']}" for row in rows if row["may"] is False]
    missing = sorted({row["name"] for row in rows if row["may"] is None})
    if refused:
        yield failure(f"{user} may not {', '.join(refused)}", f"GRANT it to {user}")
    if missing:
        advice = "run `migrate`, or GRANT USAGE on their schema"
        yield failure(f"{user} finds no table {', '.join(missing)}", advice)
    if not refused and not missing:
        yield ok(f"{user} may read and write all tables of models", tables=len(names))


{% if cookiecutter.auth == "supabase" -%}
async def issuer(it: Patient) -> AsyncIterator[Finding]:
    """Whether callers' tokens can be verified."""
    keys = Keys(f"{it.settings.supabase_url}/auth/v1", it.settings.supabase_jwks_url)
    if found := await keys.fetch():
        names = sorted({key.algorithm_name for key in found.values()})
        yield ok(f"{len(found)} of {keys.issuer} for {', '.join(names)}", keys=len(found))
    else:
        yield failure(f"none of {keys.issuer}: {keys.failure}", "no token can be verified without")


{% endif -%}
async def migrations(it: Patient) -> AsyncIterator[Finding]:
    """Whether DATABASE_MIGRATION_URL is the same database, in a mode that is fit for it."""
    target, found, told = it.settings.database_migration_url, it.pooler, "through DATABASE_URL"
    it.migrating = it.clients[0]
    if target is not None:
        told = _where(target)
        engine = it.make_engine(target, migrations=True)
        clients = [await Client.of(await it.connect(engine)) for _ in range(2)]
        it.migrating = clients[0]
        if await it.migrating.row(_DATABASE) != await it.clients[0].row(_DATABASE):
            advice = "let both be one database of one server"
            yield failure(f"{told} is another database than DATABASE_URL's", advice, same=False)
            return
        found = await experiment.find_mode(clients)
    told += ", directly" if found.mode == "direct" else f", in {found.mode} mode"
    values = {"same": True, "mode": found.mode}
    advice = (
        "session mode (Supabase: port 5432) or PostgreSQL itself also takes what needs a session"
    )
    if not (await it.migrating.row(_MAY_CREATE))[0]:
        needs = "give it CREATE on the schema, or set DATABASE_MIGRATION_URL for `migrate`"
        level = ok if target is None else failure
        yield level(f"{told}, by a role that may create nothing", needs, **values)
    elif found.mode in ("direct", "session"):
        yield ok(told, **values)
    else:
        level = ok if target is None else warning  # it works, and was not asked for
        yield level(told, advice, **values)


async def schema(it: Patient) -> AsyncIterator[Finding]:
    """Whether the database is at the revision of this code."""
    folder = project()
    if folder is None:
        yield ok("not compared: there is no migrations/ here")
        return
    scripts = ScriptDirectory.from_config(Config(toml_file=folder / "pyproject.toml"))
    heads, known = set(scripts.get_heads()), {it.revision for it in scripts.walk_revisions()}
    client = it.migrating or it.clients[0]
    current = set()
    if (await client.row("SELECT to_regclass('alembic_version') IS NOT NULL"))[0]:
        current = {row[0] for row in await client.rows("SELECT version_num FROM alembic_version")}
    at = ", ".join(sorted(current)) or "no revision"
    if current == heads:
        yield ok(f"at head: {at}", at=at)
    elif current - known:
        advice = "deploy the version that migrated, or see `Going back` in docs/operations.md"
        yield warning(f"at {at}, which this code does not know", advice, at=at)
    else:
        yield failure(f"at {at}, not at {', '.join(sorted(heads))}", "run `migrate`", at=at)


CHECKS = (
    *(url, host, tls, login, pooler, session, statements, timeouts, trips, budget, role),
    *(migrations, schema),
{%- if cookiecutter.auth == "supabase" %}
    issuer,
{%- endif %}
)


async def examine(settings: Settings, options: Options, started: float) -> list[Finding]:
    """All checks, one after the other, in little time."""
    found: list[Finding] = []
    stack = AsyncExitStack()
    it = Patient(settings, options, stack)
    try:
        async with asyncio.timeout(LIMIT - (time.monotonic() - started)):
            for check in CHECKS:
                _tell(check.__name__)
                found += await _examine(check, it)
                if check is host and found[-1].level == "failure":
                    break
                if check in CHECKS[CHECKS.index(login) :] and not (
                    it.clients and it.clients[0].usable
                ):
                    break
    except TimeoutError:
        told = f"no more was found out within {LIMIT} s, while it was at: {check.__name__}"
        found.append(Finding(check="doctor", level="failure", observed=told))
    finally:
        with suppress(Exception):
            async with asyncio.timeout(2):
                await stack.aclose()
    return found


async def _examine(
    check: Callable[[Patient], AsyncIterator[Finding]], it: Patient
) -> list[Finding]:
    found = []
    try:
        async with asyncio.timeout(STEP):
            async for finding in check(it):
                found.append(finding)
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        found.append(explain(error))
    except Exception as error:  # noqa: BLE001  the other checks go on
        # Not what it says, which may be a secret.
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = f"not examined: {type(error).__name__} at {place.filename}:{place.lineno}"
        found.append(failure(told, "mend what it reads there, or else the check itself"))
    for finding in found:
        finding.check = check.__name__
    return found


def report(options: Options, started: float) -> Report:
    """What was found, be it that the environment can't be used."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        told = str(error.code).splitlines()
        found = [failure(it.strip(), "see .env.example") for it in told[1:] or told]
        for it in found:
            it.check = "settings"
    else:
        # Not asyncio.run(), which waits for the thread in which a resolver hangs.
        with closing(asyncio.new_event_loop()) as loop:
            found = loop.run_until_complete(examine(settings, options, started))
        _tell("")
    level = max((it.level for it in found), key=LEVELS.index)
    seconds = round(time.monotonic() - started, 1)
    return Report(level=level, seconds=seconds, findings=found)


def run(options: Options, *, as_json: bool, started: float) -> NoReturn:
    """Examine, print what was found, and end with the code that says how bad it is.

    `started`: the `time.monotonic()` from which on time counts.
    """
    if options.plan is not None and options.plan not in PLANS:
        raise typer.BadParameter(f"--plan is one of {', '.join(PLANS)}")
    found = report(options, started)
    for line in [found.model_dump_json(indent=2)] if as_json else lines(found):
        typer.echo(line)
    sys.stdout.flush()
    os._exit(LEVELS.index(found.level))  # sys.exit() waits for that thread, too


def _tell(check: str) -> None:
    """What it is at, for who waits at a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{f'{check} ...' if check else ''}", err=True, nl=False)


def _where(target: DatabaseURL) -> str:
    it = target.url
    return f"{it.username or ''}@{it.host}:{it.port}/{it.database or ''}"


def _has_route(address: str) -> bool:
    """Whether this machine could send anything there. Nothing is sent."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
    return True


async def _is_pgbouncer(it: Patient) -> bool:
    """It refuses a parameter that it does not know, before the login; Supavisor drops it."""
    target = it.settings.database_url
    given = target.url.translate_connect_args(username="user") | target.connect_args
    # Not by an engine: a refusal counts, and nobody here could log in for a while.
    probe = {"server_settings": {"examined.by": "doctor"}, "timeout": STEP - 1}
    try:
        connection = await asyncpg.connect(**given | probe)
    except asyncpg.PostgresError as error:
        return "unsupported startup parameter" in str(error)
    await connection.close()
    return False
