"""Connection strings as people paste them, and as nobody does: none gets through as another, and none
tells the password."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from orders_api.database.url import parse_url

SECRET = "marked-secret"
HOST = "aws-0-eu-west-1.pooler.supabase.com"
NEON = "ep-cool-darkness-a1b2c3d4-pooler.us-east-2.aws.neon.tech"

# What dashboards and manuals show, and what it means: user, host, port, database, TLS, what is dropped.
# The password is pw.
PASTED = {
    # Supabase: transaction and session mode, direct, for Prisma, by its integration with Vercel.
    f"postgresql://postgres.ref:pw@{HOST}:6543/postgres": f"postgres.ref {HOST} 6543 postgres require",
    f"postgresql://postgres.ref:pw@{HOST}:5432/postgres": f"postgres.ref {HOST} 5432 postgres require",
    "postgresql://postgres:pw@db.ref.supabase.co:5432/postgres?sslnegotiation=direct": (
        "postgres db.ref.supabase.co 5432 postgres require"
    ),
    f"postgresql://postgres.ref:pw@{HOST}:6543/postgres?pgbouncer=true&connection_limit=1": (
        f"postgres.ref {HOST} 6543 postgres require pgbouncer connection_limit"
    ),
    f"postgres://postgres.ref:pw@{HOST}:6543/postgres?sslmode=require&supa=base-pooler.x": (
        f"postgres.ref {HOST} 6543 postgres require supa"
    ),
    f"postgres://postgres.ref:pw@{HOST}:6543/postgres?workaround=supabase-pooler.vercel": (
        f"postgres.ref {HOST} 6543 postgres require workaround"
    ),
    f"postgres://postgres:pw@{HOST}:6543/postgres?options=reference%3Dref": (
        f"postgres {HOST} 6543 postgres require"
    ),
    # Neon: today's, for clients without SNI, by its integration with Vercel.
    f"postgresql://alex:pw@{NEON}/dbname?sslmode=require&channel_binding=require": (
        f"alex {NEON} 5432 dbname verified"
    ),
    f"postgresql://alex:pw@{NEON}/dbname?sslmode=require&options=endpoint%3Dep-cool-darkness": (
        f"alex {NEON} 5432 dbname require"
    ),
    f"postgres://default:pw@{NEON}:5432/verceldb?sslmode=require&pgbouncer=true&connect_timeout=15": (
        f"default {NEON} 5432 verceldb require pgbouncer"
    ),
    # Render, Railway, Heroku, Fly.
    "postgresql://u:pw@dpg-cv1-a.frankfurt-postgres.render.com/app_x1y2": (
        "u dpg-cv1-a.frankfurt-postgres.render.com 5432 app_x1y2 prefer"
    ),
    "postgresql://postgres:pw@monorail.proxy.rlwy.net:41234/railway": (
        "postgres monorail.proxy.rlwy.net 41234 railway prefer"
    ),
    "postgres://u:pw@ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:5432/d8?ssl=true&sslmode=require": (
        "u ec2-1-2-3-4.eu-west-1.compute.amazonaws.com 5432 d8 require"
    ),
    "postgres://postgres:pw@app-db.flycast:5432/app?sslmode=disable": (
        "postgres app-db.flycast 5432 app disable"
    ),
    # DigitalOcean's pool, Aiven, Timescale, Crunchy Bridge, ElephantSQL, Xata, CockroachDB.
    "postgresql://doadmin:pw@db-1-do-user-1-0.b.db.ondigitalocean.com:25061/pool?sslmode=require": (
        "doadmin db-1-do-user-1-0.b.db.ondigitalocean.com 25061 pool require"
    ),
    "postgres://avnadmin:pw@pg-1-x.a.aivencloud.com:12691/defaultdb?sslmode=require": (
        "avnadmin pg-1-x.a.aivencloud.com 12691 defaultdb require"
    ),
    "postgres://tsdbadmin:pw@a1.b2.tsdb.cloud.timescale.com:34567/tsdb?sslmode=require": (
        "tsdbadmin a1.b2.tsdb.cloud.timescale.com 34567 tsdb require"
    ),
    "postgres://application:pw@p.abc.db.postgresbridge.com:5432/postgres": (
        "application p.abc.db.postgresbridge.com 5432 postgres prefer"
    ),
    "postgres://u:pw@snuffleupagus.db.elephantsql.com/u": (
        "u snuffleupagus.db.elephantsql.com 5432 u prefer"
    ),
    "postgresql://ws:pw@us-east-1.sql.xata.sh/app:main?sslmode=require": (
        "ws us-east-1.sql.xata.sh 5432 app:main require"
    ),
    "postgresql://u:pw@free.aws.cockroachlabs.cloud:26257/defaultdb"
    "?sslmode=verify-full&sslrootcert=system&options=--cluster%3Dgold-1": (
        "u free.aws.cockroachlabs.cloud 26257 defaultdb verified"
    ),
    # Azure (the older servers want user@server), AWS RDS, Google Cloud SQL.
    "postgresql://admin%40srv:pw@srv.postgres.database.azure.com/postgres?sslmode=require": (
        "admin@srv srv.postgres.database.azure.com 5432 postgres require"
    ),
    "postgresql://postgres:pw@app.proxy-c1.eu-west-1.rds.amazonaws.com:5432/app?sslmode=require": (
        "postgres app.proxy-c1.eu-west-1.rds.amazonaws.com 5432 app require"
    ),
    "postgresql://u:pw@localhost/app?host=/cloudsql/project:region:instance": (
        "u /cloudsql/project:region:instance 5432 app disable"
    ),
    # SQLAlchemy's, and libpq's other ways to write the parts.
    "postgresql+asyncpg://u:pw@h/app?ssl=require&prepared_statement_cache_size=0": (
        "u h 5432 app require prepared_statement_cache_size"
    ),
    "postgresql://u:pw@[::1]:6543/app": "u ::1 6543 app prefer",
    "postgresql://u:pw@%2Frun%2Fpg:6543/app?sslmode=require": "u /run/pg 6543 app disable",
    "postgresql://?user=u&password=pw&host=h&port=6&dbname=app": "u h 6 app prefer",
    "postgresql:///app?user=u&password=pw&host=h&host=h&database=app": "u h 5432 app prefer",
}


def _parts(url: URL) -> tuple[object, ...]:
    return url.username, url.password, url.host, url.port, url.database


@pytest.mark.parametrize("text", PASTED)
def test_a_string_is_taken_as_the_dashboard_shows_it(text: str) -> None:
    parsed = parse_url(text)
    url = parsed.url
    assert (url.drivername, url.password, url.query) == ("postgresql+asyncpg", "pw", {})
    told = (url.username, url.host, url.port, url.database, parsed.tls, *parsed.ignored)
    assert " ".join(map(str, told)) == PASTED[text]


@pytest.mark.parametrize(
    "pasted",
    [
        "  {}\n",
        "\ufeff{}",
        "{}\u200b",
        "\u00a0{}\r\n",
        '"{}"',
        "'{}'",
        "`{}`",
        "\u201c{}\u201d",
        "psql '{}'",
        "psql {}",
        "DATABASE_URL={}",
        'DATABASE_URL = "{}"',
        "export DATABASE_URL='{}';",
        '$env:DATABASE_URL="{}"',
        "\"psql '{}'\"",
    ],
)
def test_what_is_pasted_along_is_taken_off(pasted: str) -> None:
    assert parse_url(pasted.format("postgresql://u:pw@h/d")) == parse_url("postgresql://u:pw@h/d")


@pytest.mark.parametrize(
    "password", ["p%w", "p:w", "p w", "100%", "[p]", "password", "$ecret", "showpass1", "'"]
)
def test_a_password_pasted_as_it_is(password: str) -> None:
    parsed = parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")
    assert _parts(parsed.url) == ("u", password, "h", 6543, "d")
    assert parsed.tls == "require"


@pytest.mark.parametrize(
    "password", ["p@ss", "p/w", "p#w", "p?w", "@", "//", "a@b/c:d#e f", "p?a=b"]
)
def test_a_password_that_would_move_the_host_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="Percent-encode the password"):
        parse_url(f"postgresql://u:{password}@h:6543/d?sslmode=require")


@pytest.mark.parametrize(
    "login",
    [
        *("u:[YOUR-PASSWORD]", "u:[your-password]", "u:[YOUR_PASSWORD]", "u:{your_password}"),
        *("u:<password>", "u:<ENTER-SQL-USER-PASSWORD>", "u:${DB_PASSWORD}", "u:$PGPASSWORD"),
        *("u:YOUR-PASSWORD", "CLICK_TO:REVEAL_PASSWORD", "u:enter_your_password"),
        *("u:****", "u:••••••", "<user>:pw", "postgres.[PROJECT-REF]:pw"),
    ],
)
def test_a_placeholder_is_named(login: str) -> None:
    with pytest.raises(ValueError, match=re.escape("[YOUR-PASSWORD] is still in it, or another")):
        parse_url(f"postgresql://{login}@h/d")


@pytest.mark.parametrize(
    "password",
    ["$Compass99", "$trespassing1", "xxxxxx", "****", "[secret]", "your-password", "%user%"],
)
def test_a_password_that_looks_like_a_placeholder_has_a_way_in(password: str) -> None:
    """What was left in is not percent-encoded."""
    encoded = f"%{ord(password[0]):02X}{quote(password[1:])}"
    for text in (f"postgresql://u:{encoded}@h/d", f"postgresql://h/d?user=u&password={encoded}"):
        assert parse_url(text).url.password == password
    for text in (f"postgresql://u:{password}@h/d", f"postgresql://h/d?user=u&password={password}"):
        with pytest.raises(ValueError, match="percent-encode its first character"):
            parse_url(text)


anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
anything = anything.filter(lambda it: len(it) < 3 or len(set(it)) > 1)  # *** is a placeholder


@given(user=anything, password=anything, database=anything)
def test_any_text_survives(user: str, password: str, database: str) -> None:
    encoded = (quote(part, safe="") for part in (user, password, database))
    text = "postgresql://{}:{}@h/{}".format(*encoded)
    assert _parts(parse_url(text).url) == (user, password, "h", 5432, database)


@given(user=anything, password=anything)
def test_any_text_survives_what_sqlalchemy_writes(user: str, password: str) -> None:
    url = URL.create("postgresql+asyncpg", user, password, "h", 5432, "d")
    text = url.render_as_string(hide_password=False)
    assert parse_url(text).url.password == password


@given(text=st.text())
def test_any_other_text_is_refused_in_one_way(text: str) -> None:
    for candidate in (text, f"postgresql://{text}", f"postgresql://u:{SECRET}@{text}"):
        try:
            parse_url(candidate)
        except ValueError as error:
            assert SECRET not in str(error)


# Every parameter of libpq (PostgreSQL 18), and what other clients add. Obeyed, as asyncpg calls it.
OBEYED: dict[str, dict[str, object]] = {
    "application_name=a": {"server_settings": {"application_name": "a"}},
    "fallback_application_name=a": {"server_settings": {"application_name": "a"}},
    "fallback_application_name=b&application_name=a": {
        "server_settings": {"application_name": "a"}
    },
    "connect_timeout=3": {"timeout": 3},
    "options=project%3Dep-x": {"server_settings": {"options": "project=ep-x"}},
    "options=--cluster=gold-1": {"server_settings": {"options": "--cluster=gold-1"}},
    "sslmode=disable": {"ssl": "disable"},
    "sslnegotiation=direct": {"direct_tls": True},
    "sslnegotiation=postgres": {"direct_tls": False},
    "channel_binding=prefer": {"ssl": "prefer"},
    "password=": {"password": ""},
}
DROPPED = """
    pgbouncer=true connection_limit=1 pool_timeout=9 supa=x workaround=x uselibpqcompat=true
    keepalives=1 keepalives_idle=30 keepalives_interval=10 keepalives_count=3 tcp_user_timeout=9
    client_encoding=utf8 target_session_attrs=any load_balance_hosts=disable replication=false
    sslcompression=0 sslsni=1 sslcertmode=allow ssl_min_protocol_version=TLSv1.2
    ssl_max_protocol_version=TLSv1.3 min_protocol_version=3.0 max_protocol_version=latest
    gssencmode=prefer gssdelegation=0 statement_cache_size=0 prepared_statement_cache_size=0
    max_cached_statement_lifetime=9 max_cacheable_statement_size=9 schema=public
    sslaccept=accept_invalid_certs
