"""What revisions of tables share whose rows are seen by their owner only.

They have run somewhere, so what is here stays as it is: what a new revision needs goes beside it.
"""

from alembic import op

# Who is asking, as database/caller.py has it. By itself: with another one there, revisions that have run
# would say what they did not do.
CALLER_ID = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"

# The role of every caller. It is Supabase's own; elsewhere it is made, by whoever is first: it is the
# server's, not the database's. WITH INHERIT FALSE: a transaction that knows no caller has no rights of
# a caller's (before PostgreSQL 16 the login's own NOINHERIT says so).
LET_CALLERS_IN = """
DO $$
DECLARE
    version int := current_setting('server_version_num');
    may text := CASE WHEN version < 160000 THEN 'MEMBER' ELSE 'SET' END;
    make text := 'CREATE ROLE authenticated NOLOGIN NOINHERIT';
    join_it text := concat(
        'GRANT authenticated TO ', quote_ident(current_user),
        CASE WHEN version >= 160000 THEN ' WITH SET TRUE, INHERIT FALSE' END
    );
    use_it text := concat(
        'GRANT USAGE ON SCHEMA ', quote_ident(current_schema()), ' TO authenticated'
    );
    needed text;
BEGIN
    IF to_regrole('authenticated') IS NULL THEN
        needed := concat(make, '; ', join_it);
        BEGIN
            EXECUTE make;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- by a migration of another database, at the same time
        END;
    END IF;
    IF NOT pg_has_role('authenticated', may) THEN
        needed := join_it;
        EXECUTE join_it;
    END IF;
    needed := use_it;
    EXECUTE use_it;
    IF NOT has_schema_privilege('authenticated', current_schema(), 'USAGE') THEN
        RAISE insufficient_privilege USING MESSAGE = 'it may not grant the use of this schema';
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE insufficient_privilege USING
        MESSAGE = concat(quote_ident(current_user), ' can not let callers in: ', SQLERRM),
        HINT = concat('An administrator has to run: ', needed, ';');
END $$
"""

# What Supabase grants by default. TRUNCATE asks no policy.
TAKE_AWAY = """
DO $$ BEGIN
    REVOKE ALL ON {table} FROM PUBLIC, authenticated;
    IF to_regrole('anon') IS NOT NULL THEN
        REVOKE ALL ON {table} FROM anon;
    END IF;
END $$
"""


def owner_only(table: str, *, writable: str) -> None:
    """Show a table's rows to their owner only, who may read and delete them, and write the columns
    `writable`: `"title, text"`. The table has `owner_id`, whose default is the caller."""
    owned = f"owner_id = (SELECT {CALLER_ID})"  # SELECT: asked once, not for each row
    op.execute(LET_CALLERS_IN)
    op.execute(TAKE_AWAY.format(table=table))
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")  # for the table's owner too
    op.execute(
        f"CREATE POLICY {table}_owner ON {table} TO authenticated "
        f"USING ({owned}) WITH CHECK ({owned})"
    )
    op.execute(f"GRANT SELECT, DELETE ON {table} TO authenticated")
    let_write(table, writable)


def let_write(table: str, columns: str) -> None:
    """Let callers write these columns of their rows: `"title, text"`. For columns that come later, too."""
    op.execute(f"GRANT INSERT ({columns}), UPDATE ({columns}) ON {table} TO authenticated")
