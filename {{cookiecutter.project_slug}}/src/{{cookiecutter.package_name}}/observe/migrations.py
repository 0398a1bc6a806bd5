"""`doctor`: where migrations go, and which have run."""

from collections.abc import AsyncIterator

from alembic.config import Config
from alembic.script import ScriptDirectory

from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import Patient
from {{ cookiecutter.package_name }}.observe.pooler import find_mode

_DATABASE = "SELECT current_database(), pg_postmaster_start_time()"


async def migrations(patient: Patient) -> AsyncIterator[Finding]:
    """Whether DATABASE_MIGRATION_URL is the same database, in a mode that is fit for it."""
    target, mode = patient.settings.database_migration_url, patient.mode
    told = "through DATABASE_URL"
    patient.migrating = patient.clients[0]
    if target is not None:
        told = str(target)
        engine = patient.make_engine(target)
        clients = [await patient.connect(engine) for _ in range(2)]
        patient.migrating = clients[0]
        if await patient.migrating.row(_DATABASE) != await patient.clients[0].row(_DATABASE):
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


async def schema(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the database is at the revision of this code."""
    folder = patient.options.project
    if folder is None:
        yield ok("not compared: there is no migrations/ here")
        return
    scripts = ScriptDirectory.from_config(Config(toml_file=folder / "pyproject.toml"))
    heads, known = set(scripts.get_heads()), {it.revision for it in scripts.walk_revisions()}
    client = patient.migrating or patient.clients[0]
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
