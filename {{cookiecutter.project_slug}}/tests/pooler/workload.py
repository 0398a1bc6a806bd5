"""A few queries, repeated: what a service does all day."""

import asyncio

from sqlalchemy import MetaData, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.session import Sessions


class ScratchThing(Base):
    __tablename__ = "things"
    metadata = MetaData(schema="scratch")  # not the service's: no migration knows it

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    amount: Mapped[int]
    changes: Mapped[int] = mapped_column(
        server_default=text("0"), onupdate=text("things.changes + 1")
    )


async def work(engine: AsyncEngine, name: str, *, clients: int = 20, rounds: int = 10) -> None:
    """Let many clients at once repeat the same queries, and check every answer."""
    await asyncio.gather(*(_client(engine, f"{name}-{n}", rounds) for n in range(clients)))


async def _client(engine: AsyncEngine, name: str, rounds: int) -> None:
    sessions = Sessions(engine)
    for turn in range(rounds):
        async with sessions.begin() as session:
            await _orm(session, name, turn)
        async with engine.begin() as connection:
            rows = [{"name": name, "amount": amount} for amount in (1, 2, 3)]
            await connection.execute(insert(ScratchThing), rows)
            streamed = await connection.stream(
                select(ScratchThing.amount).where(ScratchThing.name == name)
            )
            assert sum([row.amount async for row in streamed]) == turn + 6
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            query = select(func.count()).where(ScratchThing.name == name)
            assert await connection.scalar(query) == 4
            result = await connection.execute(delete(ScratchThing).where(ScratchThing.name == name))
            assert result.rowcount == 4


async def _orm(session: AsyncSession, name: str, turn: int) -> None:
    thing = ScratchThing(name=name, amount=-1)
    session.add(thing)
    await session.flush()
    thing.amount = turn
    await session.flush()
    doomed = ScratchThing(name=name, amount=0)
    session.add(doomed)
    await session.flush()
    await session.delete(doomed)
    await session.execute(update(ScratchThing).where(ScratchThing.id == doomed.id).values(amount=1))
    found = await session.scalars(select(ScratchThing).where(ScratchThing.name == name))
    assert [(one.id, one.amount) for one in found] == [(thing.id, turn)]
