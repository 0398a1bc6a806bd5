"""Let the service use its tables, where it logs in as another role than the one that migrates."""

import logging

from sqlalchemy import Connection, text

from {{ cookiecutter.package_name }}.database.base import Base

log = logging.getLogger("alembic.env")

_LOGIN = text("""
    SELECT rolname FROM pg_roles WHERE rolname = ANY (:roles)
    ORDER BY length(rolname) DESC LIMIT 1
""")

# A table with row-level security is for its policies' roles. One to which the login has any right is as
# somebody wants it.
_MISSING = text("""
    WITH tables AS (
        SELECT oid FROM pg_class
        WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
            AND relname = ANY (:tables) AND NOT relrowsecurity
    )
    SELECT concat(CASE WHEN relkind = 'S' THEN 'USAGE ON SEQUENCE '
        WHEN relname = 'alembic_version' THEN 'SELECT ON '
        ELSE 'SELECT, INSERT, UPDATE, DELETE ON ' END, oid::regclass)
    FROM pg_class WHERE pg_has_role(relowner, 'USAGE') AND CASE
        WHEN relkind = 'S' THEN NOT has_sequence_privilege(CAST(:login AS name), oid, 'USAGE') AND EXISTS (
            SELECT FROM pg_attrdef AS value JOIN pg_depend ON objid = value.oid
            WHERE classid = 'pg_attrdef'::regclass AND refobjid = pg_class.oid
                AND adrelid IN (SELECT oid FROM tables))
        ELSE oid IN (SELECT oid FROM tables)
            AND NOT has_any_column_privilege(CAST(:login AS name), oid, 'SELECT, INSERT, UPDATE')
            AND NOT has_table_privilege(CAST(:login AS name), oid, 'DELETE')
        END
""")

_asked_for: list[str] = []


def grant_login(right: str) -> None:
    """In a revision, for what no model has: `grant_login("SELECT ON totals")`."""
    _asked_for.append(right)


def let_login_in(connection: Connection, user: str | None) -> None:
    """Grant the login, who is `user` in DATABASE_URL, what it needs of the tables of models."""
    # Supavisor's users are a role, a dot and the project.
    roles = [user or "", (user or "").rpartition(".")[0]]
    if login := connection.scalar(_LOGIN, {"roles": roles}):
        tables = [it.name for it in Base.metadata.tables.values() if it.schema is None]
        names = {"login": login, "tables": [*tables, "alembic_version"]}
        for right in (*_asked_for, *connection.scalars(_MISSING, names)):
            log.info("GRANT %s TO %s", right, login)
            quoted = connection.dialect.identifier_preparer.quote(login)
            connection.exec_driver_sql(f"GRANT {right} TO {quoted}")
    _asked_for.clear()
