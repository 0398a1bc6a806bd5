"""Connection strings as people paste them."""

import re
import ssl
from pathlib import Path

import pytest
import trustme
from sqlalchemy import URL

from {{ cookiecutter.package_name }}.database.url import parse_url

SECRET = "marked-secret"
HOST = "aws-0-eu-west-1.pooler.supabase.com"


def _parts(url: URL) -> tuple[object, ...]:
    return url.username, url.password, url.host, url.port, url.database


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"postgresql://postgres.abc:pw@{HOST}:6543/postgres", ("postgres.abc", "pw", HOST, 6543)),
        (f"postgresql://postgres.abc:pw@{HOST}:5432/postgres", ("postgres.abc", "pw", HOST, 5432)),
        (
            "postgres://postgres:pw@db.abc.supabase.co:5432/postgres",
            ("postgres", "pw", "db.abc.supabase.co", 5432),
        ),
        ("postgresql+asyncpg://u:pw@h/postgres", ("u", "pw", "h", 5432)),
        ("  postgresql://u:pw@h/postgres\n", ("u", "pw", "h", 5432)),
        ("postgresql://u@h/postgres", ("u", None, "h", 5432)),
        ("postgresql://h/postgres", (None, None, "h", 5432)),
        ("postgresql://u:pw@[::1]:6543/postgres", ("u", "pw", "::1", 6543)),
        ("postgresql://u:pw@/postgres?host=/run/postgresql", ("u", "pw", "/run/postgresql", 5432)),
        ("postgresql://u:pw@%2Frun%2Fpg:6543/postgres", ("u", "pw", "/run/pg", 6543)),
        ("postgresql://?user=u&password=pw&host=h&port=6&dbname=postgres", ("u", "pw", "h", 6)),
    ],
)
def test_the_parts(text: str, parts: tuple[object, ...]) -> None:
    parsed = parse_url(text)
    assert parsed.url.drivername == "postgresql+asyncpg"
    assert _parts(parsed.url) == (*parts, "postgres")
    assert parsed.connect_args == ({"ssl": "require"} if "supabase" in text else {})
    assert parsed.ignored == ()


@pytest.mark.parametrize("password", ["p%w", "p:w", "p w", "100%", "[p]"])
def test_a_password_pasted_as_it_is(password: str) -> None:
    parsed = parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")
    assert _parts(parsed.url) == ("u", password, "h", 6543, "d")
    assert parsed.connect_args == {"ssl": "require"}


@pytest.mark.parametrize("password", ["p@ss", "p/w", "p#w", "p?a=b"])
def test_a_password_that_would_move_the_host_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="Percent-encode the password"):
        parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")


def test_parameters_are_translated_or_dropped() -> None:
    query = "application_name=orders&connect_timeout=3&sslmode=require"
    noise = "pgbouncer=true&connection_limit=1&supa=base-pooler.x&pool_timeout=9"
    parsed = parse_url(f"postgresql://u:p@h/d?{query}&{noise}")
    assert parsed.connect_args == {
        "server_settings": {"application_name": "orders"},
        "timeout": 3,
        "ssl": "require",
    }
    assert parsed.ignored == ("pgbouncer", "connection_limit", "supa", "pool_timeout")
    assert parsed.url.query == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a URL"),
        (f"mysql://u:{SECRET}@h/d", "its scheme is not one of postgresql, "),
        ("postgresql://u:[YOUR-PASSWORD]@h/d", "[YOUR-PASSWORD] is still in it"),
        (f"postgresql://u:{SECRET}@/d", "it names no host"),
        (f"postgresql://postgres:{SECRET}@{HOST}:6543/d", "Write postgres.PROJECTREF"),
        (f"postgresql://u:{SECRET}@h:port/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h/d?options=-c%20jit=off", "its parameter 'options' is not"),
        (f"postgresql://u:{SECRET}@real:5432/db@evil", "Percent-encode the password"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=on", "sslmode is not one of disable, "),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-full", "set DATABASE_SSL_ROOT_CERT"),
        (f"postgresql://u:{SECRET}@h/d?connect_timeout=soon", "connect_timeout is not a whole"),
    ],
)
def test_refusals_name_the_problem_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        parse_url(text)
    assert SECRET not in str(refusal.value)


def test_a_ca_file_verifies_the_server(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    for mode, hostname in [("", True), ("&sslmode=require", True), ("&sslmode=verify-ca", False)]:
        for text, variable in [(f"sslrootcert={ca}", None), ("", ca)]:
            url = f"postgresql://u:p@h/d?{text}{mode}"
            context = parse_url(url, ssl_root_cert=variable).connect_args["ssl"]
            assert isinstance(context, ssl.SSLContext)
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname is hostname


def test_a_ca_file_that_is_none_or_goes_unused_is_refused(tmp_path: Path) -> None:
    not_a_ca = tmp_path / "ca.pem"
    not_a_ca.write_text("not a certificate")
    with pytest.raises(ValueError, match="can't be read"):
        parse_url("postgresql://h/d", ssl_root_cert=not_a_ca)
    with pytest.raises(ValueError, match="sslmode=disable contradicts"):
        parse_url("postgresql://h/d?sslmode=disable", ssl_root_cert=not_a_ca)


def test_dev_connects_without_tls_whatever_the_variable_says(tmp_path: Path) -> None:
    url = "postgresql://u:p@127.0.0.1:1/d?sslmode=disable"
    parsed = parse_url(url, ssl_root_cert=tmp_path / "ca.pem")
    assert parsed.connect_args == {"ssl": "disable"}


@pytest.mark.parametrize(
    ("host", "parameters", "tls"),
    [
        (HOST, "", "require"),
        ("db.ref.supabase.co", "", "require"),
        (HOST, "?sslmode=disable", "disable"),
        ("h", "", None),
    ],
)
def test_supabase_is_asked_for_tls(host: str, parameters: str, tls: str | None) -> None:
    """asyncpg's own default, `prefer`, sends a wrong password twice to a server that has TLS."""
    url = f"postgresql://postgres.ref:{SECRET}@{host}:6543/postgres{parameters}"
    assert parse_url(url).connect_args.get("ssl") == tls
