from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.caller import CALLER_ID


class Note(Base):
    __tablename__ = "notes"

    # One sequence for all owners: an id tells how many notes there are, and nothing of any of them.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    owner_id: Mapped[UUID] = mapped_column(server_default=text(CALLER_ID))
    text: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index(None, "owner_id", "id"),)
