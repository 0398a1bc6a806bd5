"""`doctor`: what the login is, what it may do, and how far away the server is."""

import math
import time
from collections.abc import AsyncIterator

from sqlalchemy.exc import SQLAlchemyError

from {{ cookiecutter.package_name }}.database.base import Base
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.database.caller import FAULT
{%- endif %}
from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import STEP, Patient
from {{ cookiecutter.package_name }}.observe.pooler import PROVIDERS

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


async def login(patient: Patient) -> AsyncIterator[Finding]:
    """One login, as the service does it. What is refused is not sent again."""
    started = time.monotonic()
    patient.engine = patient.make_engine(patient.settings.database_url)
    try:
        patient.clients.append(await patient.connect(patient.engine))
    except SQLAlchemyError as error:
        refused = explain(error)
        if "statement pooling mode" in refused.observed:
            refused.values["mode"] = "statement"
        yield refused
        return
    patient.server = await patient.clients[0].row(_SERVER, list(PROVIDERS))
    milliseconds = round(1000 * (time.monotonic() - started))
    yield ok(f"accepted after {milliseconds} ms", milliseconds=milliseconds)
    if patient.server["read_only"]:
        advice = "connect to the primary, or see default_transaction_read_only"
        yield failure("the server only reads", advice, read_only=True)


async def timeouts(patient: Patient) -> AsyncIterator[Finding]:
    """What the server itself limits, for this role."""
    query = "SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in _TIMEOUTS)
    values = dict(await patient.clients[0].row(query))
    told = ", ".join(f"{name} {'none' if it == '0' else it}" for name, it in values.items())
    advice = ""
    if values["idle_in_transaction_session_timeout"] == "0":
        advice = (
            "against transactions that a lost client leaves open: ALTER ROLE "
            f"{patient.server['current_user']} SET idle_in_transaction_session_timeout = '60s'"
        )
    yield ok(told, advice, **values)


async def trips(patient: Patient) -> AsyncIterator[Finding]:
    """How long a round trip takes, to the database and back."""
    took: list[float] = []
    while len(took) < _ROUND_TRIPS and sum(took) < 1000 * STEP / 2:
        started = time.perf_counter()
        await patient.clients[0].run("SELECT 1")
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


async def role(patient: Patient) -> AsyncIterator[Finding]:
    """What the login may do: what it has to, and no more."""
    user = patient.server["current_user"]
{%- if cookiecutter.auth == "supabase" %}
    for [fault] in await patient.clients[0].rows(FAULT):
        yield failure(fault, "see the login roles in docs/auth.md")
{%- else %}
    if patient.server["rolsuper"] or patient.server["rolbypassrls"]:
        what = "is a superuser" if patient.server["rolsuper"] else "has BYPASSRLS"
        told = f"{user} {what}: no privilege and no row-level security holds for it"
        yield warning(told, "log in as a role that may do no more than the service has to")
{%- endif %}
    quoted = patient.engine.dialect.identifier_preparer.format_table
    # One whose schema is named, such as Supabase's auth.users, is somebody else's.
    names = [quoted(it) for it in Base.metadata.sorted_tables if it.schema is None]
    rows = await patient.clients[0].rows(_MAY, names)
    refused = [f"{row['privilege']} on {row['name']}" for row in rows if row["may"] is False]
    missing = sorted({row["name"] for row in rows if row["may"] is None})
    if refused:
        told = f"{user} may not {', '.join(refused)}"
        yield failure(told, f"run `migrate`, or GRANT it to {user}")
    if missing:
        advice = "write their revision, run `migrate`, or GRANT USAGE on their schema"
        yield failure(f"{user} finds no table {', '.join(missing)}", advice)
    if not refused and not missing:
        yield ok(f"{user} may read and write all tables of models", tables=len(names))
