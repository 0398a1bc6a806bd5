"""Let the service use its tables, where it logs in as another role than the one that migrates."""

import logging

from sqlalchemy import Connection, text

from {{ cookiecutter.package_name }}.database.base import Base

log = logging.getLogger("alembic.env")

# A table with row-level security is for its policies' roles. One of which the login has any right is as
# somebody wants it. Through Supavisor, the user of a URL is the role, a dot and the project.
_MISSING = text("""
    WITH login AS (
        SELECT oid, rolname FROM pg_roles
        WHERE rolname = ANY (:roles) ORDER BY length(rolname) DESC LIMIT 1
    ), tables AS (
        SELECT oid FROM pg_class
        WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
            AND relname = ANY (:tables) AND NOT relrowsecurity
    )
    SELECT concat(CASE WHEN relkind = 'S' THEN 'USAGE ON SEQUENCE '
        WHEN relname = 'alembic_version' THEN 'SELECT ON '
        ELSE 'SELECT, INSERT, UPDATE, DELETE ON ' END,
        it.oid::regclass, ' TO ', quote_ident(rolname))
    FROM pg_class AS it, login
    WHERE pg_has_role(relowner, 'USAGE') AND CASE
        WHEN relkind = 'S' THEN NOT has_sequence_privilege(login.oid, it.oid, 'USAGE')
            AND EXISTS (SELECT FROM pg_depend, tables
                WHERE (objid, refobjid, deptype) = (it.oid, tables.oid, 'a'))
        ELSE it.oid IN (SELECT oid FROM tables)
            AND NOT has_any_column_privilege(login.oid, it.oid, 'SELECT, INSERT, UPDATE')
            AND NOT has_table_privilege(login.oid, it.oid, 'DELETE')
        END
""")


def let_login_in(connection: Connection, user: str | None) -> None:
    """Grant the login of DATABASE_URL, `user`, what it needs of the tables of models."""
    tables = [it.name for it in Base.metadata.tables.values() if it.schema is None]
    names = {
        "roles": [user or "", (user or "").rpartition(".")[0]],
        "tables": [*tables, "alembic_version"],
    }
    for right in connection.scalars(_MISSING, names).all():
        log.info("GRANT %s", right)
        connection.exec_driver_sql(f"GRANT {right}")
