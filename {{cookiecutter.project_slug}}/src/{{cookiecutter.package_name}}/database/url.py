"""From a connection string, as dashboards give it, to what SQLAlchemy and asyncpg take.

SQLAlchemy hands the query of a URL to `asyncpg.connect()` as keywords, so `sslmode`,
`application_name` or `pgbouncer` end in a `TypeError` at the first connection. And what asyncpg is not
given it takes from PG* variables, ~/.pgpass and ~/.postgresql, so it is given everything.
"""

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import URL

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_EXPECTED = "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
_PARTS = re.compile(r"(?:([^@/?#]*)@)?([^@/?#]*)(?:/([^@?#]*))?(?:\?([^@#]*))?")
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(.*))?")

# What is pasted along with a URL: psql '...', export DATABASE_URL="...";
_QUOTES = "\"'`\u201c\u201d\u201e\u2018\u2019\xab\xbb"
_WRAPPED = re.compile(
    rf"(?:(?:export|set)\s+|\$env:)?\w+\s*=\s*(.+)|psql\s+(?:(?:-d|--dbname)[=\s]\s*)?(.+)"
    rf"|[{_QUOTES}](.+)[{_QUOTES}];?"
)
# And in place of a part of it: [YOUR-PASSWORD], {your_password}, ${DB_PASSWORD}, REVEAL_PASSWORD, ****
_PLACEHOLDER = re.compile(
    r"(?:postgres\.)?[\[<{(%$]+[\w .-]*(?:pass|secret|your|user|name|ref)[\w .-]*[\]>})%]+"
    r"|\$\w*pass\w*|(?:your|reveal|show|enter)[-_ ](?:\w+[-_ ])?pass(?:word)?|yourpassword"
    r"|([*•●….]|xx)\1{2,}",
    re.IGNORECASE,
)

# The parts, which the query may have in the place of the URL.
_NAMES = ("user", "password", "host", "port", "dbname")
_SYNONYMS = {"database": "dbname", "ssl": "sslmode"}
_OBEYED = """
    application_name fallback_application_name connect_timeout options sslmode sslrootcert sslcert
    sslkey sslpassword sslnegotiation channel_binding
"""
# Dropped: for other clients' pools, caches and routers, and for a dead connection, which is noticed by
# DATABASE_PING_AFTER_IDLE and DATABASE_COMMAND_TIMEOUT.
_HARMLESS = """
    pgbouncer connection_limit pool_timeout supa workaround uselibpqcompat single_use_connections
    max_connection_lifetime max_idle_connection_lifetime max_cached_statement_lifetime
    max_cacheable_statement_size keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout sslcompression
"""
_SETTING = "Poolers refuse or forget what is set for a session: ALTER ROLE ... SET, or SET LOCAL."
_ONE_HOST = "it names several hosts. Name one: finding the primary is the pooler's job."
# Of libpq (PostgreSQL 18), asyncpg, SQLAlchemy, Prisma and node, too: the values that a parameter may
# have, and what to do about any other. One that is not obeyed is dropped: its value changes nothing.
_RULES = {
    "sslmode": ("disable|allow|prefer|require|verify-ca|verify-full", ""),
    "sslnegotiation": ("postgres|direct", ""),
    "channel_binding": ("disable|prefer|require", ""),
    # By which Neon, CockroachDB and Supavisor find the database.
    "options": (r"\s*(endpoint|project|reference|--cluster)=[\w.-]+\s*", _SETTING),
    "schema": ("public", _SETTING),
    "search_path currentSchema statement_timeout server_settings": ("", _SETTING),
    "statement_cache_size prepared_statement_cache_size": ("0", ""),
    "client_encoding": ("(?i:auto|utf-?8|unicode)", "It is UTF8: remove it."),
    "target_session_attrs": ("any", "Finding the primary is the pooler's job: remove it."),
    "load_balance_hosts": ("disable", "There is one host: remove it."),
    "sslsni": ("1", ""),
    "sslcertmode": ("allow", "Write sslcert and sslkey, or neither."),
    "sslaccept": ("accept_invalid_certs", "Write sslmode=verify-full and sslrootcert."),
    "ssl_min_protocol_version": (r"TLSv1(\.[12])?", "The server chooses between 1.2 and 1.3."),
    "ssl_max_protocol_version": (r"TLSv1\.3", "The server chooses between 1.2 and 1.3."),
    "min_protocol_version": (r"3\.0", "The protocol is 3.0: remove it."),
    "max_protocol_version": (r"3\.[02]|latest", "The protocol is 3.0: remove it."),
    "gssencmode": ("disable|prefer", "Write sslmode=require."),
    "gssdelegation replication": ("0|no|off|false", ""),
    "require_auth requirepeer": ("", "Verify the server with sslrootcert."),
    "hostaddr": ("", "Write the address as the host."),
    "service servicefile passfile": ("", "Write what the file has into the URL."),
    "timeout": ("", "Write connect_timeout."),
    "command_timeout socket_timeout": ("", "Set DATABASE_COMMAND_TIMEOUT."),
    "requiressl": ("", "Write sslmode=require."),
    "direct_tls": ("", "Write sslnegotiation=direct."),
}
_PARAMETERS = dict.fromkeys([*_NAMES, *_OBEYED.split(), *_HARMLESS.split()], (".*", ""))
_PARAMETERS |= {name: rule for names, rule in _RULES.items() for name in names.split()}

