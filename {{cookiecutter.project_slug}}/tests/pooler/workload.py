"""A few queries, repeated: what a service does all day. Also a program: see `main`."""

import asyncio
import sys

from sqlalchemy import MetaData, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from {{ cookiecutter.package_name }}.database.base import Base
from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.database.session import Sessions
from {{ cookiecutter.package_name }}.settings import load_settings


class Thing(Base):
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
            await connection.execute(insert(Thing), rows)
            streamed = await connection.stream(select(Thing.amount).where(Thing.name == name))
            assert sum([row.amount async for row in streamed]) == turn + 6
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            query = select(func.count()).where(Thing.name == name)
            assert await connection.scalar(query) == 4
            result = await connection.execute(delete(Thing).where(Thing.name == name))
            assert result.rowcount == 4


async def _orm(session: AsyncSession, name: str, turn: int) -> None:
    thing = Thing(name=name, amount=-1)
    session.add(thing)
    await session.flush()
    thing.amount = turn
    await session.flush()
    doomed = Thing(name=name, amount=0)
    session.add(doomed)
    await session.flush()
    await session.delete(doomed)
    await session.execute(update(Thing).where(Thing.id == doomed.id).values(amount=1))
    found = await session.scalars(select(Thing).where(Thing.name == name))
    assert [(one.id, one.amount) for one in found] == [(thing.id, turn)]


async def main(schema: str, name: str) -> None:
    """Work as a process of its own: `python -m tests.pooler.workload SCHEMA NAME`."""
    engine = create_engine(load_settings())
    try:
        scratch = engine.execution_options(schema_translate_map={"scratch": schema})
        await work(scratch, name, clients=10, rounds=3)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
