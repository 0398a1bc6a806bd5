from datetime import datetime
from typing import cast

from sqlalchemy import BigInteger, Identity, String, Table, func
from sqlalchemy.orm import Mapped, mapped_column

from {{ cookiecutter.package_name }}.database.base import Base


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


items = cast(Table, Item.__table__)