_SUPAVISOR_HOSTS = ".pooler.supabase.com"
_SUPABASE_HOSTS = (_SUPAVISOR_HOSTS, ".supabase.co")


@dataclass(frozen=True)
class DatabaseURL:
    """A connection string, taken apart. Its text hides the password."""

    url: URL
    connect_args: dict[str, Any] = field(compare=False)  # an SSLContext equals no other
    """For `asyncpg.connect()`: what the query said, translated, and what else it would look for."""
    tls: str
    """`disable`, `allow`, `prefer`, `require`, or `verified`."""
    ignored: tuple[str, ...]
    """Names of the parameters that were dropped."""

    def __str__(self) -> str:
        return str(self.url)


def parse_url(text: str, ssl_root_cert: Path | None = None) -> DatabaseURL:
    """Take a libpq-style connection string apart; with a CA file, the server is verified. A `ValueError`
    says the problem and the fix, and never the password."""
    scheme, separator, rest = _unwrap(text).partition("://")
    if not separator:
        raise ValueError(f"it is not a URL. {_EXPECTED}")
    if scheme.lower() not in _SCHEMES:
        raise ValueError(f"its scheme is not one of {', '.join(_SCHEMES)}. {_EXPECTED}")
    parts, query = _split(rest)
    host, port = parts["host"], parts["port"]
    if "," in host + port:
        raise ValueError(_ONE_HOST)
    if not host:
        raise ValueError(f"it names no host. {_EXPECTED}")
    if not host.startswith("/") and not _is_host(host):
        raise ValueError(f"its host is not a host name. Write an IPv6 address in []. {_EXPECTED}")
    named = "." in parts["user"] or "reference=" in query.get("options", "")
    if host.endswith(_SUPAVISOR_HOSTS) and not named:
        raise ValueError(
            f"a host under {_SUPAVISOR_HOSTS} finds the project by the user's name, and this one "
            "has no project in it. Write postgres.PROJECTREF, as the dashboard does."
        )
    user = parts["user"] or _process_user()
    url = URL.create(
        "postgresql+asyncpg",
        username=user,
        password=parts["password"] or None,
        host=host,
        port=_number("its port", port or "5432", 65535),
        database=parts["dbname"] or user,
    )
    # What asyncpg would look for elsewhere.
    connect_args: dict[str, Any] = {"krbsrvname": "postgres", "gsslib": "gssapi"}
    connect_args["target_session_attrs"] = "any"
    if not url.password:
        connect_args["password"] = ""
    application = query.get("application_name") or query.get("fallback_application_name")
    settings = {"application_name": application, "options": query.get("options")}
    connect_args["server_settings"] = {name: value for name, value in settings.items() if value}
    if seconds := query.get("connect_timeout"):
        connect_args["timeout"] = _number("connect_timeout", seconds, 10**9)
    tls, tls_args = _tls(query, ssl_root_cert, host)
    ignored = tuple(name for name in query if name not in _OBEYED.split())
    return DatabaseURL(url, connect_args | tls_args, tls, ignored)


def _process_user() -> str:
    import pwd  # Windows has none

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ValueError(f"it names no user. {_EXPECTED}") from None


def _unwrap(text: str) -> str:
    """What was pasted, without what a shell, a file or a document has around it."""
    while True:
        text = text.strip("".join(it for it in text if it.isspace() or not it.isprintable()))
        if (found := _WRAPPED.fullmatch(text)) is None:
            break
        text = found[found.lastindex or 0]
    if text.startswith(tuple(_QUOTES)) or text.endswith(tuple(_QUOTES)):
        raise ValueError("it has a quotation mark at one end only. Remove it.")
    if "&amp;" in text:
        raise ValueError("it was copied from the source of a page. Write & for &amp;.")
    if unseen := [it for it in text if not it.isprintable()]:
        raise ValueError(
            f"it has a character in it that can't be seen (U+{ord(unseen[0]):04X}). Remove it."
        )
    return text


