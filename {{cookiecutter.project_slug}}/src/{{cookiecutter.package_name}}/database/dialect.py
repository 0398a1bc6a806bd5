"""SQLAlchemy's dialect for asyncpg, with statements that say the types of their results.

Behind a transaction-mode pooler a prepared statement can't be kept on the server, so asyncpg pays two
round trips for each: one to learn the types of parameters and results, one to run. A client that
remembers the types instead is wrong as soon as a migration changes one, and without any error: 43 is
read as 4631248529308778496. So the types are written into the statement:

    SELECT CAST(items.id AS BIGINT) AS id, ... FROM items WHERE items.id = $1::BIGINT

Such a statement is "sealed": it means the same whatever becomes of the table, and
`database/connection.py` keeps its description. SQLAlchemy writes the casts of parameters by itself;
those of results are written here, for each column of a table, in SELECT and in RETURNING.
"""

import time
from datetime import date
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy import Alias, Column, DateTime, Table, TypeDecorator, cast
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import CompileError, DisconnectionError, InvalidatePoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement, Label
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import await_only

from {{ cookiecutter.package_name }}.database.connection import Connection
from {{ cookiecutter.package_name }}.database.failures import all_broke
from {{ cookiecutter.package_name }}.database.metrics import sent
from {{ cookiecutter.package_name }}.database.sql import fixed_type, uncut_type

DRIVER = "postgresql+sealed"
"""What a URL begins with to get this dialect."""

# What SQLAlchemy raises for a type that is not known yet, or that has no name, such as a tuple.
_NO_NAME = (AttributeError, CompileError)

# The last one is what it did not expect, of a backend that was killed in the middle of an answer, say.
_DRIVERS_ERRORS = asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError


class _Uncut(TypeEngine[Any]):
    """Mixed into a type of the dialect: casts have its name without a length, which would truncate."""

    __visit_name__ = "user_defined"  # so that `get_col_spec` names it
    render_bind_cast = True
    name_in_casts: str
    name_as_declared: str

    def get_col_spec(self, **where: object) -> str:
        what: Any = where.get("type_expression")
        ours = what is None or what.type is self  # and not a table's, or a cast that somebody wrote
        return self.name_in_casts if ours else self.name_as_declared


class _Sealed(_Uncut):
    """One whose values look the same for ever: columns are cast too."""

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        column = colexpr.element if isinstance(colexpr, Label) else colexpr
        # Nothing but columns of tables. SQLAlchemy takes sum() of an int for an int, and the column of
        # a UNION for what its first branch has; PostgreSQL does not.
        table = getattr(column, "table", None)
        if isinstance(table, Alias):
            table = table.element
        if isinstance(column, Column) and isinstance(table, Table):
            return _SealedColumn(column, self)
        return colexpr

    def bind_processor(self, dialect: Dialect) -> Any:
        process = super().bind_processor(dialect)
        if not isinstance(self, DateTime) or not self.timezone:
            return process

        def refuse_naive(value: date | None) -> date | None:
            if isinstance(value, date) and getattr(value, "tzinfo", None) is None:
                # asyncpg would take it for the local time of this process.
                raise ValueError("a datetime without an offset has no place in timestamptz")
            return process(value) if process else value

        return refuse_naive


class _SealedColumn(ColumnElement[Any]):
    """A column among the results of a statement."""

    def __init__(self, column: Column[Any], sealed: _Sealed) -> None:
        self.column = column
        self.type = column.type
        self.sealed = sealed


@compiles(_SealedColumn)
def _compile(element: _SealedColumn, compiler: SQLCompiler, **options: Any) -> str:
    # Not in the branch of a UNION, which may decide another one's type. And not with DISTINCT, where
    # PostgreSQL wants to find what ORDER BY has among the results.
    inside = compiler.stack[-1]["selectable"]
    if len(compiler.stack) > 1 or getattr(inside, "_distinct", False):
        return compiler.process(element.column, **options)
    return compiler.process(cast(element.column, element.sealed), **options)


@cache
def _mixed(mixin: type[_Uncut], kind: Any, in_casts: str, as_declared: str) -> type[_Uncut]:
    # The names are the class's: a TypeDecorator copies its type, and attributes don't come along.
    return type(
        kind.__name__, (mixin, kind), {"name_in_casts": in_casts, "name_as_declared": as_declared}
    )


class SealingDialect(PGDialect_asyncpg):
    supports_statement_cache = True
    ping_after_idle = 0.0

    def do_ping(self, dbapi_connection: Any) -> bool:
        """SQLAlchemy asks for a ping before a connection of the pool is lent. This is one round trip
        instead of 4, and only after `ping_after_idle` seconds in the pool, in which a pooler, a firewall
        or a load balancer may have closed the connection."""
        connection: Connection = dbapi_connection.driver_connection
        connection.lent_to = "anybody"
        if connection.is_closed():  # the server said so while it lay idle
            raise DisconnectionError
        if time.monotonic() - connection.returned_at >= self.ping_after_idle:
            try:
                await_only(connection.ping())
            except (OSError, *_DRIVERS_ERRORS) as error:
                # Ended here, or the pool would try to say goodbye for 2 s.
                connection.terminate()
                raise (InvalidatePoolError if all_broke(error) else DisconnectionError) from error
        return True

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        driver: Connection = context._dbapi_connection.driver_connection
        driver.refuse_what_lasts(statement, parameters)
        with sent(driver.use, statement):
            super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def do_execute_no_params(self, cursor: Any, statement: Any, context: Any = None) -> None:
        with sent(context._dbapi_connection.driver_connection.use, statement):
            super().do_execute_no_params(cursor, statement, context)  # type: ignore[no-untyped-call]

    def do_executemany(
        self, cursor: Any, statement: Any, parameters: Any, context: Any = None
    ) -> None:
        driver: Connection = context._dbapi_connection.driver_connection
        driver.refuse_what_lasts(statement, *parameters)
        with sent(driver.use, statement):
            super().do_executemany(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def do_commit(self, dbapi_connection: Any) -> None:
        with sent(dbapi_connection.driver_connection.use, "COMMIT", statements=0):
            super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]

    def type_descriptor(self, typeobj: Any) -> TypeEngine[Any]:
        adapted: TypeEngine[Any] = super().type_descriptor(typeobj)  # type: ignore[no-untyped-call]
        # The type that a TypeDecorator decorates comes by itself.
        if isinstance(adapted, (TypeDecorator, _Uncut)):
            return adapted
        try:
            rendered = self.type_compiler_instance.process(adapted)
        except _NO_NAME:
            return adapted
        kind: Any = type(adapted)
        if name := fixed_type(rendered):
            return adapted.adapt(_mixed(_Sealed, kind, name, rendered))
        if (name := uncut_type(rendered)) != rendered:
            return adapted.adapt(_mixed(_Uncut, kind, name, rendered))
        return adapted


registry.register(DRIVER.replace("+", "."), __name__, SealingDialect.__name__)
