"""What goes wrong, by kind: every way that a statement or Supavisor has."""

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from orders_api.database.failures import Failure, classify
from orders_api.main import create_app
from orders_api.settings import Settings

import devstack
from tests.documents import OPERATIONS
from tests.pooler.test_failures import connecting, failure_of, refusing
from tests.support import Database, connect, make_engine, running

# As the text of SQL, with {table} for one that has a row with id 1.
STATEMENTS = {
    "unique": ("INSERT INTO {table} OVERRIDING SYSTEM VALUE VALUES (1, 'a', 1)", Failure.CONFLICT),
    "foreign key": ("INSERT INTO {table}_parts VALUES (2)", Failure.CONFLICT),
    "exclusion": ("INSERT INTO {table}_excluded VALUES ('a')", Failure.CONFLICT),
    "check": ("INSERT INTO {table}_checked VALUES (-1)", Failure.INVALID),
    "a view's check": ("INSERT INTO {table}_some VALUES (-1)", Failure.INVALID),
    "not null": ("INSERT INTO {table} (name) VALUES ('a')", Failure.INVALID),
    "too long": ("INSERT INTO {table}_short VALUES ('abcd')", Failure.INVALID),
    "out of range": ("SELECT 2147483647 + amount::int FROM {table}", Failure.INVALID),
    "text that is no number": ("SELECT CAST('a' || '' AS int)", Failure.INVALID),
    "text that is no JSON": ("SELECT CAST('[NaN]' AS jsonb)", Failure.INVALID),
    "JSON with NUL in it": ("SELECT CAST('[\"\\u0000\"]' AS jsonb)", Failure.INVALID),
    "no such day": ("SELECT CAST('2026-02-30' AS date)", Failure.INVALID),
    "a pattern that is none": ("SELECT 'a' ~ '('", Failure.INVALID),
    "too long for an index": (
        "INSERT INTO {table}_excluded SELECT string_agg(random()::text, '') FROM generate_series(1, 999)",
        Failure.INVALID,
    ),
    "a rule of a function": ("DO $$ BEGIN RAISE 'not on Sundays'; END $$", Failure.INVALID),
    "a role that may not": (
        "DO $$ BEGIN SET LOCAL ROLE pg_monitor; PERFORM * FROM {table}; END $$",
        Failure.FORBIDDEN,
    ),
    "no such table": ("SELECT * FROM {table}_nowhere", Failure.UNKNOWN),
    "no such function": ("SELECT nonsense()", Failure.UNKNOWN),
    "division by zero": ("SELECT 1 / 0", Failure.UNKNOWN),
}


@pytest.fixture
async def tables(database: Database, things: str) -> AsyncIterator[str]:
    async with connect(database.url) as direct:
        await direct.execute(
            f"INSERT INTO {things} (name, amount) VALUES ('a', 1);"
            f"CREATE TABLE {things}_parts (thing bigint REFERENCES {things});"
            f"CREATE TABLE {things}_checked (amount int CHECK (amount > 0));"
            f"CREATE VIEW {things}_some AS SELECT * FROM {things}_checked WHERE amount > 0"
            " WITH CHECK OPTION;"
            f"CREATE TABLE {things}_short (name varchar(3));"
            f"CREATE TABLE {things}_excluded (name text, EXCLUDE (name WITH =));"
            f"INSERT INTO {things}_excluded VALUES ('a')"
        )
        yield things
        await direct.execute(
            f"DROP VIEW {things}_some;"
            f"DROP TABLE {things}_parts, {things}_checked, {things}_short, {things}_excluded"
        )


@pytest.mark.parametrize(("sql", "failure"), STATEMENTS.values(), ids=STATEMENTS)
async def test_what_a_statement_can_meet(
    engine: AsyncEngine, tables: str, sql: str, failure: Failure
) -> None:
    assert await failure_of(engine, sql.format(table=tables)) is failure


