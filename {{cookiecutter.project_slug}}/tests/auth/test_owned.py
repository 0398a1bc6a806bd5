"""What the tables of owners need, whichever revision makes them. (`owner_only()` itself is the template's.)"""

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.caller import CALLER_ID

from migrations.owned import CALLER_ID as IN_REVISIONS
from tests.support import Database, connect


def test_who_is_asking_is_the_same_in_revisions() -> None:
    """They have it by themselves. Where another one is wanted, a new revision alters each policy and
    each default, and has a text of its own."""
    assert IN_REVISIONS == CALLER_ID


async def test_no_table_of_owners_is_open(database: Database) -> None:
    """A revision that forgets `owner_only()` would show every row to whoever may read the table, and so
    would a policy that is not about owners. (A restrictive one may be: it takes away.)"""
    owned = [
        it.name for it in Base.metadata.tables.values() if it.schema is None and "owner_id" in it.c
    ]
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relname = ANY ($2)"
        " AND relrowsecurity AND relforcerowsecurity AND NOT EXISTS"
        " (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polpermissive"
        " AND (polroles = '{0}'"  # PUBLIC
        " OR $3 <> ANY (ARRAY[pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)])))"
    )
    async with connect(database.url) as connection:
        await connection.execute(
            "CREATE TEMP TABLE test_owned (owner_id uuid);"
            f"CREATE POLICY own ON test_owned USING (owner_id = (SELECT {CALLER_ID}))"
        )
        printed = await connection.fetchval(
            "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
            " WHERE polrelid = 'test_owned'::regclass"
        )
        closed = await connection.fetch(query, database.schema or "public", owned, printed)
    open_ = set(owned) - {row["relname"] for row in closed}
    assert not open_, f"the revision that creates {open_} has to call migrations.owned.owner_only()"