"""
REFUSED = {
    "options=-c%20jit=off": "ALTER ROLE ... SET",
    "schema=other": "ALTER ROLE ... SET",
    "statement_cache_size=9": "It can be 0",
    "target_session_attrs=read-write": "Finding the primary is the pooler's job",
    "load_balance_hosts=random": "There is one host",
    "sslmode=on": "It can be disable, allow, prefer, require, verify-ca, verify-full",
    "sslnegotiation=tls": "It can be postgres, direct",
    "channel_binding=yes": "It can be disable, prefer, require",
    "sslaccept=strict": "Write sslmode=verify-full",
    "gssencmode=require": "Write sslmode=require",
    "hostaddr=127.0.0.1": "Write the address as the host",
    "passfile=/f": "Write what the file has into the URL",
    "service=s": "Write what the file has into the URL",
    "require_auth=scram-sha-256": "Verify the server with sslrootcert",
    "requirepeer=postgres": "Verify the server with sslrootcert",
    "timeout=9": "Write connect_timeout",
    "command_timeout=9": "Set DATABASE_COMMAND_TIMEOUT",
    "direct_tls=true": "Write sslnegotiation=direct",
    "sslsni=0": "It can be 1",
    "sslcertmode=require": "Write sslcert and sslkey",
    "client_encoding=latin1": "remove it",
    "gssdelegation=1": "It can be 0, no, off, false",
    "replication=database": "It can be 0, no, off, false",
    "min_protocol_version=3.2": "The protocol is 3.0",
    "max_protocol_version=2.0": "The protocol is 3.0",
    "ssl_min_protocol_version=TLSv1.3": "The server chooses",
    **{
        f"{name}=1": "Remove it"
        for name in (
            *("gsslib", "krbsrvname", "scram_client_key", "scram_server_key", "oauth_issuer"),
            *("oauth_client_id", "oauth_client_secret", "oauth_scope", "sslkeylogfile"),
            *("sslcrl", "sslcrldir", "sslidentity"),
        )
    },
}


@pytest.mark.parametrize("parameters", OBEYED)
def test_a_parameter_is_obeyed(parameters: str) -> None:
    parsed = parse_url(f"postgresql://u@h/d?{parameters}")
    assert parsed.connect_args.items() >= OBEYED[parameters].items()
    assert parsed.ignored == ()


def test_what_changes_nothing_is_dropped_and_told() -> None:
    parsed = parse_url(f"postgresql://u:p@h/d?{'&'.join(DROPPED.split())}")
    plain = parse_url("postgresql://u:p@h/d")
    assert (parsed.url, parsed.connect_args, parsed.tls) == (
        plain.url,
        plain.connect_args,
        plain.tls,
    )
    assert parsed.ignored == tuple(each.partition("=")[0] for each in DROPPED.split())


@pytest.mark.parametrize("parameter", REFUSED)
def test_a_parameter_that_can_not_be_obeyed_is_refused(parameter: str) -> None:
    name = re.escape(parameter.partition("=")[0])
    with pytest.raises(ValueError, match=f"its parameter '{name}' is not supported.*") as refusal:
        parse_url(f"postgresql://u:{SECRET}@h/d?{parameter}")
    assert REFUSED[parameter] in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not a URL"),
        (f"u:{SECRET}@h/d", "it is not a URL"),
        (f"host=h port=5432 dbname=d user=u password={SECRET}", "it is not a URL"),
        (f"Host=h;Database=d;Username=u;Password={SECRET};SSL Mode=Require", "it is not a URL"),
        ("psql -h h -p 5432 -d postgres -U postgres.ref", "it is not a URL"),
        (f"mysql://u:{SECRET}@h/d", "its scheme is not one of"),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", "its scheme is not one of"),
        (f"jdbc:postgresql://h/d?user=u&password={SECRET}", "its scheme is not one of"),
        (f"{SECRET}://u:p@h/d", "its scheme is not one of"),
        (f"postgresql://u:{SECRET}@h/d'", "a quotation mark at one end only"),
        (f"'postgresql://u:{SECRET}@h/d", "a quotation mark at one end only"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=require&amp;connect_timeout=3", "Write & for &amp;"),
        (f"postgresql://u:\u200b{SECRET}@h/d", "can't be seen (U+200B)"),
        (f"postgresql://u:{SECRET}\n@h/d", "can't be seen (U+000A)"),
        (f"postgresql://u:{SECRET}@/d", "it names no host"),
        ("postgresql://", "it names no host"),
        (f"postgresql://u:{SECRET}@a:1,b:2/d", "it names several hosts"),
        (f"postgresql://u:{SECRET}@/d?host=a&host=b", "it names several hosts"),
        (f"postgresql://u:{SECRET}@/d?host=a,b", "it names several hosts"),
        (f"postgresql://u:{SECRET}@/d?host=a&port=1,2", "it names several hosts"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=require&sslmode=disable", "it has 'sslmode' twice"),
        (f"postgresql://u:{SECRET}@h/d?ssl=true&sslmode=disable", "it has 'sslmode' twice"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=require&{SECRET}", "parameter '' is not supported"),
        (f"postgresql://u:{SECRET}@h/d?sslmod=require", "parameter 'sslmod' is not supported"),
        (f"postgresql://postgres:{SECRET}@{HOST}:6543/postgres", "Write postgres.PROJECTREF"),
        (f"postgresql://u:{SECRET}@h:port/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h:0/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h:65536/d", "its port is not a whole number from 1 to 65535"),
        (f"postgresql://h/d?user=u&password=p&{SECRET}", "percent-encode the &"),
        (f"postgresql://h/d?user=u&password={SECRET}@localhost", "Percent-encode the password"),
        ("postgresql://h/d?application_name=me@corp", "Percent-encode the password"),
        (f"postgresql://admin@srv:{SECRET}@srv.database.azure.com/d", "an @ in the user's name"),
        (f"postgresql://u:{SECRET}@real:5432/db@evil", "Percent-encode the password"),
        (f"postgresql://u:{SECRET}@h:5432:6543/d", "its port is not a whole number"),
        (f"postgresql://u:{SECRET}@::1/d", "it names no host"),
        (f"postgresql://u:{SECRET}@a..b/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@<host>/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@{'a' * 70}/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@[nonsense/d", "its host is not a host name"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-full", "set DATABASE_SSL_ROOT_CERT"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-ca", "set DATABASE_SSL_ROOT_CERT"),
        (f"postgresql://u:{SECRET}@h/d?sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem can't be"),
        (f"postgresql://u:{SECRET}@h/d?sslcert=/nowhere&sslkey=/no", "sslcert, sslkey or its"),
        (f"postgresql://u:{SECRET}@h/d?sslkey=/no", "sslcert, sslkey or its"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=disable&sslnegotiation=direct", "contradicts"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=disable&channel_binding=require", "contradicts"),
        (f"postgresql://u:{SECRET}@h/d?connect_timeout=soon", "connect_timeout is not a whole"),
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
