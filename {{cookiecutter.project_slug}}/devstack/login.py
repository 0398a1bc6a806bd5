"""The role that the service logs in as, in `dev` and in the tests: one that may no more than production's."""

import asyncio
from urllib.parse import urlsplit, urlunsplit

import asyncpg

# What it may do with which table, `migrate` says. The password is the superuser's, which is kept. NOINHERIT
# before it becomes a member: PostgreSQL notes with a membership whether it is inherited.
MAKE = """
DO $$ BEGIN
    IF to_regrole('service') IS NULL THEN
        CREATE ROLE service;
    END IF;
{%- if cookiecutter.auth == "supabase" %}
    IF to_regrole('authenticated') IS NULL THEN
        CREATE ROLE authenticated NOLOGIN NOINHERIT;
    END IF;
{%- endif %}
END $$;
ALTER ROLE service LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS PASSWORD '{password}';
{%- if cookiecutter.auth == "supabase" %}
GRANT authenticated TO service;
{%- endif %}
"""


def make_login(url: str) -> str:
    """Make the role, or make it again what it has to be, on the PostgreSQL at `url`, a superuser's; its URL."""
    target = urlsplit(url)

    async def make() -> None:
        connection = await asyncpg.connect(url, ssl=False)
        try:
            await connection.execute(MAKE.format(password=target.password))
        finally:
            await connection.close()

    asyncio.run(make())
    where = target.netloc.rpartition("@")[2]
    return urlunsplit(target._replace(netloc=f"service:{target.password}@{where}"))
