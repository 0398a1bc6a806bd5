"""`doctor`: what the login is, what it may do, and what it finds in the database."""

import math
import time
from collections.abc import AsyncIterator

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
from {{ cookiecutter.package_name }}.cli import project
from {{ cookiecutter.package_name }}.database.base import Base
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.database.caller import FAULT
{%- endif %}
from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import STEP, Patient
from {{ cookiecutter.package_name }}.observe.pooler import PROVIDERS, find_mode

_ROUND_TRIPS = 50
_FAR = 25  # ms of a round trip: more than between two data centres of a region

_SERVER = """
    SELECT split_part(version(), ' on ', 1) AS version, current_user, rolsuper, rolbypassrls,
        current_setting('application_name') AS application,
        current_setting('transaction_read_only') = 'on' AS read_only,
        (SELECT min(rolname)::text FROM pg_roles WHERE rolname = ANY ($1::text[])) AS provider
    FROM pg_roles WHERE rolname = current_user
"""
_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
_MAY = """
    SELECT name, privilege, bool_or(has_any_column_privilege(pg_roles.oid, to_regclass(name), privilege)) AS may
    FROM unnest($1::text[]) AS name, unnest(ARRAY['SELECT', 'INSERT']) AS privilege, pg_roles
    WHERE rolname IN (current_user{{ ", 'authenticated'" if cookiecutter.auth == "supabase" }})
    GROUP BY name, privilege ORDER BY name, privilege DESC
"""
_DATABASE = "SELECT current_database(), pg_postmaster_start_time()"


async def login(it: Patient) -> AsyncIterator[Finding]:
    """One login, as the service does it. What is refused is not sent again."""
    started = time.monotonic()
    it.engine = it.make_engine(it.settings.database_url)
    try:
        it.clients.append(await it.connect(it.engine))
    except SQLAlchemyError as error:
        refused = explain(error)
        if "statement pooling mode" in refused.observed:
            refused.values["mode"] = "statement"
        yield refused
        return
    it.server = await it.clients[0].row(_SERVER, list(PROVIDERS))
    milliseconds = round(1000 * (time.monotonic() - started))
    yield ok(f"accepted after {milliseconds} ms", milliseconds=milliseconds)
    if it.server["read_only"]:
        advice = "connect to the primary, or see default_transaction_read_only"
        yield failure("the server only reads", advice, read_only=True)


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
    while len(took) < _ROUND_TRIPS and sum(took) < 1000 * STEP / 2:
        started = time.perf_counter()
        await it.clients[0].run("SELECT 1")
        took.append(1000 * (time.perf_counter() - started))
    took.sort()
    p50, p99 = (took[math.ceil(share * len(took)) - 1] for share in (0.5, 0.99))
    told = (
        f"{len(took)} took {p50:.2f} ms at p50, {p99:.2f} ms at p99: a read {p50:.2f} ms (1 trip), "
        f"a write {3 * p50:.2f} ms (3 trips)"
    )
    values = {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "count": len(took)}
    if p50 > _FAR:
        advice = "run the service in the database's region, or see what keeps the pooler busy"
        yield warning(told, advice, **values)
    else:
        yield ok(told, **values)


async def role(it: Patient) -> AsyncIterator[Finding]:
    """What the login may do: what it has to, and no more."""
    user = it.server["current_user"]
{%- if cookiecutter.auth == "supabase" %}
    for [fault] in await it.clients[0].rows(FAULT):
        yield failure(fault, "see the login roles in docs/auth.md")
{%- else %}
    if it.server["rolsuper"] or it.server["rolbypassrls"]:
        what = "is a superuser" if it.server["rolsuper"] else "has BYPASSRLS"
        told = f"{user} {what}: no privilege and no row-level security holds for it"
        yield warning(told, "log in as a role that may do no more than the service has to")
{%- endif %}
    quoted = it.engine.dialect.identifier_preparer.format_table
    # One whose schema is named, such as Supabase's auth.users, is somebody else's.
    names = [quoted(it) for it in Base.metadata.sorted_tables if it.schema is None]
    rows = await it.clients[0].rows(_MAY, names)
    refused = [f"{row['privilege']} on {row['name']}" for row in rows if row["may"] is False]
    missing = sorted({row["name"] for row in rows if row["may"] is None})
    if refused:
        yield failure(f"{user} may not {', '.join(refused)}", f"GRANT it to {user}")
    if missing:
        advice = "run `migrate`, or GRANT USAGE on their schema"
        yield failure(f"{user} finds no table {', '.join(missing)}", advice)
    if not refused and not missing:
        yield ok(f"{user} may read and write all tables of models", tables=len(names))


async def migrations(it: Patient) -> AsyncIterator[Finding]:
    """Whether DATABASE_MIGRATION_URL is the same database, in a mode that is fit for it."""
    target, mode, told = it.settings.database_migration_url, it.mode, "through DATABASE_URL"
    it.migrating = it.clients[0]
    if target is not None:
        told = str(target)
        engine = it.make_engine(target)
        clients = [await it.connect(engine) for _ in range(2)]
        it.migrating = clients[0]
        if await it.migrating.row(_DATABASE) != await it.clients[0].row(_DATABASE):
            advice = "let both be one database of one server"
            yield failure(f"{told} is another database than DATABASE_URL's", advice, same=False)
            return
        mode, _ = await find_mode(clients)
    told += ", directly" if mode == "direct" else f", in {mode} mode"
    values = {"same": True, "mode": mode}
    if mode in ("direct", "session"):
        yield ok(told, **values)
    else:
        advice = "session mode (Supabase: port 5432) or PostgreSQL itself also takes what needs a session"
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
