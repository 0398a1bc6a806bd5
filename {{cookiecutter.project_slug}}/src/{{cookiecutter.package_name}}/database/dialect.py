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

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, DateTime, TypeDecorator, cast, type_coerce
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import CompileError
from sqlalchemy.sql.elements import ColumnElement, Label
from sqlalchemy.types import TypeEngine

from {{ cookiecutter.package_name }}.database.sql import fixed_type

DRIVER = "postgresql+sealed"
"""What a URL begins with to get this dialect."""


class _Sealed(TypeEngine[Any]):
    """Mixed into a type of the dialect: casts have its name without a length, which would truncate."""

    __visit_name__ = "user_defined"  # so that `get_col_spec` names it
    render_bind_cast = True
    name_in_casts: str

    def get_col_spec(self, **_: object) -> str:
        return self.name_in_casts

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        column = colexpr.element if isinstance(colexpr, Label) else colexpr
        # Nothing but columns: SQLAlchemy takes sum() of an int for an int, and PostgreSQL does not.
        if not isinstance(column, Column):
            return colexpr
        return type_coerce(cast(column, self), column.type)

    def bind_processor(self, dialect: Dialect) -> Any:
        process = super().bind_processor(dialect)
        if not isinstance(self, DateTime) or not self.timezone:
            return process

        def refuse_naive(value: datetime | None) -> datetime | None:
            if isinstance(value, datetime) and value.tzinfo is None:
                # asyncpg would take it for the local time of this process.
                raise ValueError("a datetime without an offset has no place in timestamptz")
            return process(value) if process else value

        return refuse_naive


@cache
def _sealed_class(kind: Any, name: str) -> type[_Sealed]:
    # The name is the class's: a TypeDecorator copies its type, and attributes don't come along.
    return type(kind.__name__, (_Sealed, kind), {"name_in_casts": name})


class SealingDialect(PGDialect_asyncpg):
    supports_statement_cache = True

    def type_descriptor(self, typeobj: Any) -> TypeEngine[Any]:
        adapted: TypeEngine[Any] = super().type_descriptor(typeobj)  # type: ignore[no-untyped-call]
        # The type that a TypeDecorator decorates comes by itself.
        if isinstance(adapted, (TypeDecorator, _Sealed)):
            return adapted
        try:
            name = fixed_type(self.type_compiler_instance.process(adapted))
        except CompileError:  # a type that is not known, or has no name
            return adapted
        if name is None:
            return adapted
        kind: Any = type(adapted)
        return adapted.adapt(_sealed_class(kind, name))


registry.register(DRIVER.replace("+", "."), __name__, SealingDialect.__name__)
