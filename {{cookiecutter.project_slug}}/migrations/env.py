"""How Alembic connects: through the service's own engine, on DATABASE_MIGRATION_URL."""

import asyncio

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text

import {{ cookiecutter.package_name }}.main  # noqa: F401  imports every feature, and so every model
from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.settings import load_settings

LOCK = "{{ cookiecutter.package_name }} migrations"

# `-x schema=NAME` works in that schema instead of `public`: the tests do, next to other data.
schema = context.get_x_argument(as_dictionary=True).get("schema")


def migrate(connection: Connection) -> None:
    if schema is not None:
        connection.dialect.default_schema_name = schema
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        # Several replicas may start at once: one migrates, the others wait and find nothing to do.
        # The lock belongs to the transaction. One that belonged to the session would stay behind
        # on the pooler's server connection, and two clients could hold it at once. (A revision
        # with an autocommit_block() ends the transaction: let one process migrate then.)
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": LOCK})
        if schema is not None:
            connection.execute(text("SELECT set_config('search_path', :it, true)"), {"it": schema})
        context.run_migrations()


async def online() -> None:
    engine = create_engine(load_settings(), migrations=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def offline() -> None:
    if schema is not None:
        raise CommandError("-x schema needs a connection: it has no effect on SQL that is printed")
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