# Every refusal in its source (2.9.7 to 2.9.9): the SQLSTATE where it is not XX000, and the words.
SUPAVISOR = {
    Failure.UNAVAILABLE: """
        (EMAXCONN) max client connections reached, limit: 200
        (EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15
        (ECHECKOUTTIMEOUT) unable to check out connection from the pool after 60000ms in Transaction mode
        (ECHECKOUTRETRIES) failed to check out a connection after multiple retries
        (ECHECKOUTFAILED) checkout failed due to :killed
        (EPOOLCHECKOUT) pool checkout failed: :noproc
        (EMAXPOOLSREACHED) max pools count reached
        (EPOOLTERMINATING) pool terminating: pool is terminating
        (EWORKERNOTFOUND) worker processes (manager/pool) not found for tenant "t"
        (ESUBSCRIBERETRIES) failed to subscribe to tenant after multiple retries. Terminating
        (EDBHANDLEREXITED) connection to database closed. Check logs for more information
        (EPOOLCONFIGNOTFOUND) pool configuration not found for "t"
        (EPOOLRANCHNOTFOUND) pool ranch listener not found for "t"
        (EPROXYSTARTFAILED) failed to start proxy connection
        (EPROXYSUPERVISORUNAVAILABLE) proxy supervisor unavailable after retries
        08006 (EAUTHTIMEOUT) timeout while waiting for message
        (EJITREQUESTFAILED) failed to reach JIT provider for user "u"
        (EAUTHSECRETS) failed to retrieve authentication secrets: :timeout
        (EAUTHQUERY) auth_query connection failed
        (EAUTHQUERY) auth_query secret check timed out
        (EAUTHQUERY) authentication query failed: connection to database not available
        (ECIRCUITBREAKER) failed to retrieve database credentials after multiple attempts, new
        (ECIRCUITBREAKER) too many failed attempts to connect to the database, new connections are
        (ENEW) a code that nobody knows yet
        08006 Failed to connect to database: {:error, :econnrefused}
    """,
    # 28P01 is EWRONGPASSWORD and EJITUNAUTHORIZED. The last one is older than the codes.
    Failure.LOGIN: """
        28P01 password authentication failed for user "u"
        (ENOTFOUND) tenant/user postgres.nosuch not found
        (ENOIDENTIFIER) no tenant identifier provided (external_id or sni_hostname required)
        (EINVALIDUSERINFO) Authentication error, reason: "Invalid format for user or db_name"
        (EMULTIPLEUSERS) multiple users matched for u.t, check tenant configuration
        (EBANNED) tenant is banned: unpaid
        (EADDRNOTALLOWED) address not in tenant allow_list: {127, 0, 0, 1}
        (ESSLREQUIRED) SSL connection is required for user: u
        (EAUTHQUERY) user not found in the database
        (EAUTHQUERY) no auth_query configured for this tenant
        (EAUTHQUERY) unsupported or invalid secret format
        (EAUTHQUERY) MD5 secrets are not supported for auth_query, use require_user instead
        (EAUTHQUERY) authentication query returned wrong format
        (EAUTHQUERY) failed to parse SCRAM secret
        (ECIRCUITBREAKER) too many authentication failures, new connections are temporarily blocked
        Tenant or user not found
    """,
    Failure.UNKNOWN: """
        (EMAXPREPARED) max prepared statements limit reached. Limit: 100 per connection
        (EMAXPREPAREDMEM) max prepared statements memory limit reached. Limit: 1MB per connection
        (EPSSIMPLEQUERY) transaction mode only supports prepared statements using the Extended Query
        42P05 (EPREPAREDDUP) prepared statement "a" already exists
        26000 (EPREPAREDNOTFOUND) prepared statement "a" does not exist
        08P01 (ESTARTUPMESSAGE) Invalid startup message: :bad
        (ESTARTUPPACKETTOOLARGE) Startup packet too large: 10001 bytes (max 10000 bytes)
        08P01 (EAUTHPROTOCOL) protocol violation during authentication
        08006 (ESSLHANDSHAKE) SSL handshake failed: :closed
    """,
}
ANSWERS = [
    (line.strip(), failure)
    for failure, lines in SUPAVISOR.items()
    for line in lines.strip().splitlines()
]


