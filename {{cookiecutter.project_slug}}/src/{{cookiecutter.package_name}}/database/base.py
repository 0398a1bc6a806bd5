"""The base class of every model."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import DateTime, MetaData, event, inspect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm.attributes import QueryableAttribute

from {{ cookiecutter.package_name }}.database.connection import ReadOnlyError


class Base(DeclarativeBase):
    """What Alembic compares the database with.

    The convention gives every constraint a name, so that a migration can drop it again. The names
    are those that PostgreSQL itself would choose.
    """

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )
    # A moment has an offset. SQLAlchemy's own choice for `Mapped[datetime]` has none.
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True)}
    # After INSERT and UPDATE the values that the database computed come back with RETURNING, at no
    # trip of their own. Read later, behind an attribute, they would be a query (MissingGreenlet).
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _watch(model: type[Base], name: str, attribute: QueryableAttribute[Any]) -> None:
    """Refuse to change what belongs to no session: the change would be stored nowhere."""

    def refuse(changed: object, *details: Any) -> None:
        # A change that comes from the other end of a relation is that one's affair.
        by_itself = getattr(details[-1], "key", name) == name
        if inspect(changed).detached and by_itself:
            raise ReadOnlyError(
                f"{model.__name__}.{name} can't be changed: the object was read by a ReadSession, or "
                "its session has ended. Read it with the session that is to write it"
            )

    for change in ("set", "append", "remove", "modified"):
        event.listen(attribute, change, refuse)
