"""Which statements are sealed. One that is taken for sealed and is not reads garbage after a migration."""

import pytest

from orders_api.database.sql import fixed_type, is_sealed, what_lasts

SEALED = [
    "SELECT CAST(a.id AS BIGINT) AS id FROM a",
    'SELECT DISTINCT CAST(s."A a"."select" AS TEXT) AS "select" \nFROM s."A a"',
    "SELECT CAST(a.at AS TIMESTAMP WITH TIME ZONE) AS at \nFROM a \nWHERE a.id > $1::BIGINT",
    "SELECT CAST(a.ids AS UUID[]) AS b \nFROM a WHERE a.b = $2::UUID[] \n LIMIT $3::INTEGER",
    "SELECT CAST(count(*) AS BIGINT) AS n FROM a",
    "SELECT CAST(max(a.id) AS BIGINT) AS n FROM a WHERE a.name = CAST($1 AS VARCHAR)",
    "SELECT $1::INTEGER AS one FROM a",
    "INSERT INTO a (name) VALUES ($1::VARCHAR) RETURNING CAST(a.id AS BIGINT) AS id",
    "INSERT INTO a (name) VALUES ($1::VARCHAR)",
    'UPDATE a SET name=$1::VARCHAR, "returning"=now() WHERE a.id = $2::BIGINT',
    "DELETE FROM a WHERE a.id IN ($1::BIGINT, $2::BIGINT) RETURNING CAST(a.id AS BIGINT) AS id",
]

NOT_SEALED = [
    "SELECT a.id FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id, a.name FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id, count(*) AS n FROM a",
    "SELECT CAST(a.id AS BIGINT) + a.n AS id FROM a",
    "SELECT CAST(a.id AS BIGINT)::numeric AS id FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.id = $1",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.id = $1::BIGINT OR a.n = $2",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.id = $1::BIGINT OR a.n = $1",
    "SELECT CAST(a.mood AS mood) AS mood FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.mood = $1::mood",
    "SELECT CAST(a.name AS VARCHAR(200)) AS name FROM a",
    "SELECT CAST(a.name AS CHAR) AS name FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.name = $1::VARCHAR(3)",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.ids = $1::BIGINT[3]",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a UNION SELECT b.id FROM b",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a except SELECT b.id FROM b",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.name = 'x$1::BIGINT'",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a -- $1::BIGINT",
    "SELECT CAST(a.id AS BIGINT) AS id /* , b */ FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.b = $$x$$",
    "SELECT CAST(a.id AS BIGINT) AS id FROM a; SELECT a.name FROM a",
    "SELECT CAST(a.id AS BIGINT) AS id INTO b FROM a",
    "SELECT * FROM a",
    "SELECT ALL CAST(a.id AS BIGINT) AS id FROM a",
    "WITH b AS (SELECT a.id FROM a) SELECT CAST(b.id AS BIGINT) AS id FROM b",
    "(SELECT CAST(a.id AS BIGINT) AS id FROM a)",
    "VALUES (1)",
    "SHOW statement_timeout",
    "INSERT INTO a (name) VALUES ($1)",
    "INSERT INTO a (name) VALUES ($1::VARCHAR) RETURNING a.id",
    "INSERT INTO a (name) VALUES ($1::VARCHAR) RETURNING CAST(a.id AS BIGINT) AS id, a.name",
    "UPDATE a SET name=$1::VARCHAR returning a.id",
    "INSERT INTO a (name) VALUES ($1::VARCHAR) RETURNING a.id, CAST(a.id AS BIGINT) AS returning",
    "SELECT CAST(a.id AS BIGINT) AS \"x'\" FROM a WHERE a.name = '",
    'SELECT CAST(a."5""" AS BIGINT) AS id FROM a WHERE a."x""" IS NULL UNION ALL SELECT b.id FROM b',
    'SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a."x = $1',
    "SELECT CAST(a.id AS BIGINT) AS id FROM a WHERE a.b = 1UNION SELECT b.id FROM b",
    "INSERT INTO a (b) VALUES (1)RETURNING a.id",
    "",
]


