"""Sealed statements: one round trip, and right whatever becomes of the table meanwhile.

Each test has more clients than the pooler has backends, so that a statement runs where it was never
described.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import asyncpg
import pytest
from sqlalchemy import (
    ARRAY,
    CHAR,
    BigInteger,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    cast,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import BIT, DOMAIN, JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, aliased, mapped_column
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeEngine

from orders_api.database import connection as connection_module
from orders_api.database.base import Base
from orders_api.database.session import ReadSession, Sessions
from orders_api.database.sql import is_sealed
from orders_api.settings import Settings

from tests.pooler.backends import several
from tests.support import Database, connect, make_engine


class Colour(Enum):
    RED = "red"


class Tag(TypeDecorator[str]):
    """A type of the service's own, around a built-in one."""

    impl = String(5)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and f"<{value}>"

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value[1:-1]


class Cents(TypeDecorator[Decimal]):
    """Around a type without a length, which SQLAlchemy copies."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


class Sample(Base):
    """A column of every built-in type that models use."""

    __tablename__ = "samples"
    metadata = MetaData(schema="scratch")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    small: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(3))
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2))
    share: Mapped[float]
    done: Mapped[bool]
    at: Mapped[datetime]
    day: Mapped[date]
    key: Mapped[uuid.UUID]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    raw: Mapped[bytes]
    names: Mapped[list[str]] = mapped_column(ARRAY(String(3)))
    colour: Mapped[Colour] = mapped_column(EnumType(Colour, native_enum=False))
    tag: Mapped[str] = mapped_column(Tag)
    cost: Mapped[Decimal] = mapped_column(Cents)


VALUES: dict[str, Any] = {
    "small": 2**31 - 1,
    "name": "abc",
    "price": Decimal("1.10"),
    "share": 0.1,
    "done": True,
    "at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    "day": date(2026, 1, 2),
    "key": uuid.UUID(int=7),
    "data": {"a": [1, None, "\N{SNOWMAN}"]},
    "raw": b"\0\xff",
    "names": ["a", "b,c"],
    "colour": Colour.RED,
    "tag": "a",
    "cost": Decimal("1.25"),
}
TABLE = Sample.metadata.tables["scratch.samples"]


@pytest.fixture
async def samples(database: Database, engine: AsyncEngine) -> AsyncIterator[str]:
    async with connect(database.url) as direct, several(database.pooler_url):
        await direct.execute(
            f"CREATE TABLE {database.scratch}.samples (id bigint PRIMARY KEY, small int, name varchar(3),"
            " price numeric(8, 2), share float8, done bool, at timestamptz, day date, key uuid,"
            " data jsonb, raw bytea, names varchar(3)[], colour varchar(3), tag varchar(5), cost int)"
        )
    yield f"{database.scratch}.samples"
    async with connect(database.url) as direct:
        await direct.execute(f"DROP TABLE {database.scratch}.samples")


@contextlib.asynccontextmanager
async def described(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """The statements whose description is asked for meanwhile, which costs a trip each."""
    asked: list[str] = []
    prepare = asyncpg.Connection.prepare

    async def counted(self: Any, query: str, **options: Any) -> Any:
        asked.append(query)
        return await prepare(self, query, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "prepare", counted)
        yield asked


async def _round(engine: AsyncEngine, key: int) -> None:
    """Write, read and change a row, with entities and without."""
    read, sessions = ReadSession(engine), Sessions(engine)
    async with sessions.begin() as session:
        sample = Sample(id=key, **VALUES)
        session.add(sample)
        await session.flush()
    async with sessions.begin() as session:
        changed = update(TABLE).where(TABLE.c.id == key).values(small=5).returning(TABLE)
        assert dict((await session.execute(changed)).one()._mapping) == VALUES | {
            "id": key,
            "small": 5,
        }
    async with sessions.begin() as session:
        found = await session.get(Sample, key)
        assert found is not None
        found.small = VALUES["small"]
    row = (await read.execute(select(TABLE).where(TABLE.c.id == key))).one()
    assert dict(row._mapping) == VALUES | {"id": key}
    entity = (await read.scalars(select(Sample).where(Sample.id == key))).one()
    assert {name: getattr(entity, name) for name in VALUES} == VALUES
    async with sessions.begin() as session:
        await session.execute(delete(TABLE).where(TABLE.c.id == key))


async def test_every_type_comes_back_as_it_went(engine: AsyncEngine, samples: str) -> None:
    await _round(engine, 0)
    await asyncio.gather(*(_round(engine, key) for key in range(20)))
    async with described(engine) as asked:
        await asyncio.gather(*(_round(engine, key) for key in range(20)))
    assert [statement for statement in asked if not is_sealed(statement)] == []
    # A connection may meet a statement for the first time. Without sealing it were 140.
    assert len(asked) < 70


CHANGES = {
    "an integer grows": ("small", "bigint", 7, 7),
    "an integer becomes a fraction": ("small", "numeric", 7, 7),
    "an integer becomes floating": ("small", "float8", 7, 7),
    "an integer becomes text": ("small", "text", 7, None),
    "a text grows": ("name", "varchar(20)", "abc", "abc"),
    "a text loses its limit": ("name", "text", "abc", "abc"),
    "a number gets more digits": ("price", "numeric(20, 8)", Decimal("1.10"), Decimal("1.10")),
    "a number becomes floating": ("price", "float8", Decimal("1.50"), Decimal("1.50")),
    "a fraction becomes exact": ("share", "numeric", 0.25, 0.25),
    "a fraction becomes short": ("share", "real", 0.25, 0.25),
    "a moment loses its offset": ("at", "timestamp", VALUES["at"], VALUES["at"]),
    "a moment becomes a day": ("day", "timestamptz", VALUES["day"], VALUES["day"]),
    "a key becomes text": ("key", "text", VALUES["key"], VALUES["key"]),
    "jsonb becomes json": ("data", "json", {"a": 1}, {"a": 1}),
    "a list grows": ("names", "text[]", ["abc"], ["abc"]),
    "a truth becomes text": ("done", "text", True, True),
    "bytes become text": ("raw", "text", b"\0\xff", None),
}


@pytest.mark.parametrize(("name", "type_", "before", "after"), CHANGES.values(), ids=CHANGES)
async def test_a_type_that_changes_under_a_live_connection(
    settings: Settings,
    database: Database,
    samples: str,
    name: str,
    type_: str,
    before: Any,
    after: Any,
) -> None:
    """Right or an error, in reads, writes and RETURNING; never garbage, and never cut off."""
    column = TABLE.c[name]
    read = select(column, TABLE.c.id).where(TABLE.c.id == 1)
    write = update(TABLE).where(TABLE.c.id == 1).values({name: before}).returning(column)
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine, connect(database.url) as migration:
        reading, sessions = ReadSession(engine), Sessions(engine)

        async def use(expected: Any) -> None:
            with contextlib.suppress(DBAPIError):
                assert (await reading.execute(read)).one()[0] == expected
            with contextlib.suppress(DBAPIError):
                async with sessions.begin() as session:
                    assert (await session.execute(write)).scalar_one() == expected

        async with sessions.begin() as session:
            await session.execute(insert(TABLE).values(VALUES | {"id": 1, name: before}))
        for _ in range(2):
            assert (await reading.execute(read)).one()[0] == before
            await use(before)
        cast_ = (
            "convert_from(raw, 'LATIN1')"
            if name == "raw" and type_ == "text"
            else f"{name}::{type_}"
        )
        cast_ = "'x'" if name == "raw" else cast_
        await migration.execute(
            f"SET TIME ZONE UTC; ALTER TABLE {samples} ALTER {name} TYPE {type_} USING {cast_}"
        )
        for _ in range(3):
            if after is not None:
                await use(after)
            else:
                with contextlib.suppress(DBAPIError):
                    found = (await reading.execute(read)).one()[0]
                    assert found in (before, b"x")
        if type_.startswith("varchar"):
            longer = "x" * 20
            await migration.execute(f"UPDATE {samples} SET {name} = $1", longer)
            assert (await reading.execute(read)).one()[0] == longer


async def test_the_control_goes_wrong(
    settings: Settings, database: Database, samples: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept without casts, a description reads garbage. If it does not, the tests above prove nothing."""
    monkeypatch.setattr(connection_module, "is_sealed", lambda _: True)
    query = text(f"SELECT id FROM {samples}")
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine, connect(database.url) as migration:
        await migration.execute(f"INSERT INTO {samples} (id) VALUES (42)")
        read = ReadSession(engine)
        assert await read.scalar(query) == 42
        await migration.execute(f"ALTER TABLE {samples} ALTER id TYPE float8")
        assert await read.scalar(query) == 4631107791820423168


