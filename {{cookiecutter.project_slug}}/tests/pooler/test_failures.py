"""What goes wrong, by kind: each caused for real, and told by what it arrives as."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Enum, literal, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.settings import Settings

from tests.pooler.proxy import counted
from tests.support import Database, connect, make_engine

# As the text of SQL, with {table} for one that has a row with id 1.
STATEMENTS = {
    "INSERT INTO {table} OVERRIDING SYSTEM VALUE VALUES (1, 'a', 1)": Failure.CONFLICT,
    "INSERT INTO {table} (name) VALUES ('a')": Failure.INVALID,
    "SELECT CAST('a' || '' AS int)": Failure.INVALID,
    "DO $$ BEGIN RAISE 'not on Sundays'; END $$": Failure.INVALID,
    "DO $$ BEGIN SET LOCAL ROLE pg_monitor; PERFORM * FROM {table}; END $$": Failure.FORBIDDEN,
    "SELECT * FROM {table}_nowhere": Failure.UNKNOWN,
}


@pytest.fixture
async def things(things: str, database: Database) -> str:
    """With a row."""
    async with connect(database.url) as direct:
        await direct.execute(f"INSERT INTO {things} (name, amount) VALUES ('a', 1)")
    return things


async def failure_of(engine: AsyncEngine, sql: str, **values: object) -> Failure:
    with pytest.raises(SQLAlchemyError) as error:
        async with engine.begin() as connection:
            await connection.execute(text(sql), values)
    return classify(error.value)


@pytest.mark.parametrize(("sql", "failure"), STATEMENTS.items())
async def test_what_a_statement_can_meet(
    engine: AsyncEngine, things: str, sql: str, failure: Failure
) -> None:
    assert await failure_of(engine, sql.format(table=things)) is failure


async def test_values_that_do_not_fit(engine: AsyncEngine) -> None:
    assert await failure_of(engine, "SELECT CAST(:n AS int4)", n=2**40) is Failure.INVALID
    assert await failure_of(engine, "SELECT CAST(:t AS text)", t="a\0b") is Failure.INVALID


async def test_a_value_that_its_columns_type_refuses(engine: AsyncEngine) -> None:
    """Before anything is sent: not even a DBAPIError."""
    kind = Enum("a", "b", native_enum=False, validate_strings=True)
    with pytest.raises(SQLAlchemyError) as error:
        async with engine.begin() as connection:
            await connection.execute(select(literal("c", kind)))
    assert classify(error.value) is Failure.INVALID


async def test_the_text_of_an_error_has_no_parameters(engine: AsyncEngine) -> None:
    """It ends in the log, with the traceback of a defect."""
    with pytest.raises(SQLAlchemyError) as error:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT nonsense(CAST(:t AS text))"), {"t": "secret"})
    assert "nonsense" in str(error.value)
    assert "secret" not in str(error.value)


async def test_a_lock_that_is_held(engine: AsyncEngine, things: str) -> None:
    async with engine.begin() as holder:
        await holder.execute(text(f"SELECT * FROM {things} FOR UPDATE"))
        nowait = f"SELECT * FROM {things} FOR UPDATE NOWAIT"
        assert await failure_of(engine, nowait) is Failure.UNAVAILABLE


async def test_a_statement_that_the_server_cancels(engine: AsyncEngine) -> None:
    with pytest.raises(SQLAlchemyError) as error:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await connection.execute(text("SELECT pg_sleep(5)"))
    assert classify(error.value) is Failure.UNAVAILABLE


async def test_a_deadlock_and_a_serialization_failure(engine: AsyncEngine, things: str) -> None:
    both = asyncio.Barrier(2)
    lock = text("SELECT pg_advisory_xact_lock(hashtext(:table), :key)")

    async def move(first: int, second: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(lock, {"table": things, "key": first})
            await both.wait()
            await connection.execute(lock, {"table": things, "key": second})

    outcomes = await asyncio.gather(move(1, 2), move(2, 1), return_exceptions=True)
    [deadlock] = [error for error in outcomes if isinstance(error, SQLAlchemyError)]
    assert classify(deadlock) is Failure.UNAVAILABLE

    serializable = engine.execution_options(isolation_level="REPEATABLE READ")
    change = text(f"UPDATE {things} SET amount = amount + 1")
    with pytest.raises(SQLAlchemyError) as error:
        async with serializable.begin() as one:
            await one.execute(text(f"SELECT * FROM {things}"))
            async with engine.begin() as other:
                await other.execute(change)
            await one.execute(change)
    assert classify(error.value) is Failure.UNAVAILABLE


async def test_a_backend_that_is_killed(engine: AsyncEngine, database: Database) -> None:
    async with engine.connect() as connection, connect(database.url) as direct:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await direct.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises(SQLAlchemyError) as error:
            await connection.execute(text("SELECT 1"))
        assert classify(error.value) is Failure.UNAVAILABLE


async def connecting(settings: Settings, database: Database, url: str) -> Failure:
    settings = Settings.model_validate(settings.model_dump() | {"database_url": url})
    async with make_engine(settings, database) as engine:
        return await failure_of(engine, "SELECT 1")


async def test_nobody_listens_or_the_name_is_unknown(
    settings: Settings, database: Database
) -> None:
    for url in ("postgresql://u:p@127.0.0.1:1/d", "postgresql://u:p@nowhere.invalid/d"):
        assert await connecting(settings, database, url) is Failure.UNAVAILABLE


@pytest.mark.parametrize("through", ["pooler", "directly"])
async def test_a_wrong_login_is_not_called_busy(
    settings: Settings, database: Database, servers_are_ours: None, through: str
) -> None:
    """To try again would be wrong: Supavisor locks out all clients after 10 wrong passwords."""
    url = make_url(database.url if through == "directly" else database.pooler_url)
    for change in ({"password": "wrong"}, {"username": "nobody"}, {"database": "nowhere"}):
        wrong = url.set(**change).render_as_string(hide_password=False)  # type: ignore[arg-type]
        assert await connecting(settings, database, wrong) is Failure.LOGIN, change
    # What was wrong says nothing of the right one, which is tried at once.
    right = {"database_url": url.render_as_string(hide_password=False)}
    settings = Settings.model_validate(settings.model_dump() | right)
    async with make_engine(settings, database) as engine, engine.connect():
        pass


@asynccontextmanager
async def refusing(sqlstate: str, message: str) -> AsyncIterator[str]:
    """A server that answers every login with this error, as the protocol has it; its URL."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(struct.unpack("!i", await reader.readexactly(4))[0] - 4)
        fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
        writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable"


async def test_a_wrong_login_is_not_tried_again_at_once(
    settings: Settings, database: Database
) -> None:
    async with refusing("28P01", "password authentication failed") as url, counted(url) as counter:
        proxy, through = counter
        wrong = Settings.model_validate(settings.model_dump() | {"database_url": through})
        async with make_engine(wrong, database) as engine:
            for _ in range(20):
                assert await failure_of(engine, "SELECT 1") is Failure.LOGIN
        assert proxy.connections == 1
