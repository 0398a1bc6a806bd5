"""Opening a connection: why it fails, in words, and how often a login that may be wrong is tried.

Supavisor answers 10 wrong passwords within 150 s by blocking every client of that project from that
address for 120 s, those with the right password too. When a password changes under load, all the
connections of a pool are opened anew at once, each with the old one.
"""

import asyncio
import copy
import errno
import re
import socket
import ssl
import time
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy.exc import OperationalError

from {{ cookiecutter.package_name }}.database.failures import Failure, classify_answer

# So many wrong logins at most leave this process in so many seconds: Supavisor's 150, and 5 for clocks.
_WRONG_LOGINS = 2
_WINDOW = 155

# Seconds until the second, as Supavisor may refuse a new password once, from its cache. 20: a container
# that is started again and again sends 8 of them in the 150 s then (tests/unit/test_kubernetes.py).
SECOND_TRY = 20


class _Refusal(NamedTuple):
    at: float
    login: object
    answer: asyncpg.PostgresError


_refusals: list[_Refusal] = []  # of this process, whatever engines it has

_NO_TLS = "rejected SSL upgrade"  # asyncpg's words
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_SUPABASE_DIRECT = re.compile(r"db\.[^.]+\.supabase\.co")
_ONLY_IPV6 = (
    ". Supabase's direct host has only IPv6: where there is none, take the pooler's string from the "
    "dashboard"
)


class CantConnectError(ConnectionError):
    """No login was even refused: where to, and why. Its text has no secret."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"can't connect to {host}:{port}: {reason}")
        self.host, self.port, self.reason = host, port, reason


class Connector:
    """Opens the connections of an engine, in the place of `asyncpg.connect`. The first goes alone, and once
    it has succeeded two at a time follow: so two wrong logins are the most that leave, whenever the
    password changes."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[asyncpg.Connection]] = set()
        self._at_once = 1

    async def __call__(self, **arguments: Any) -> asyncpg.Connection:
        """Connect within `timeout`, after no longer a wait for others. An `OperationalError` says why nobody
        answered, an `asyncpg.PostgresError` that the server refuses."""
        try:
            async with asyncio.timeout(arguments["timeout"]):
                if not self._under_way:
                    self._at_once = 1
                while len(self._under_way) >= self._at_once:
                    await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            connection = await self._send(arguments)
            if connection.is_closed():
                # SQLAlchemy uses it at once, and would let asyncpg's own error out.
                raise asyncpg.ConnectionDoesNotExistError
            return connection
        except (OSError, asyncpg.ConnectionDoesNotExistError) as error:
            reason = _reason(error, arguments["host"], arguments["timeout"])
            told = CantConnectError(arguments["host"], arguments["port"], reason)
            raise OperationalError(None, None, told) from error

    async def _send(self, arguments: dict[str, Any]) -> asyncpg.Connection:
        refused = _refused(arguments)
        if len(refused) >= _WRONG_LOGINS or (
            refused and time.monotonic() - refused[-1].at < SECOND_TRY
        ):
            raise copy.copy(refused[-1].answer)  # each who asks gets one of their own
        login = asyncio.create_task(self._try(arguments))
        self._under_way.add(login)
        login.add_done_callback(self._under_way.discard)
        try:
            # Whoever waits may give up, but a password that was sent has to be counted.
            return await asyncio.shield(login)
        except asyncio.CancelledError:
            login.add_done_callback(_close)
            raise

    async def _try(self, arguments: dict[str, Any]) -> asyncpg.Connection:
        try:
            connection = await _connect(arguments)
        except asyncpg.PostgresError as error:
            self._at_once = 1
            if classify_answer(error) is Failure.LOGIN:
                _refusals.append(_Refusal(time.monotonic(), _login(arguments), error))
            raise
        self._at_once = max(1, _WRONG_LOGINS - len(_refused(arguments)))
        return connection


def _login(arguments: dict[str, Any]) -> object:
    # Another one, as an owner's `do_connect` may have next time, is tried at once. A database that does
    # not exist and TLS that was not asked for are answers to the whole of it.
    names = ("host", "port", "user", "password", "database")
    return [*map(arguments.get, names), arguments.get("ssl") == "disable"]


def _refused(arguments: dict[str, Any]) -> list[_Refusal]:
    """The refusals of this login that Supavisor may still count."""
    _refusals[:] = [it for it in _refusals if time.monotonic() - it.at < _WINDOW]
    return [it for it in _refusals if it.login == _login(arguments)]


def _close(login: asyncio.Task[asyncpg.Connection]) -> None:
    """Close a connection that nobody waits for any more."""
    if not login.cancelled() and login.exception() is None:
        login.result().terminate()


async def _connect(arguments: dict[str, Any]) -> asyncpg.Connection:
    """`asyncpg.connect`, which with `prefer` and `allow` would send a refused password once more."""
    if arguments.get("ssl", "prefer") in ("prefer", "allow") and arguments["host"][0] != "/":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            return await asyncpg.connect(**arguments | {"ssl": context})
        except (ConnectionError, ssl.SSLError) as error:
            if not isinstance(error, ssl.SSLError) and _NO_TLS not in str(error):
                raise
        arguments = arguments | {"ssl": "disable"}
    return await asyncpg.connect(**arguments)


def _reason(error: BaseException, host: str, timeout: float) -> str:
    hint = _ONLY_IPV6 if _SUPABASE_DIRECT.fullmatch(host) else ""
    match error:
        case TimeoutError():
            return f"no answer within {timeout} s{hint}"
        case socket.gaierror():
            known = "can't be resolved now" if error.errno == socket.EAI_AGAIN else "is unknown"
            return f"the name {known} ({error.strerror}){hint}"
        case ssl.SSLCertVerificationError():
            why = f"its certificate is refused ({error.reason}: {error.verify_message})"
            return f"{why}. See DATABASE_SSL_ROOT_CERT and the host name"
        case ConnectionResetError() | asyncpg.ConnectionDoesNotExistError():
            return "it closed the connection before the login was over"
    text = str(error)
    if _NO_TLS in text:
        return "it offers no TLS, which sslmode or the CA file asks for"
    # Of several addresses, asyncio has the numbers in the text alone.
    numbers = {getattr(error, "errno", None), *map(int, re.findall(r"\[Errno (\d+)\]", text))}
    if numbers & _UNREACHABLE:
        return f"no route to it ({text}){hint or '. Has it only IPv6, and this machine only IPv4?'}"
    if errno.ECONNREFUSED in numbers:
        return f"refused: nothing listens there ({text})"
    return text