async def test_types_change_under_load(
    settings: Settings, database: Database, samples: str
) -> None:
    """Reads and writes, sealed and not, while a migration changes a type again and again."""
    done = False
    wrong: list[object] = []
    async with make_engine(settings, database) as engine, connect(database.url) as migration:
        read, sessions = ReadSession(engine), Sessions(engine)
        await migration.execute(f"INSERT INTO {samples} (id, small) VALUES (42, 42)")

        async def use() -> None:
            query = select(TABLE.c.id, TABLE.c.small)
            write = update(TABLE).values(small=42).returning(TABLE.c.small, TABLE.c.id)
            while not done:
                found = [tuple((await read.execute(query)).one())]
                found += [
                    tuple((await read.execute(text(f"SELECT id, small FROM {samples}"))).one())
                ]
                async with sessions.begin() as session:
                    found += [tuple(reversed((await session.execute(write)).one()))]
                wrong.extend(one for one in found if one != (42, 42))

        users = [asyncio.create_task(use()) for _ in range(20)]
        for type_ in ("bigint", "float8", "numeric", "int", "float8", "bigint", "int"):
            await asyncio.sleep(0.1)
            await migration.execute(f"ALTER TABLE {samples} ALTER small TYPE {type_}")
        done = True
        await asyncio.gather(*users)
    assert wrong == []


