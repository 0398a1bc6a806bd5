"""From a connection string, as people paste it, to what SQLAlchemy and asyncpg take.

SQLAlchemy hands the query of a URL to `asyncpg.connect()` as keywords, so `sslmode`,
`application_name` or `pgbouncer`, which dashboards add, end in a `TypeError` at the first
connection. And a password with `@`, `/` or `#` in it, pasted unencoded, moves the host.
"""

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import URL

from {{ cookiecutter.package_name }}.settings import ConfigurationError

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_EXPECTED = "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
_PLACEHOLDER = re.compile(r"\[YOUR[-_ ]PASSWORD\]", re.IGNORECASE)

# Every part is percent-encoded where it has to be.
_STRICT = re.compile(r"(?:([^@/?#]*)@)?([^@/?#]*)(?:/([^@?#]*))?(?:\?([^@#]*))?")
# The password was pasted as it is: the host is what follows the last @.
_LENIENT = re.compile(r"([^:@/?#]*:.*)@([^@/?#]*)(?:/([^@?#]*))?(?:\?([^@#]*))?", re.DOTALL)
# In such a password this could be the real host, and what follows the last @ another one.
_AMBIGUOUS = re.compile(r"@.*\?.*=|@[^@/]*:[0-9]+/", re.DOTALL)

# Parameters of the query that libpq takes in place of the URL's own parts.
_PARTS = ("user", "password", "host", "port", "dbname")
# Meant for other clients (Prisma's pool, Supabase's router): without effect on asyncpg.
_IGNORED = ("pgbouncer", "connection_limit", "supa", "pool_timeout")
_TRANSLATED = ("sslmode", "sslrootcert", "application_name", "connect_timeout")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_SUPAVISOR_HOSTS = ".pooler.supabase.com"
_SUPABASE_HOSTS = (_SUPAVISOR_HOSTS, ".supabase.co")


class _Problem(Exception):
    pass


@dataclass(frozen=True)
class DatabaseURL:
    """A connection string, taken apart."""

    url: URL
    """For `create_async_engine`. `str()` of it hides the password."""

    connect_args: dict[str, Any]
    """For `asyncpg.connect()`: what the query said, translated."""

    ignored: tuple[str, ...]
    """Names of the parameters that were dropped."""


def parse_url(variable: str, text: str, *, ssl_root_cert: Path | None = None) -> DatabaseURL:
    """Take a libpq-style connection string apart.

    Args:
        variable: the environment variable that holds `text`, for messages.
        text: `postgres://`, `postgresql://` or `postgresql+asyncpg://`. User, password and
            database may be percent-encoded; a password pasted as it is works too, if it has no
            `%` followed by two hexadecimal digits.
        ssl_root_cert: a CA file to verify the server with, unless the query names another.

    Raises:
        ConfigurationError: naming `variable`, the problem and the fix, never the password.
    """
    try:
        return _parse(text.strip(), ssl_root_cert)
    except _Problem as problem:
        raise ConfigurationError(f"{variable} can't be used: {problem}") from None


def _parse(text: str, ssl_root_cert: Path | None) -> DatabaseURL:
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _Problem(f"it is not a URL. {_EXPECTED}")
    if scheme not in _SCHEMES:
        raise _Problem(f"its scheme is not one of {', '.join(_SCHEMES)}. {_EXPECTED}")
    if _PLACEHOLDER.search(_decode(rest)):
        raise _Problem("[YOUR-PASSWORD] is still in it. Put the database's password there.")

    parts, query = _split(rest)
    if not parts["host"]:
        raise _Problem(f"it names no host. {_EXPECTED}")
    if not parts["host"].startswith("/") and not _is_host(parts["host"]):
        raise _Problem(f"its host is not a host name. Write an IPv6 address in []. {_EXPECTED}")
    if parts["host"].endswith(_SUPAVISOR_HOSTS) and "." not in parts["user"]:
        raise _Problem(
            f"a host under {_SUPAVISOR_HOSTS} finds the project by the user's name, and this one "
            "has no project in it. Write postgres.PROJECTREF, as the dashboard does."
        )
    url = URL.create(
        "postgresql+asyncpg",
        username=parts["user"] or None,
        password=parts["password"] or None,
        host=parts["host"],
        port=_port(parts["port"]),
        database=parts["dbname"] or None,
    )
    connect_args: dict[str, Any] = {}
    if name := query.get("application_name"):
        connect_args["server_settings"] = {"application_name": name}
    if seconds := query.get("connect_timeout"):
        connect_args["timeout"] = _seconds(seconds)
    if (tls := _tls(query, ssl_root_cert, parts["host"])) is not None:
        connect_args["ssl"] = tls
    return DatabaseURL(url, connect_args, tuple(name for name in query if name in _IGNORED))


