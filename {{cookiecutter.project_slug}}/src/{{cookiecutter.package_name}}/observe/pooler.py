"""`doctor`: what answers, and in which mode: by experiment, since a port's number proves nothing."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from uuid import uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import STEP, Client, Patient

# Seconds that a transaction may wait for a backend before the pool counts as full.
PATIENCE = 1

_CLIENTS = 4  # at once: enough to see somebody moved, and few enough for any pool

# A role that only one provider's servers have.
PROVIDERS = {
    "azure_pg_admin": "Azure",
    "cloudsqlsuperuser": "Google Cloud SQL",
    "neon_superuser": "Neon",
    "rds_superuser": "Amazon RDS",
    "supabase_admin": "Supabase",
}


async def pooler(patient: Patient) -> AsyncIterator[Finding]:
    """What answers, and in which mode."""
    try:
        while len(patient.clients) < _CLIENTS:
            patient.clients.append(await patient.connect(patient.engine))
    except SQLAlchemyError as error:
        yield explain(error)  # no place for so many
    patient.mode, patient.backends = await find_mode(patient.clients)
    if patient.server["application"] == "Supavisor":
        patient.product = "Supavisor"
    elif patient.mode != "direct":
        patient.product = "PgBouncer" if await _is_pgbouncer(patient) else "a pooler"
    provider = PROVIDERS.get(patient.server["provider"])
    server = patient.server["version"] + (f" at {provider}" if provider else "")
    values = {
        "product": patient.product,
        "mode": patient.mode,
        "backends": patient.backends,
        "provider": provider,
    }
    if patient.mode == "direct":
        yield ok(f"{server}, and no pooler before it", **values)
    elif patient.mode == "transaction":
        met = f"{len(patient.clients)} clients met {patient.backends} backends"
        yield ok(f"{patient.product} in transaction mode ({met}), before {server}", **values)
    elif patient.mode == "session":
        told = f"{patient.product} in session mode (each client keeps its backend), before {server}"
        advice = "use the transaction mode's port (Supabase: 6543), or pool_mode = transaction"
        yield warning(told, advice, **values)
    else:
        told = f"{patient.product}, before {server}; its mode can't be seen: no backend came free"
        yield warning(told, "try again when there is less to do", **values)


async def session(patient: Patient) -> AsyncIterator[Finding]:
    """Whether what one client sets is there for the next."""
    if patient.mode in ("direct", "session"):
        patient.survive = True
        yield ok("settings of a session stay with their client", leaks=False)
        return
    if len(patient.clients) == 1 or patient.mode == "unknown":
        return
    try:
        leaks, patient.survive = await _find_kept(patient.clients, patient.backends)
    except TimeoutError:
        await patient.roll_back()
        told = "geqo_seed and a prepared statement are left on a backend, which others keep busy"
        yield warning(told, "both are harmless, and go when the pooler closes that connection")
        return
    if leaks:
        advice = "SET LOCAL and set_config(..., true) are safe; SET, LISTEN, session locks are not"
        yield ok("settings of a session are there for the next client", advice, leaks=True)
    else:
        yield ok("the pooler resets a backend after each transaction", leaks=False)


async def statements(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the engine names its statements, and whether such ones survive."""
    own = uuid4().hex  # not what another's driver has left there
    query = f"SELECT name FROM pg_prepared_statements WHERE statement LIKE '%{own}%'"
    connection = patient.clients[0].connection
    named = bool((await connection.execute(text(query))).all())
    await connection.rollback()
    survive = patient.survive
    told = {True: "survive here", False: "do not survive here", None: "were not tried"}[survive]
    values = {"named": named, "survive": survive}
    advice = (
        "statement_cache_size and prepared_statement_cache_size have to be 0: database/engine.py"
    )
    if not named:
        yield ok(f"the service's have no names; named ones {told}", **values)
    elif survive:
        told += " until a migration changes a type"
        yield warning(f"the service's have names, which {told}", advice, **values)
    else:
        yield failure(f"the service's have names, which {told}", advice, **values)


