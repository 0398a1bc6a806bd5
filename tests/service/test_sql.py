"""Which statements are sealed. One that is taken for sealed and is not reads garbage after a migration."""

import pytest

from orders_api.database.sql import fixed_type, is_sealed

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