async def test_a_column_that_is_gone_is_an_error(
    engine: AsyncEngine, database: Database, samples: str
) -> None:
    read, query = ReadSession(engine), select(TABLE.c.small)
    await read.execute(query)
    async with connect(database.url) as migration:
        await migration.execute(f"ALTER TABLE {samples} DROP small")
    with pytest.raises(DBAPIError, match=r"column samples\.small does not exist"):
        await read.execute(query)


async def test_cancelled_and_streamed_statements_leave_kept_ones_right(
    engine: AsyncEngine, database: Database, samples: str
) -> None:
    async with connect(database.url) as direct:
        await direct.execute(
            f"INSERT INTO {samples} (id, small) SELECT n, n FROM generate_series(1, 500) n"
        )
    read = ReadSession(engine)

    async def one(key: int) -> int | None:
        query = select(TABLE.c.small).where(TABLE.c.id == key)
        return await read.scalar(query)

    async def streamed() -> list[int]:
        query = select(TABLE.c.small).order_by(TABLE.c.id).execution_options(yield_per=50)
        async with engine.connect() as connection:
            return [row.small async for row in await connection.stream(query)]

    reads = [asyncio.create_task(one(key)) for key in range(1, 301)]
    streams = [asyncio.create_task(streamed()) for _ in range(4)]
    for number, task in enumerate(reads):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    answers = await asyncio.gather(*reads, return_exceptions=True)
    assert all(
        answer == key or isinstance(answer, asyncio.CancelledError)
        for key, answer in enumerate(answers, 1)
    )
    assert await asyncio.gather(*streams) == [list(range(1, 501))] * 4


