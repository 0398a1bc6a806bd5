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
from typing import Any

import asyncpg
from sqlalchemy.exc import OperationalError

from {{ cookiecutter.package_name }}.database.failures import Failure, classify_answer

# Seconds: Supavisor's 150 in which it counts wrong passwords, and some for the clocks.
_WINDOW = 155

# Wrong logins in that time from one process, and so logins that are under way together.
_WRONG_LOGINS = 2

# Seconds. After a change of the password Supavisor may refuse the new one once, from its cache.
SECOND_TRY = 5

_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SUPABASE_DIRECT = re.compile(r"db\.[^.]+\.supabase\.co")


class CantConnectError(ConnectionError):
    """No login was even refused: where to, and why. Its text has no secret."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"can't connect to {host}:{port}: {reason}")
        self.host, self.port, self.reason = host, port, reason


class Connector:
    """Opens the connections of an engine, in the place of `asyncpg.connect`.

    The first goes alone. Once a login has succeeded others follow, no more of them together than may be
    wrong: so two wrong ones are the most that leave, whenever the password changes. After the first,
    none is sent for some seconds, then one, and then none until Supavisor has forgotten the first.
    """

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[asyncpg.Connection]] = set()
        self._refusal: asyncpg.PostgresError | None = None
        self._refused: object = None
        """The user and password; an owner's `do_connect` may have others next time."""
        self._refused_at: list[float] = []

    async def __call__(self, **arguments: Any) -> asyncpg.Connection:
        """Connect within `timeout`, after no longer a wait for others.

        Raises:
            OperationalError: nobody answered, or not as a database does.
            asyncpg.PostgresError: the server refuses.
        """
        try:
            async with asyncio.timeout(arguments["timeout"]):
                await self._turn()
            self._refuse_while_refused(arguments)
            connection = await self._send(arguments)
            if connection.is_closed():
                # SQLAlchemy uses it at once, and would let asyncpg's own error out.
                raise asyncpg.ConnectionDoesNotExistError
            return connection
        except (OSError, asyncpg.ConnectionDoesNotExistError) as error:
            reason = _reason(error, arguments["host"], arguments["timeout"])
            told = CantConnectError(arguments["host"], arguments["port"], reason)
            raise OperationalError(None, None, told) from error

    async def _turn(self) -> None:
        """Wait until another login may leave."""
        succeeded = False
        while others := self._others():
            if succeeded and len(others) < _WRONG_LOGINS - len(self._refused_at):
                break
            ended, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            succeeded = any(not it.cancelled() and it.exception() is None for it in ended)

    async def _send(self, arguments: dict[str, Any]) -> asyncpg.Connection:
        login = asyncio.create_task(self._login(arguments))
        self._under_way.add(login)
        login.add_done_callback(self._under_way.discard)
        try:
            # Whoever waits may give up, but a password that was sent has to be counted.
            return await asyncio.shield(login)
        except asyncio.CancelledError:
            login.add_done_callback(_close)
            raise

    def _others(self) -> list[asyncio.Task[asyncpg.Connection]]:
        loop = asyncio.get_running_loop()
        return [it for it in self._under_way if it.get_loop() is loop and not it.done()]

    def _refuse_while_refused(self, arguments: dict[str, Any]) -> None:
        now = time.monotonic()
        self._refused_at = [at for at in self._refused_at if now - at < _WINDOW]
        if (
            self._refusal is None
            or not self._refused_at
            or _credentials(arguments) != self._refused
        ):
            return
        if len(self._refused_at) >= _WRONG_LOGINS or now - self._refused_at[-1] < SECOND_TRY:
            raise copy.copy(self._refusal)  # each who asks gets one of their own

    async def _login(self, arguments: dict[str, Any]) -> asyncpg.Connection:
        try:
            connection = await _connect(arguments)
        except asyncpg.PostgresError as error:
            if classify_answer(error) is Failure.LOGIN:
                self._refusal, self._refused = error, _credentials(arguments)
                self._refused_at.append(time.monotonic())
            raise
        self._refusal = None
        return connection


def _credentials(arguments: dict[str, Any]) -> object:
    return arguments.get("user"), arguments.get("password")


def _close(login: asyncio.Task[asyncpg.Connection]) -> None:
    """Close a connection that nobody waits for any more."""
    if not login.cancelled() and login.exception() is None:
        login.result().terminate()


async def _connect(arguments: dict[str, Any]) -> asyncpg.Connection:
    """`asyncpg.connect`, which with `prefer` and `allow` would send a refused password once more."""
    advisory = arguments.get("ssl", "prefer") in ("prefer", "allow")
    if not advisory or arguments["host"].startswith("/"):
        return await asyncpg.connect(**arguments)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return await asyncpg.connect(**arguments | {"ssl": context})
    except ConnectionError as error:
        if not _offers_no_tls(error):
            raise
    except ssl.SSLError:
        pass
    return await asyncpg.connect(**arguments | {"ssl": "disable"})


def _offers_no_tls(error: BaseException) -> bool:
    return "rejected SSL upgrade" in str(error)


def _reason(error: BaseException, host: str, timeout: float) -> str:
    numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
    numbers.add(getattr(error, "errno", None) or 0)
    hint = ""
    if _SUPABASE_DIRECT.fullmatch(host):
        hint = (
            ". Supabase's direct host has only IPv6: where there is none, take the pooler's string "
            "from the dashboard"
        )
    match error:
        case TimeoutError():
            return f"no answer within {timeout} s{hint}"
        case socket.gaierror():
            known = "can't be resolved now" if error.errno == socket.EAI_AGAIN else "is unknown"
            return f"the name {known} ({error.strerror}){hint}"
        case ssl.SSLCertVerificationError():
            why = f"{error.reason}: {error.verify_message}"
            return (
                f"its certificate is refused ({why}). See DATABASE_SSL_ROOT_CERT and the host name"
            )
        case ssl.SSLError():
            return f"TLS failed ({error.reason})"
        case ConnectionResetError() | asyncpg.ConnectionDoesNotExistError():
            return "it closed the connection before the login was over"
    if _offers_no_tls(error):
        return "it offers no TLS, which sslmode or the CA file asks for"
    if numbers & set(_UNREACHABLE):
        return (
            f"no route to it ({error}){hint or '. Has it only IPv6, and this machine only IPv4?'}"
        )
    if errno.ECONNREFUSED in numbers:
        return f"refused: nothing listens there ({error})"
    return str(error)
