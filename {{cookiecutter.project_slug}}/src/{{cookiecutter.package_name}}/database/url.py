"""From a connection string, as dashboards give it, to what SQLAlchemy and asyncpg take.

SQLAlchemy hands the query of a URL to `asyncpg.connect()` as keywords, so `sslmode`,
`application_name` or `pgbouncer` end in a `TypeError` at the first connection.
"""

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import URL

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_EXPECTED = "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
_PLACEHOLDER = re.compile(r"\[YOUR[-_ ]PASSWORD\]", re.IGNORECASE)
_PARTS = re.compile(r"(?:([^@/?#]*)@)?([^@/?#]*)(?:/([^@?#]*))?(?:\?([^@#]*))?")
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(.*))?")

# Parameters of the query that libpq takes in place of the URL's own parts.
_NAMES = ("user", "password", "host", "port", "dbname")
_TRANSLATED = ("sslmode", "sslrootcert", "application_name", "connect_timeout")
# Meant for other clients (Prisma's pool, Supabase's router): without effect on asyncpg.
_IGNORED = ("pgbouncer", "connection_limit", "supa", "pool_timeout")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_SUPAVISOR_HOSTS = ".pooler.supabase.com"
_SUPABASE_HOSTS = (_SUPAVISOR_HOSTS, ".supabase.co")


@dataclass(frozen=True)
class DatabaseURL:
    """A connection string, taken apart. Its text hides the password."""

    url: URL
    connect_args: dict[str, Any]
    """For `asyncpg.connect()`: what the query said, translated."""
    ignored: tuple[str, ...]
    """Names of the parameters that were dropped."""

    def __str__(self) -> str:
        return str(self.url)


def parse_url(text: str, ssl_root_cert: Path | None = None) -> DatabaseURL:
    """Take a libpq-style connection string apart, and verify the server with a CA file if there is one.

    Raises:
        ValueError: the problem and the fix, never the password.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise ValueError(f"it is not a URL. {_EXPECTED}")
    if scheme not in _SCHEMES:
        raise ValueError(f"its scheme is not one of {', '.join(_SCHEMES)}. {_EXPECTED}")
    if _PLACEHOLDER.search(_decode(rest)):
        raise ValueError("[YOUR-PASSWORD] is still in it. Put the database's password there.")
    parts, query = _split(rest)
    host = parts["host"]
    if not host:
        raise ValueError(f"it names no host. {_EXPECTED}")
    if not host.startswith("/") and not _is_host(host):
        raise ValueError(f"its host is not a host name. Write an IPv6 address in []. {_EXPECTED}")
    if host.endswith(_SUPAVISOR_HOSTS) and "." not in parts["user"]:
        raise ValueError(
            f"a host under {_SUPAVISOR_HOSTS} finds the project by the user's name, and this one "
            "has no project in it. Write postgres.PROJECTREF, as the dashboard does."
        )
    url = URL.create(
        "postgresql+asyncpg",
        username=parts["user"] or None,
        password=parts["password"] or None,
        host=host,
        port=_number("its port", parts["port"] or "5432", 65535),
        database=parts["dbname"] or None,
    )
    connect_args: dict[str, Any] = {}
    if name := query.get("application_name"):
        connect_args["server_settings"] = {"application_name": name}
    if seconds := query.get("connect_timeout"):
        connect_args["timeout"] = _number("connect_timeout", seconds, 10**9)
    if (tls := _tls(query, ssl_root_cert, host)) is not None:
        connect_args["ssl"] = tls
    return DatabaseURL(url, connect_args, tuple(name for name in query if name in _IGNORED))


def _split(rest: str) -> tuple[dict[str, str], dict[str, str]]:
    """The parts of the URL, decoded, and the parameters of its query."""
    match = _PARTS.fullmatch(rest)
    if match is None:
        raise ValueError(f"it can't be taken apart. Percent-encode the password. {_EXPECTED}")
    login, address, database, parameters = (group or "" for group in match.groups())
    if "," in address:
        raise ValueError(
            "it names several hosts. Name one: finding the primary is the pooler's job."
        )
    user, _, password = login.partition(":")
    found = _ADDRESS.fullmatch(address)
    ipv6, name, port = found.groups() if found else (None, address, None)
    values = (user, password, ipv6 or name or "", port or "", database)
    parts = {name: _decode(value) for name, value in zip(_NAMES, values, strict=True)}
    query: dict[str, str] = {}
    for parameter in filter(None, parameters.split("&")):
        name, _, value = parameter.partition("=")
        if name in _NAMES:
            parts[name] = _decode(value)
        elif name in _TRANSLATED + _IGNORED:
            query[name] = _decode(value)
        else:
            # A password with an & in it would be cut in two, and its second half look like a name.
            safe = "password" not in parameters and re.fullmatch(r"[a-z_]{1,30}", name)
            raise ValueError(
                f"its parameter {name if safe else ''!r} is not supported. Remove it, or "
                f"percent-encode the &. Supported are {', '.join(_NAMES + _TRANSLATED)}."
            )
    return parts, query


def _decode(text: str) -> str:
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
        return bool(text.encode("idna")) and not re.search(r"[\s/?#@\[\]\\]", text)
    except ValueError:
        return False


def _number(name: str, text: str, most: int) -> int:
    # Not int() alone: it takes "+5432", "5_432" and digits of other scripts.
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"{name} is not a whole number from 1 to {most}.")
    return int(text)


def _tls(query: dict[str, str], variable: Path | None, host: str) -> ssl.SSLContext | str | None:
    """The `ssl` argument of `asyncpg.connect()`; None leaves asyncpg its default, `prefer`.

    `require` encrypts and verifies nothing. A CA file turns every mode but `disable` into
    verification, of the host name too unless the mode is `verify-ca`.
    """
    mode, ca_file = query.get("sslmode"), query.get("sslrootcert") or variable
    if mode is None and host.endswith(_SUPABASE_HOSTS):
        mode = "require"  # they have TLS
    if mode == "disable" and host == "127.0.0.1" and "sslrootcert" not in query:
        return mode  # as `dev` connects, whatever a .env file says of the real database
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"sslmode is not one of {', '.join(_SSL_MODES)}.")
    if ca_file is None:
        if mode in ("verify-ca", "verify-full"):
            raise ValueError(
                f"sslmode={mode} needs the CA that signed the server's certificate. Download it "
                "and set DATABASE_SSL_ROOT_CERT to the file's path."
            )
        return mode
    if mode == "disable":
        raise ValueError(f"sslmode=disable contradicts the CA file {ca_file}. Remove one of them.")
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError, for a file that is no certificate, is one too
        raise ValueError(
            f"the CA file {ca_file} can't be read: {error.strerror or error}. "
            "DATABASE_SSL_ROOT_CERT or sslrootcert has to name a file in PEM format."
        ) from None
    context.check_hostname = mode != "verify-ca"
    return context
