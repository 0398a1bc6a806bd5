"""Connection strings as nobody pastes them: none gets through as another, none tells the password."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from orders_api.database.url import parse_url

SECRET = "marked-secret"


def _parts(url: URL) -> tuple[object, ...]:
    return url.username, url.password, url.host, url.port, url.database


anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(user=anything, password=anything, database=anything)
def test_any_text_survives(user: str, password: str, database: str) -> None:
    encoded = (quote(part, safe="") for part in (user, password, database))
    text = "postgresql://{}:{}@h/{}".format(*encoded)
    assert _parts(parse_url(text).url) == (user, password, "h", 5432, database)


@given(user=anything, password=anything, database=anything)
def test_any_text_survives_what_sqlalchemy_writes(user: str, password: str, database: str) -> None:
    url = URL.create("postgresql+asyncpg", user, password, "h", 5432, database.replace("@", ""))
    text = url.render_as_string(hide_password=False)
    assert parse_url(text).url.password == password


@given(text=st.text())
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    for candidate in (text, f"postgresql://{text}", f"postgresql://u:{SECRET}@{text}"):
        try:
            parse_url(candidate)
        except ValueError as error:
            assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"u:{SECRET}@h/d", "it is not a URL"),
        (f"postgresql+psycopg://u:{SECRET}@h/d", "its scheme is not one of postgresql, "),
        (f"{SECRET}://u:p@h/d", "its scheme is not one of postgresql, "),
        ("postgresql://u:%5Byour-password%5D@h/d", "[YOUR-PASSWORD] is still in it"),
        ("postgresql://", "it names no host"),
        (f"postgresql://u:{SECRET}@a:1,b:2/d", "it names several hosts"),
        (f"postgresql://u:{SECRET}@h:0/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h:65536/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h/d?statement_cache_size=9", "'statement_cache_size' is not"),
        (f"postgresql://h/d?user=u&password=p&{SECRET}", "percent-encode the &"),
        (f"postgresql://h/d?user=u&password={SECRET}@localhost", "Percent-encode the password"),
        ("postgresql://h/d?application_name=me@corp", "Percent-encode the password"),
        (f"postgresql://u:{SECRET}@h:5432:6543/d", "its port is not a whole number"),
        (f"postgresql://u:{SECRET}@::1/d", "it names no host"),
        (f"postgresql://u:{SECRET}@a..b/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@{'a' * 70}/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@[nonsense/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-ca", "set DATABASE_SSL_ROOT_CERT"),
        (f"postgresql://u:{SECRET}@h/d?sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem can't be"),
        (f"postgresql://u:{SECRET}@h/d?connect_timeout=0", "connect_timeout is not a whole"),
        (f"postgresql://u:%00{SECRET}@h/d", "it has a NUL byte in it"),
        (f"postgresql://u:%FF{SECRET}@h/d", "its percent-encoding is not UTF-8"),
        (f"postgresql://u:{SECRET}@x@h/d?application_name=a@b", "Percent-encode the password"),
    ],
)
def test_refusals_name_the_problem_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        parse_url(text)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("password", ["p?w", "@", "//", "a@b/c:d#e f"])
def test_a_password_that_would_move_the_host_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="Percent-encode the password"):
        parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")
