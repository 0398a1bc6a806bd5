"""How Alembic connects: through the service's own engine, on DATABASE_MIGRATION_URL."""

import asyncio
import logging
import re
import time
from typing import Any

import asyncpg
from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.settings import load_settings

{% if cookiecutter.__supabase -%}
from migrations.data_api import keep_closed
{% endif -%}
from migrations.login import find_login, let_login_in

SERVICE = "{{ cookiecutter.package_name }}"
LOCK = f"{SERVICE} migrations"

log = logging.getLogger("alembic.env")

# What to do, where the words of Alembic and PostgreSQL do not say it.
CURES = {
    "Can't locate revision": (
        "The database was migrated by a revision that migrations/versions does not have, of a newer "
        "version or of another branch. If it is that of `poe dev`, you may delete .devstack/."
    ),
    "Multiple head": (
        "Two branches have added a revision each: `uv run alembic merge heads -m merge` joins them."
    ),
    "Target database is not up to date": "First `{{ cookiecutter.project_slug }} migrate`.",
    "Online migration expected to match": "Another process has migrated meanwhile: start again.",
    r'type "\S+" (already exists|does not exist)|enum label|unsafe use of new value': (
        "A type is created, changed and dropped by hand: see Revisions in CONTRIBUTING.md."
    ),
    "lock timeout": "A transaction holds a lock on it, which pg_locks shows. Start again later.",
    "contains null values": (
        "The table has rows: give the column a server_default, or fill it before it is NOT NULL."
    ),
}

# `-x schema=NAME` works in that schema instead of `public`: the tests do, next to other data.
schema = context.get_x_argument(as_dictionary=True).get("schema")


class Postgresql(PostgresqlImpl):
    """Alembic has PostgreSQL compare two defaults, which fails for `json` and with a quote in one, and
    says nothing where both are NULL now. What can't be compared counts as the same here, and not in the
    tests."""

    __dialect__ = "postgresql"

    def compare_server_default(self, *details: Any) -> bool:
        assert self.connection
        try:
            with self.connection.begin_nested():
                it: bool = super().compare_server_default(*details)  # type: ignore[no-untyped-call]
                there, wanted = details[3], details[2]
                if it and there and wanted:
                    it = self.connection.scalar(text(f"SELECT ({there}) IS NOT NULL")) is True
                return it
        except DBAPIError:
            return False


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Leave alone a table that no model has: it is an extension's, or somebody else's."""
    return kind != "table" or name in Base.metadata.tables


def is_compared(it: Any, name: Any, kind: str, reflected: bool, other: object) -> bool:
    """Leave alone a table whose schema is named, such as Supabase's `auth.users`, for a foreign key."""
    if kind == "check_constraint":
        return len(name) < 60  # longer ones are cut in the database, and compared by the tests
    return kind != "table" or it.schema is None


def leave_out_nothing(context: Any, revision: Any, directives: list[Any]) -> None:
    """Write no revision without a change, and say so."""
    asked = getattr(context.config.cmd_opts, "autogenerate", False)
    if asked and directives[0].upgrade_ops.is_empty():
        directives.clear()
        log.warning(
            "No revision was written: the database is what the models say. If a model is new, does "
            "main.py include its routes? CONTRIBUTING.md says which changes are not seen."
        )


def search_schema(connection: Connection) -> None:
    """In each transaction, since an autocommit_block() ends one and begins another."""
    cursor = connection.connection.cursor()
    cursor.execute("SELECT set_config('search_path', $1, true)", [schema])


def sign(ctx: MigrationContext, *_: object, **__: object) -> None:
    """With each revision, for `refuse_anothers`."""
    assert ctx.connection
    ctx.connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{SERVICE}'"))


def refuse_anothers(connection: Connection) -> None:
    """Two services would count their revisions, each 0001 and so on, in one table: to the second there
    would be nothing to do, without its tables."""
    signed = text("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")
    if (service := connection.scalar(signed)) not in (None, SERVICE):
        raise CommandError(
            f"{service} has migrated this database: {SERVICE} needs a database, or a project, of its "
            "own. (If the two are one service, which has a new name: COMMENT ON TABLE alembic_version "
            "IS NULL.)"
        )


def migrate(connection: Connection, user: str | None) -> None:
    if schema is not None:
        connection.dialect.default_schema_name = schema
        # For an autocommit_block(), where no setting lasts.
        connection.execution_options(schema_translate_map={None: schema})
        event.listen(connection, "begin", search_schema)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=is_ours,
        include_object=is_compared,
        compare_server_default=True,
        on_version_apply=sign,
        process_revision_directives=leave_out_nothing,
        # By name: not what a constraint says.
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    )
    with context.begin_transaction():
        # Several replicas may start at once: one migrates, the others wait and find nothing to do.
        # The lock belongs to the transaction. One that belonged to the session would stay behind
        # on the pooler's server connection, and two clients could hold it at once. (A revision
        # with an autocommit_block() ends the transaction: let one process migrate then.)
        lock = text("SELECT pg_try_advisory_xact_lock(hashtext(:name))").bindparams(name=LOCK)
        if not connection.scalar(lock):
            log.warning("Another process migrates this database: waiting for it.")
            # A statement that waits would hold up a CREATE INDEX CONCURRENTLY of the other's.
            while not connection.scalar(lock):
                time.sleep(0.2)
        refuse_anothers(connection)
{%- if cookiecutter.__supabase %}
        keep_closed(context.get_context())
{%- endif %}
        options = context.get_context().opts
        login = options["login"] = find_login(connection, user)
        context.run_migrations()
        if login and "destination_rev" in options:  # and not for a command that only looks
            let_login_in(connection, login)
    # What follows a commit of a revision's own is in a transaction that Alembic does not know of.
    connection.commit()


async def online() -> None:
    # For the command `alembic`; `migrate` has its own format.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("runtime.plugins", "util.messaging"):  # noise, and what is printed already
        logging.getLogger(f"alembic.{name}").setLevel(logging.CRITICAL)
    settings = load_settings()
    engine = create_engine(settings, migrations=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate, settings.database_url.url.username)
    except (CommandError, DBAPIError) as error:
        words = without_rows(error) if isinstance(error, DBAPIError) else str(error)
        cures = [cure for pattern, cure in CURES.items() if re.search(pattern, words)]
        where = f"(Database {engine.url.database} on {engine.url.host}:{engine.url.port}.)"
        raise CommandError("\n".join([words, *cures, where])) from error
    finally:
        await engine.dispose()


def without_rows(error: DBAPIError) -> str:
    """What the server said, and its hint. What may quote a row is left out: it ends in logs."""
    answer: Any = error.driver_exception
    if not isinstance(answer, asyncpg.PostgresError):
        return str(error)
    if answer.sqlstate[:2] not in ("0A", "2B", "42"):  # where it names what depends on what
        answer.detail = None
    only_names = answer.sqlstate.startswith("23") and answer.table_name
    if classify(error) in (Failure.INVALID, Failure.CONFLICT) and not only_names:
        answer.args = ("a value does not suit",)
    return f"{answer}\n(SQLSTATE {answer.sqlstate}) {(error.statement or '').strip()}"


def offline() -> None:
    if schema is not None:
        raise CommandError("-x schema needs a connection: it has no effect on SQL that is printed")
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
{%- if cookiecutter.__supabase %}
        keep_closed(context.get_context())
{%- endif %}
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
