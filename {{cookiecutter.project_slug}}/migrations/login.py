"""Let the service use its tables, where it logs in as another role than the one that migrates."""

import logging

from alembic import op
from sqlalchemy import Connection, text

from {{ cookiecutter.package_name }}.database.base import Base

log = logging.getLogger("alembic.env")

_ROLE = text("""
    SELECT rolname FROM pg_roles WHERE rolname = ANY (:roles)
    ORDER BY length(rolname) DESC LIMIT 1
""")

# A table with row-level security is for its policies' roles. One to which the login was given any right
# (what PUBLIC has is not the login's) is as somebody wants it.
_MISSING = text("""
    WITH tables AS (
        SELECT oid FROM pg_class
        WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
            AND relname = ANY (:tables) AND NOT relrowsecurity
    ), numbers AS (
        SELECT refobjid AS oid FROM pg_attrdef AS value JOIN pg_depend ON objid = value.oid
        WHERE classid = 'pg_attrdef'::regclass AND adrelid IN (SELECT oid FROM tables)
    ), given AS (
        SELECT oid, acl.* FROM pg_class, aclexplode(relacl) AS acl
        UNION ALL SELECT attrelid, acl.* FROM pg_attribute, aclexplode(attacl) AS acl
    )
    SELECT concat(CASE WHEN relkind = 'S' THEN 'USAGE ON SEQUENCE '
        WHEN relname = 'alembic_version' THEN 'SELECT ON '
        ELSE 'SELECT, INSERT, UPDATE, DELETE ON ' END, oid::regclass)
    FROM pg_class
    WHERE (oid IN (SELECT oid FROM tables) OR relkind = 'S' AND oid IN (SELECT oid FROM numbers))
        AND pg_has_role(relowner, 'USAGE')
        AND NOT pg_has_role(CAST(:login AS name), relowner, 'USAGE')
        AND NOT EXISTS (
            SELECT FROM given WHERE given.oid = pg_class.oid
                AND grantee <> 0 AND pg_has_role(CAST(:login AS name), grantee, 'USAGE')
        )
""")


def find_login(connection: Connection, user: str | None) -> str | None:
    """The role that is `user` in DATABASE_URL."""
    # Supavisor's users are a role, a dot and the project.
    roles = [user or "", (user or "").rpartition(".")[0]]
    login: str | None = connection.scalar(_ROLE, {"roles": roles})
    if login is None:
        log.warning("The user of DATABASE_URL is no role here: nothing is granted to it.")
    return login


def grant_login(right: str) -> None:
    """In a revision, for what no model has: `grant_login("SELECT ON totals")`."""
    if login := op.get_context().opts.get("login"):  # none for SQL that is printed
        _grant(op.get_bind(), login, right)


def let_login_in(connection: Connection, login: str) -> None:
    """Grant the login what it needs of the tables of models."""
    tables = [it.name for it in Base.metadata.tables.values() if it.schema is None]
    names = {"login": login, "tables": [*tables, "alembic_version"]}
    for right in connection.scalars(_MISSING, names).all():
        _grant(connection, login, right)


def _grant(connection: Connection, login: str, right: str) -> None:
    log.info("GRANT %s TO %s", right, login)
    quoted = connection.dialect.identifier_preparer.quote(login)
    connection.exec_driver_sql(f"GRANT {right} TO {quoted}")