async def test_a_kept_statement_that_times_out(
    settings: Settings, database: Database, samples: str
) -> None:
    """Its connection is closed, with all that it kept."""
    hasty = settings.model_copy(update={"database_command_timeout": 0.3, "database_pool_size": 2})
    async with make_engine(hasty, database) as engine, connect(database.url) as direct:
        await direct.execute(
            f"INSERT INTO {samples} (id, small) SELECT n, n FROM generate_series(1, 20) n"
        )
        read = ReadSession(engine)

        async def one(key: int, seconds: float) -> int | None:
            slept = func.pg_sleep(cast(seconds, Double)).is_not(None)
            return await read.scalar(select(TABLE.c.small).where(TABLE.c.id == key, slept))

        for _ in range(2):
            answers = await asyncio.gather(
                *(one(key, 0 if key % 4 else 2) for key in range(1, 21)), return_exceptions=True
            )
            for key, answer in enumerate(answers, 1):
                assert answer == key if key % 4 else isinstance(answer, DBAPIError)


async def test_what_is_kept_has_a_bound(
    settings: Settings, database: Database, samples: str
) -> None:
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine:
        read = ReadSession(engine)
        for number in range(150):
            await read.execute(select(TABLE.c.id.label(f"number_{number}")))
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            assert len(raw.driver_connection._kept) == 100  # type: ignore[union-attr]
        async with described(engine) as asked:
            await read.execute(select(TABLE.c.id.label("number_149")))
            await read.execute(select(TABLE.c.id.label("number_0")))
        assert len(asked) == 1


async def test_a_codec_counts_from_its_registration_on(
    settings: Settings, database: Database, samples: str
) -> None:
    one = settings.model_copy(update={"database_pool_size": 1})
    async with make_engine(one, database) as engine, engine.connect() as connection:
        read = select(TABLE.c.day)
        await connection.execute(insert(TABLE).values(VALUES | {"id": 1}))
        assert await connection.scalar(read) == VALUES["day"]
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver
        await driver.set_type_codec(
            "date", schema="pg_catalog", encoder=str, decoder=lambda text: f"on {text}"
        )
        assert await connection.scalar(read) == "on 2026-01-02"


async def test_only_columns_are_cast(engine: AsyncEngine, database: Database, samples: str) -> None:
    """SQLAlchemy takes the sum of an int for an int, and PostgreSQL does not: it would overflow."""
    async with connect(database.url) as direct:
        await direct.execute(f"INSERT INTO {samples} (id, small) VALUES (1, {2**31 - 1}), (2, 7)")
    read = ReadSession(engine)
    assert await read.scalar(select(func.sum(TABLE.c.small))) == 2**31 + 6
    total = select(func.sum(TABLE.c.small).label("total")).subquery()
    assert await read.scalar(select(total.c.total)) == 2**31 + 6
    # By one word, where the type is known.
    sealed = select(cast(func.count(), BigInteger).label("n")).select_from(TABLE)
    assert is_sealed(str(sealed.compile(dialect=engine.dialect)))
    assert await read.scalar(sealed) == 2


async def test_what_a_cast_would_change_has_none(
    engine: AsyncEngine, database: Database, samples: str
) -> None:
    """DISTINCT has to find what ORDER BY has; a branch's type is not the UNION's; a tuple has no name."""
    async with connect(database.url) as direct:
        await direct.execute(
            f"INSERT INTO {samples} (id, small, name, price) VALUES (1, 1, 'a', 1.10), (2, 1, 'b', 5.50)"
        )
    read = ReadSession(engine)
    for column in (Sample.name, Sample.price, Sample.colour):
        assert (await read.execute(select(column).distinct().order_by(column))).all()
    union = union_all(select(Sample.small), select(Sample.price)).subquery()
    found = await read.scalars(select(union.c.small).order_by(union.c.small))
    assert found.all() == [1, 1, Decimal("1.10"), Decimal("5.50")]
    union = union_all(select(Sample.small), select(Sample.id + 2**40)).subquery()
    assert await read.scalar(select(func.max(union.c.small))) == 2**40 + 2
    assert max((await read.scalars(select(union))).all()) == 2**40 + 2
    pairs = tuple_(Sample.id, Sample.name).in_([(1, "a"), (2, "a")])
    assert (await read.scalars(select(Sample.id).where(pairs))).all() == [1]
    other = aliased(Sample)
    joined = select(other.id, Sample.name).join(Sample, Sample.id == other.id)
    assert is_sealed(str(joined.compile(dialect=engine.dialect)))