@pytest.mark.parametrize("statement", SEALED)
def test_a_sealed_statement(statement: str) -> None:
    assert is_sealed(statement)


@pytest.mark.parametrize("statement", NOT_SEALED)
def test_a_statement_whose_types_others_decide(statement: str) -> None:
    assert not is_sealed(statement)


def test_a_length_is_left_out_and_truncates_nothing() -> None:
    assert fixed_type("VARCHAR(200)") == "VARCHAR"
    assert fixed_type("NUMERIC(10, 2)") == "NUMERIC"
    assert fixed_type("TIMESTAMP(3) WITH TIME ZONE") == "TIMESTAMP WITH TIME ZONE"
    assert fixed_type("VARCHAR(3)[]") == "VARCHAR[]"
    assert (fixed_type("FLOAT(24)"), fixed_type("FLOAT(25)")) == ("REAL", "FLOAT")
    for other in ("CHAR(3)", "CHAR", "mood", "CITEXT", "BIT(3)", "VARCHAR(3) COLLATE x", "HSTORE"):
        assert fixed_type(other) is None


LASTS = [
    "SET x = 1",
    "set search_path to a",
    " /* a */ SET ROLE x",
    "SET x = 1",
    "SET SESSION AUTHORIZATION x",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET\tx = 1",
    "set local.x = 1",
    "set transaction.x = 1",
    "SET TIME ZONE 'UTC'",
    "SET LOCAL x = 1; SET y = 2",
    "SELECT 1; reset all",
    "SELECT ';'; set x = 1",
    "RESET ROLE",
    "DISCARD ALL",
    "LISTEN a",
    "UNLISTEN *",
    "LOAD 'x'",
    "PREPARE a AS SELECT 1",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE c NO SCROLL CURSOR WITH  HOLD FOR SELECT 1",
    "CREATE TEMP TABLE a (b int)",
    "CREATE TEMP TABLE a AS SELECT 1",
    "create temporary table if not exists a (b int) on commit delete rows",
    "CREATE LOCAL TEMPORARY TABLE a (b text DEFAULT 'ON COMMIT DROP')",
    "CREATE /* x */ TEMP -- y\n TABLE a (b int)",
    "EXPLAIN ANALYZE CREATE TEMP TABLE a AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW a AS SELECT 1",
    "CREATE TEMP RECURSIVE VIEW a (n) AS SELECT 1",
    "CREATE TEMPORARY SEQUENCE a",
    "CREATE TABLE pg_temp.a (b int)",
    'CREATE TABLE IF NOT EXISTS "pg_temp".a (b int)',
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT 1 AS a INTO TEMP b",
    "SELECT 1 AS a INTO TEMPORARY TABLE b",
    "SELECT a INTO LOCAL TEMP b FROM c",
    "SELECT a INTO pg_temp.b FROM c",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_catalog.pg_advisory_lock(1)",
    'SELECT "pg_catalog"."pg_try_advisory_lock_shared" (1)',
    "WITH a AS (SELECT pg_try_advisory_lock(1)) SELECT 1",
    "INSERT INTO a SELECT pg_advisory_unlock_all()",
    "SELECT set_config('a.b', 'c', false)",
    "SELECT SET_CONFIG('a.b', 'c', FALSE)",
    "SELECT pg_catalog.\"set_config\" ('a.b', 'c', 'f')",
    "SELECT set_config('a.b', 'c,true)', false)",
    "SELECT set_config('a.b', f(1, g(2)), false)",
    "SELECT set_config('a.b', 'c', NOT true)",
    "SELECT set_config('a.b', 'c', true), set_config('a.b', 'c', false)",
    "SELECT set_config('a.b', set_config('a.c', 'c', false), true)",
    "SELECT set_config('a.b', 'c', /* true) */ false)",
    "SELECT set_config('a.b', $$true)$$, x)",
    "UPDATE pg_settings SET setting = 'x' WHERE name = 'role'",
    "COPY (SELECT set_config('a.b', 'c', false)) TO STDOUT",
    "WITH a AS (INSERT INTO b VALUES (1) RETURNING c) SELECT c INTO TEMP d FROM a",
    "-- SET LOCAL\nSET x = 1",
]

