"""Connection strings as people paste them."""

import re
import ssl
from pathlib import Path

import pytest
import trustme

from {{ cookiecutter.package_name }}.database.url import parse_url

SECRET = "marked-secret"
HOST = "aws-0-eu-west-1.pooler.supabase.com"
NEON = "ep-cool-darkness-a1b2c3d4-pooler.us-east-2.aws.neon.tech"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"postgresql://postgres.ref:pw@{HOST}:6543/app", f"postgres.ref {HOST} 6543 require"),
        (f"postgres://postgres.ref:pw@{HOST}:5432/app", f"postgres.ref {HOST} 5432 require"),
        (f"postgresql://a:pw@{NEON}/app?channel_binding=require", f"a {NEON} 5432 verified"),
        ("postgresql+asyncpg://u:pw@h/app?ssl=require", "u h 5432 require"),
        ("  psql 'postgresql://u:pw@h/app'\n", "u h 5432 prefer"),
        ('export DATABASE_URL="postgresql://u:pw@h/app";', "u h 5432 prefer"),
        ("postgresql://u:pw@[::1]:6543/app", "u ::1 6543 prefer"),
        ("postgresql://u:pw@h/app?host=/cloudsql/a:b:c", "u /cloudsql/a:b:c 5432 disable"),
        ("postgresql://?user=u&password=pw&host=h&port=6&dbname=app", "u h 6 prefer"),
    ],
)
def test_a_string_is_taken_as_the_dashboard_shows_it(text: str, meant: str) -> None:
    parsed = parse_url(text)
    url = parsed.url
    assert (url.drivername, url.password, url.database) == ("postgresql+asyncpg", "pw", "app")
    assert f"{url.username} {url.host} {url.port} {parsed.tls}" == meant
    assert (parsed.ignored, url.query) == ((), {})


@pytest.mark.parametrize("password", ["p%w", "p:w", "p w", "100%", "[p]"])
def test_a_password_pasted_as_it_is(password: str) -> None:
    url = parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require").url
    assert (url.password, url.host, url.port) == (password, "h", 6543)


@pytest.mark.parametrize("password", ["p@ss", "p/w", "p#w", "p?a=b"])
def test_a_password_that_would_move_the_host_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="Percent-encode the password"):
        parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")


def test_parameters_are_translated_or_dropped() -> None:
    query = "application_name=orders&connect_timeout=3&options=endpoint%3Dep-x"
    noise = "pgbouncer=true&connection_limit=1&keepalives=1&target_session_attrs=any"
    parsed = parse_url(f"postgresql://u:p@h/d?{query}&{noise}")
    settings = {"application_name": "orders", "options": "endpoint=ep-x"}
    assert parsed.connect_args["server_settings"] == settings
    assert parsed.connect_args["timeout"] == 3
    dropped = ("pgbouncer", "connection_limit", "keepalives", "target_session_attrs")
    assert parsed.ignored == dropped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a URL"),
        (f"mysql://u:{SECRET}@h/d", "its scheme is not one of postgresql, "),
        ("postgresql://u:[YOUR-PASSWORD]@h/d", "[YOUR-PASSWORD] is still in it"),
        (f"postgresql://postgres:{SECRET}@{HOST}:6543/d", "Write postgres.PROJECTREF"),
        (f"postgresql://u:{SECRET}@h/d?options=-c%20jit=off", "its parameter 'options' is not"),
        (f"postgresql://u:{SECRET}@h/d?timeout=9", "Write connect_timeout"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=on", "It can be disable, allow, "),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-full", "set DATABASE_SSL_ROOT_CERT"),
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
        for text, variable in [(f"sslrootcert={ca}", None), ("", ca), ("sslrootcert=system", None)]:
            url = f"postgresql://u:p@h/d?{text}{mode}"
            parsed = parse_url(url, ssl_root_cert=variable)
            context = parsed.connect_args["ssl"]
            assert isinstance(context, ssl.SSLContext)
            assert parsed.tls == "verified"
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname is (hostname or "system" in text)
            # Python 3.13 and later refuse certificates that libpq accepts, and clouds have.
            assert not context.verify_flags & ssl.VERIFY_X509_STRICT


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
    assert parsed.connect_args["ssl"] == "disable"


def test_supabase_is_asked_for_tls() -> None:
    """With `prefer`, asyncpg would send a wrong password twice to a server that has TLS."""
    for host in (HOST, "db.ref.supabase.co"):
        assert parse_url(f"postgresql://postgres.ref:p@{host}/d").tls == "require"
        assert parse_url(f"postgresql://postgres.ref:p@{host}/d?sslmode=disable").tls == "disable"