class Secret(TypeDecorator[bytes]):
    impl = LargeBinary
    cache_ok = True


class Code(TypeDecorator[str]):
    """As documented for a type that is another one for each database."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(8))


def test_types_of_ones_own(engine: AsyncEngine) -> None:
    """They are bound and read as any other, and a table gets them with their length."""
    table = Table("t", MetaData(), Column("secret", Secret), Column("code", Code))
    for statement in (insert(table), select(table).where(table.c.code == "a")):
        assert is_sealed(str(statement.compile(dialect=engine.dialect)))
    assert "code VARCHAR(8)" in str(CreateTable(table).compile(dialect=engine.dialect))
    assert "AS VARCHAR(8)" in str(select(cast("a", Code)).compile(dialect=engine.dialect))


async def test_a_moment_without_an_offset_is_refused(engine: AsyncEngine, samples: str) -> None:
    """asyncpg takes it for the local time of the process."""
    naive = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001
    with pytest.raises(StatementError, match="type refuses the value"):
        await ReadSession(engine).execute(select(Sample).where(Sample.at > naive))
    with pytest.raises(StatementError, match="type refuses the value"):
        async with Sessions(engine).begin() as session:
            session.add(Sample(id=1, **VALUES | {"at": naive}))


def test_a_type_that_others_define_is_left_alone(engine: AsyncEngine) -> None:
    """Its OID is another one in every database."""
    table = Table("t", MetaData(), Column("mood", EnumType("sad", "glad", name="mood")))
    assert "CAST" not in str(select(table).compile(dialect=engine.dialect))


BITS, MORE_BITS = (asyncpg.BitString.frombytes(b"\xa8", length) for length in (3, 5))
LIMITED: dict[str, tuple[TypeEngine[Any], Any, Any]] = {
    "text": (String(3), "abc", "abcd"),
    "text with a collation": (String(3, collation="C"), "abc", "abcd"),
    "text of one character": (CHAR(), "a", "ab"),
    "texts": (ARRAY(String(3)), ["abc"], ["abcd"]),
    "texts with a collation": (ARRAY(String(3, collation="C")), ["abc"], ["abcd"]),
    "texts of a fixed length": (ARRAY(CHAR(3)), ["abc"], ["abcd"]),
    "texts of one character": (ARRAY(CHAR), ["a"], ["ab"]),
    "texts of a domain": (ARRAY(DOMAIN("code", String(3))), ["abc"], ["abcd"]),
    "lists of texts": (ARRAY(CHAR(3), dimensions=2), [["abc"]], [["abcd"]]),
    "bits": (BIT(3), BITS, MORE_BITS),
    "at most so many bits": (BIT(4, varying=True), BITS, MORE_BITS),
    "lists of bits": (ARRAY(BIT(3)), [BITS], [MORE_BITS]),
    "lists of at most so many bits": (ARRAY(BIT(4, varying=True)), [BITS], [MORE_BITS]),
}


@pytest.mark.parametrize(("kind", "fits", "too_long"), LIMITED.values(), ids=LIMITED)
async def test_what_is_too_long_is_refused_and_not_cut(
    engine: AsyncEngine, database: Database, kind: TypeEngine[Any], fits: Any, too_long: Any
) -> None:
    """A cast to a type with a length cuts without a word: `USDX` of a currency was stored as `USD`."""
    table = Table("limited", MetaData(schema=database.scratch), Column("value", kind))
    async with engine.connect() as connection:  # all of it is rolled back
        await connection.run_sync(table.create)
        await connection.execute(insert(table).values(value=fits))
        found = select(func.count()).where(table.c.value == fits)
        assert await connection.scalar(found) == 1
        for change in insert(table), update(table):
            with pytest.raises(DBAPIError, match=r"Truncation|LengthMismatch"):
                async with connection.begin_nested():
                    await connection.execute(change.values(value=too_long))