def _split(rest: str) -> tuple[dict[str, str], dict[str, str]]:
    """The parts of the URL, decoded, and the other parameters of its query."""
    match = _PARTS.fullmatch(rest)
    if match is None:
        raise ValueError(
            "it can't be taken apart. Percent-encode the password, and an @ in the user's name. "
            f"{_EXPECTED}"
        )
    login, address, database, parameters = (group or "" for group in match.groups())
    user, _, password = login.partition(":")
    found = _ADDRESS.fullmatch(address)
    ipv6, name, port = found.groups() if found else (None, address, None)
    written = (user, password, ipv6 or name or "", port or "", database)
    parts = {name: _decode(text, name) for name, text in zip(_NAMES, written, strict=True)}
    query: dict[str, str] = {}
    for parameter in filter(None, parameters.split("&")):
        name, _, encoded = parameter.partition("=")
        name = _SYNONYMS.get(name, name)
        value = "require" if parameter == "ssl=true" else _decode(encoded, name)  # as libpq has it
        if name not in _PARAMETERS:
            # A password with an & in it would be cut in two, and its second half look like a name.
            safe = "password" not in parameters and re.fullmatch(r"[a-z_]{1,30}", name)
            raise ValueError(
                f"its parameter {name if safe else ''!r} is not supported. Remove it, or "
                f"percent-encode the &. Supported are {', '.join([*_NAMES, *_OBEYED.split()])}."
            )
        values, cure = _PARAMETERS[name]
        if value and not re.fullmatch(values, value, re.DOTALL):
            possible = f"It can be {values.replace('|', ', ')}." if values else "Remove it."
            raise ValueError(f"its parameter {name!r} is not supported. {cure or possible}")
        if value and query.setdefault(name, value) != value:
            raise ValueError(_ONE_HOST if name == "host" else f"it has {name!r} twice. Remove one.")
    return parts | {name: query.pop(name) for name in _NAMES if name in query}, query


def _decode(text: str, name: str) -> str:
    # As it is written: to encode a real password that looks like one is its way in.
    if name in ("user", "password", "dbname") and _PLACEHOLDER.fullmatch(text):
        raise ValueError(
            "[YOUR-PASSWORD] is still in it, or another placeholder. Put the database's own there. "
            "If it is that, percent-encode its first character: %24 is $, %78 is x."
        )
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its percent-encoding is not UTF-8. Write a lone % as %25.") from None
    if "\0" in decoded:
        raise ValueError("it has a NUL byte in it (%00), which PostgreSQL can't take. Remove it.")
    return decoded


def _is_host(text: str) -> bool:
    try:
        if ":" in text:
            return bool(ipaddress.ip_address(text))
        # What the resolver will do: labels of 1 to 63 characters.
        return bool(text.encode("idna") and re.fullmatch(r"[\w.-]+", text))
    except ValueError:
        return False


def _number(name: str, text: str, most: int) -> int:
    # Not int() alone: it takes "+5432", "5_432" and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"{name} is not a whole number from 1 to {most}.")
    return int(text)


def _tls(query: dict[str, str], variable: Path | None, host: str) -> tuple[str, dict[str, Any]]:
    """What is asked of the server, and the arguments of `asyncpg.connect()` for it.

    `require` encrypts and verifies nothing. A CA turns every mode but `disable` into verification, of
    the host name too unless the mode is `verify-ca`. `channel_binding=require` asks who answers, too:
    asyncpg can't bind, so without a CA file the system's CAs have to know the server.
    """
    mode = query.get("sslmode", "require" if host.endswith(_SUPABASE_HOSTS) else "prefer")
    if host.startswith("/"):
        return "disable", {"ssl": "disable", "direct_tls": False}  # as libpq does
    if mode == "disable" and host == "127.0.0.1":
        variable = None  # as `dev` connects, whatever a .env file says of the real database
    ca = query.get("sslrootcert") or str(variable or "")
    if not ca and query.get("channel_binding") == "require":
        ca = "system"
    if not ca and mode in ("verify-ca", "verify-full"):
        raise ValueError(
            f"sslmode={mode} needs the CA that signed the server's certificate. Download it and set "
            "DATABASE_SSL_ROOT_CERT to the file's path, or to `system` for those of this machine."
        )
    direct = query.get("sslnegotiation") == "direct"
    certificate = [query.get(name, "") for name in ("sslcert", "sslkey", "sslpassword")]
    if mode == "disable" and (ca or direct or any(certificate)):
        what = f"the CA file {ca}" if ca else "sslnegotiation=direct or sslcert"
        raise ValueError(f"sslmode=disable contradicts {what}. Remove one of them.")
    if mode in ("disable", "allow", "prefer") and not (ca or direct or any(certificate)):
        return mode, {"ssl": mode, "direct_tls": False}
    # Not create_default_context(): since Python 3.13 it refuses certificates that libpq accepts.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = ca == "system" or (bool(ca) and mode != "verify-ca")
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    read = f"the CA file {ca}"
    try:
        if ca == "system":
            context.load_default_certs()
        elif ca:
            context.load_verify_locations(ca)
        if any(certificate):
            read = "sslcert, sslkey or its sslpassword"
            context.load_cert_chain(certificate[0], certificate[1] or None, lambda: certificate[2])
    except OSError as error:  # ssl.SSLError, for a file that is no certificate, is one too
        reason = error.strerror or error
        raise ValueError(f"{read} can't be read: {reason}. It has to be in PEM format.") from None
    return "verified" if ca else "require", {"ssl": context, "direct_tls": direct}