def _split(rest: str) -> tuple[dict[str, str], dict[str, str]]:
    """The parts of the URL, decoded, and the parameters of its query."""
    match = _STRICT.fullmatch(rest) or _LENIENT.fullmatch(rest)
    if match is None or _AMBIGUOUS.search(match[1] or ""):
        raise _Problem(f"it can't be taken apart. Percent-encode the password. {_EXPECTED}")
    login, address, database, parameters = (group or "" for group in match.groups())
    if "," in address:
        raise _Problem("it names several hosts. Name one: finding the primary is the pooler's job.")
    user, _, password = login.partition(":")
    host, port = address, ""
    if match_ipv6 := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", address):
        host, port = match_ipv6[1], match_ipv6[2] or ""
    elif ":" in address:
        host, _, port = address.partition(":")

    parts = {"user": user, "password": password, "host": host, "port": port, "dbname": database}
    parts = {name: _decode(value) for name, value in parts.items()}
    query: dict[str, str] = {}
    for parameter in filter(None, parameters.split("&")):
        name, _, value = parameter.partition("=")
        if name in _PARTS:
            parts[name] = _decode(value)
        elif name in _TRANSLATED + _IGNORED:
            query[name] = _decode(value)
        else:
            # A password with an & in it would be cut in two, and its second half look like a name.
            safe = "password" not in parameters and re.fullmatch(r"[a-z_]{1,30}", name)
            raise _Problem(
                f"its parameter {name if safe else ''!r} is not supported. Remove it, or "
                f"percent-encode the &. Supported are {', '.join(_PARTS + _TRANSLATED)}."
            )
    return parts, query


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _Problem("its percent-encoding is not UTF-8. Write a lone % as %25.") from None
    if "\0" in decoded:
        raise _Problem("it has a NUL byte in it (%00), which PostgreSQL can't take. Remove it.")
    return decoded


def _is_host(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        # What the resolver will do: labels of 1 to 63 characters.
        return bool(text.encode("idna")) and not re.search(r"[\s:/?#@\[\]\\]", text)
    except UnicodeError:
        return False


def _port(text: str) -> int:
    # Not int(): it takes "+5432", "5_432" and digits of other scripts.
    if not text:
        return 5432
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise _Problem(
            "its port is not a number from 1 to 65535. If the password has a : or / or @ in it, "
            "percent-encode it."
        )
    return int(text)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise _Problem("connect_timeout is not a whole number of seconds, 1 or more.")
    return int(text)


def _tls(query: dict[str, str], variable: Path | None, host: str) -> ssl.SSLContext | str | None:
    """The `ssl` argument of `asyncpg.connect()`; None leaves asyncpg its default, `prefer`.

    `require` encrypts and verifies nothing. A CA file turns every mode but `disable` into
    verification, of the host name too unless the mode is `verify-ca`.
    """
    mode, ca_file = query.get("sslmode"), query.get("sslrootcert") or variable
    if mode is None and host.endswith(_SUPABASE_HOSTS):
        # They have TLS. With `prefer` asyncpg tries a refused password once more without it, and
        # after ten of them Supavisor blocks everybody.
        mode = "require"
    if mode == "disable" and host == "127.0.0.1" and "sslrootcert" not in query:
        return mode  # as `dev` connects, whatever a .env file says of the real database
    if mode is not None and mode not in _SSL_MODES:
        raise _Problem(f"sslmode is not one of {', '.join(_SSL_MODES)}.")
    if ca_file is None:
        if mode in ("verify-ca", "verify-full"):
            raise _Problem(
                f"sslmode={mode} needs the CA that signed the server's certificate. Download it "
                "and set DATABASE_SSL_ROOT_CERT to the file's path."
            )
        return mode
    if mode == "disable":
        raise _Problem(f"sslmode=disable contradicts the CA file {ca_file}. Remove one of them.")
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError, for a file that is no certificate, is one too
        raise _Problem(
            f"the CA file {ca_file} can't be read: {error.strerror or error}. "
            "DATABASE_SSL_ROOT_CERT or sslrootcert has to name a file in PEM format."
        ) from None
    context.check_hostname = mode != "verify-ca"
    return context