@pytest.mark.parametrize(("answer", "failure"), ANSWERS)
async def test_what_supavisor_says(
    settings: Settings, database: Database, answer: str, failure: Failure
) -> None:
    """An outage that is taken for a wrong login makes a service stop, and blames the password."""
    sqlstate, _, words = answer.partition(" ")
    if not re.fullmatch("[0-9A-Z]{5}", sqlstate):
        sqlstate, words = "XX000", answer
    async with refusing(sqlstate, words) as url:
        assert await connecting(settings, database, url) is failure


def test_the_runbook_has_each_of_supavisors_codes() -> None:
    runbook = OPERATIONS.read_text()
    codes = {code for answer, _ in ANSWERS for code in re.findall(r"\((E[A-Z]+)\)", answer)}
    assert len(codes) > 30
    assert {code for code in codes - {"ENEW"} if f"({code})" not in runbook} == set()


async def test_a_standby_is_not_asked_again(settings: Settings, database: Database) -> None:
    """After a failover the connection would answer so for as long as it lives."""
    direct = Settings.model_validate(settings.model_dump() | {"database_url": database.url})
    async with make_engine(direct, database) as engine:
        async with engine.connect() as connection:
            first = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.commit()
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            with pytest.raises(SQLAlchemyError) as error:
                await connection.execute(text("CREATE TABLE scratch.nothing ()"))
        assert classify(error.value) is Failure.UNAVAILABLE
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != first


async def test_a_server_that_is_full(
    settings: Settings, database: Database, servers_are_ours: None
) -> None:
    role = {"username": f"full_{uuid4().hex}", "password": "secret"}
    login = "LOGIN PASSWORD '{password}' CONNECTION LIMIT 0".format(**role)
    url = make_url(database.url).set(**role)  # type: ignore[arg-type]
    async with connect(database.url) as direct:
        await direct.execute(f"CREATE ROLE {role['username']} {login}")
        try:
            full = url.render_as_string(hide_password=False)
            assert await connecting(settings, database, full) is Failure.UNAVAILABLE
        finally:
            await direct.execute(f"DROP ROLE {role['username']}")


async def test_a_pooler_that_is_full(settings: Settings, database: Database) -> None:
    with devstack.pgbouncer(database.url, max_client_conn=1) as url:
        async with connect(url):
            failure = await connecting(settings, database, url)
    assert failure is Failure.UNAVAILABLE


async def test_a_login_that_the_pooler_itself_is_refused(engine: AsyncEngine) -> None:
    """Supavisor and PgBouncer pass on what PostgreSQL answered to them, after the client's own login
    had succeeded: then the service's password is right."""
    raising = text(
        "DO $$ BEGIN RAISE 'password authentication failed for user \"p\"'"
        " USING ERRCODE = '28P01'; END $$"
    )
    with pytest.raises(SQLAlchemyError) as error:
        async with engine.begin() as connection:
            await connection.execute(raising)
    assert classify(error.value) is Failure.UNAVAILABLE


@pytest.mark.parametrize(
    ("sqlstate", "text", "logged"),
    [
        ("XX000", "(EMAXCONN) max client connections reached", "EMAXCONN"),
        ("08P01", "no more connections allowed (max_client_conn)", "no more connections allowed"),
        ("08P01", "query_wait_timeout", "query_wait_timeout"),
        ("53300", "(EMAXCONN) max client connections reached", None),
        ("XX000", "somebody's max_client_conn", None),
    ],
)
async def test_the_log_names_a_poolers_refusal(
    settings: Settings, sqlstate: str, text: str, logged: str | None
) -> None:
    """All of one pooler's have one SQLSTATE. Of the text only known words are logged."""
    async with refusing(sqlstate, text) as url:
        refused = Settings.model_validate(settings.model_dump() | {"database_url": url})
        with capture_logs() as lines:
            async with running(create_app(refused)) as client:
                assert (await client.get("/readyz")).status_code == 503
    [failure] = [line for line in lines if line["event"] == "database failure"]
    assert failure["pooler"] == logged
    assert "max" not in str(failure)