async def find_mode(clients: Sequence[Client]) -> tuple[str, int]:
    """`direct`, `session`, `transaction` or `unknown`, and how many backends were met.

    They hold transactions, all at once, to see who is served by which backend, turn after turn. In
    session mode each keeps its own. Otherwise a pooler hands out the backend that was used last, or the
    one that was used the longest ago: in the second turn or in the third somebody is moved.
    """
    met: dict[Client, set[int]] = {it: set() for it in clients}
    for begins in (0, 1, 1):
        full = await _turn([*clients[begins:], *clients[:begins]], met)
        pids = [pid for seen in met.values() for pid in seen]
        backends = len(set(pids))
        if len(pids) > backends or any(len(seen) > 1 for seen in met.values()):
            return "transaction", backends  # two had the same, or one was moved
        if full:
            return full, backends
    if all(seen == {it.key} for it, seen in met.items()):
        return "direct", backends
    return "session" if backends > 1 else "unknown", backends


async def _turn(order: list[Client], met: dict[Client, set[int]]) -> str | None:
    """Let each hold a transaction. If one waits for ever: what that says of the mode."""
    holding: list[Client] = []
    for client in order:
        hold = asyncio.create_task(client.hold())
        await asyncio.wait([hold], timeout=PATIENCE)
        if not hold.done():
            break
        met[client].add(hold.result())
        holding.append(client)
    for it in holding:
        await it.run("ROLLBACK")
    if len(holding) == len(order):
        return None
    # The pool is smaller than this, or others need it too. A backend is free now, unless it is kept for
    # whoever had it.
    await asyncio.wait([hold], timeout=PATIENCE)
    if hold.done():
        met[client].add(hold.result())
        await client.run("ROLLBACK")
        return None
    hold.cancel()
    client.driver.terminate()  # or closing it would wait for an answer
    for it in holding[:1]:
        met[it].add(await asyncio.wait_for(it.hold(), PATIENCE))
        await it.run("ROLLBACK")
        return "session" if len(met[it]) == 1 else None
    return "unknown"


async def _find_kept(clients: Sequence[Client], backends: int) -> tuple[bool, bool | None]:
    """Whether a setting is on a backend for the next client, and whether a named statement can be run on
    another backend (None: there is no other).

    They are left on a backend, looked at, and taken away by a client that is brought there. `geqo_seed`
    is of no consequence: it has a say in the plans of joins of twelve tables.

    Raises:
        TimeoutError: none came there any more, so both stay.
    """
    one, *others = clients
    # Not another doctor's, who may be at it or have left them.
    name, value = f"doctor_{uuid4().hex}", round(random.uniform(0.1, 0.9), 4)
    pid = await one.hold()
    statement = await one.prepare("SELECT 1", name)
    await one.row("SELECT set_config('geqo_seed', $1, false)", str(value))
    await one.run("COMMIT")
    there = await _bring_to(pid, others)
    try:
        leaks = float((await there.row("SELECT current_setting('geqo_seed')"))[0]) == value
        survives = None
        if backends > 1:
            await one.hold()  # on another backend
            survives = False
            with suppress(asyncpg.InvalidSQLStatementNameError):
                await statement.fetch()
                survives = True
            await one.run("ROLLBACK")
        return leaks, survives
    finally:
        await there.run("RESET geqo_seed")
        mine = "SELECT FROM pg_prepared_statements WHERE name = $1"
        if await there.rows(mine, name):
            await there.rows(f"DEALLOCATE {name}")
        await there.run("COMMIT")


async def _bring_to(pid: int, clients: Sequence[Client]) -> Client:
    """One whose transaction is on that backend."""
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            holding: list[Client] = []
            try:
                for client in clients:
                    if await client.hold() == pid:
                        return client
                    holding.append(client)
            finally:
                for it in holding:
                    await it.run("ROLLBACK")


async def _is_pgbouncer(patient: Patient) -> bool:
    """It refuses a parameter that it does not know, before the login; Supavisor drops it."""
    target = patient.settings.database_url
    given = target.url.translate_connect_args(username="user") | target.connect_args
    # Not by an engine: a refusal counts, and nobody here could log in for a while.
    probe = {"server_settings": {"examined.by": "doctor"}, "timeout": STEP - 1}
    try:
        connection = await asyncpg.connect(**given | probe)
    except asyncpg.PostgresError as error:
        return "unsupported startup parameter" in str(error)
    await connection.close()
    return False