ENDS = [
    "SELECT 1",
    "SET LOCAL x = 1",
    "SET  LOCAL x = 1",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "set /* a */ local x = 1",
    "INSERT INTO a VALUES ('SET x'), ('; SET x = 1')",
    "INSERT INTO a (b) VALUES (E'\\'; SET x = 1')",
    "INSERT INTO a (b) VALUES ($$; SET x = 1; SELECT set_config('a', 'b', false)$$)",
    "INSERT INTO a (b) VALUES ('SELECT pg_advisory_lock(1)')",
    "INSERT INTO a (b) VALUES ('CREATE TEMP TABLE a (b int)')",
    'SELECT "listen", "reset", "set", "load" FROM "discard"',
    'SELECT a AS "; SET x = 1"',
    'SELECT a AS "set_config(" FROM b',
    'SELECT a.set_config, a."pg_advisory_lock" FROM a',
    "SELECT listen FROM a",
    "UPDATE a SET load = 1, discard = 2",
    "-- SET x",
    "/* ; SET x = 1; */ SELECT 1",
    "PREPARE TRANSACTION 'a'",
    "DECLARE c CURSOR FOR SELECT 1",
    "DECLARE c CURSOR FOR WITH hold AS (SELECT 1) SELECT * FROM hold",
    "CREATE TEMP TABLE a (b int) ON COMMIT DROP",
    "CREATE TEMP TABLE a ON COMMIT DROP AS SELECT 1",
    "CREATE TEMPORARY TABLE a (b int)  ON  COMMIT  DROP",
    "CREATE TABLE pg_temp.a (b int) ON COMMIT DROP",
    "CREATE TABLE temp (a int)",
    "INSERT INTO temp (a) VALUES (1)",
    "INSERT INTO temp VALUES (1)",
    "INSERT  INTO temp SELECT 1",
    "WITH a AS (SELECT 1) INSERT INTO temp SELECT * FROM a",
    "MERGE INTO temp USING a ON true WHEN MATCHED THEN DO NOTHING",
    "SELECT a INTO temp FROM b",
    "SELECT temp FROM weather WHERE temp > 1",
    "SELECT template, temporary FROM a",
    "INSERT INTO pg_temp.a VALUES (1)",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1)",
    "SELECT set_config('a.b', 'c', true)",
    "SELECT set_config('a.b', f(1, g(2)), true)",
    "SELECT set_config( 'role' , 'x' , TRUE ) , set_config('a.b', 'c', true::bool)",
    "SELECT set_config('a.b', 'c', CAST(true AS BOOLEAN))",
    "SELECT my_set_config('a.b', 'c', false)",
    "SELECT my_pg_advisory_lock(1)",
    "ALTER ROLE a SET search_path = b",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = a AS 'SELECT 1'",
    "DO $$ BEGIN SET LOCAL ROLE a; END $$",
    "SAVEPOINT a",
    "SHOW search_path",
    "NOTIFY a",
    "COPY temp FROM STDIN",
]


@pytest.mark.parametrize("statement", LASTS)
def test_lasts(statement: str) -> None:
    """It would be there for whoever comes next on the server connection."""
    assert what_lasts(statement)[0]


@pytest.mark.parametrize("statement", ENDS)
def test_ends_with_its_transaction(statement: str) -> None:
    """Or only looks as if it did not."""
    assert what_lasts(statement) == (False, ())


@pytest.mark.parametrize(
    ("statement", "numbers"),
    [
        ("SELECT set_config($1::VARCHAR, $2::VARCHAR, $3::BOOLEAN) AS set_config_1", (3,)),
        ("SELECT set_config($1, $2, $3), set_config($4, $5, CAST($6 AS BOOLEAN))", (3, 6)),
        ("SELECT set_config($1, $2, true)", ()),
    ],
)
def test_lasts_unless_a_parameter_is_true(statement: str, numbers: tuple[int, ...]) -> None:
    assert what_lasts(statement) == (False, numbers)
