"""TLS and unix sockets in all that libpq has."""

import asyncio
import ssl
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from tests.conftest import Servers
from tests.pooler.test_tls import Pooler, log_in, tls_pooler, tls_url


@pytest.fixture(scope="module")
def pooler(servers: Servers) -> Iterator[Pooler]:
    """One whose certificate is for the address it listens on."""
    with tls_pooler(servers, "127.0.0.1") as pooler:
        yield pooler


async def test_a_unix_socket(pooler: Pooler) -> None:
    url = make_url(pooler.url)
    await log_in(
        f"postgresql://{url.username}:{url.password}@/{url.database}"
        f"?host={pooler.sockets}&port={url.port}"
    )


async def test_channel_binding_asks_who_answers(pooler: Pooler) -> None:
    """asyncpg has none: the server is verified instead, and this one is known to no system."""
    with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        await log_in(tls_url(pooler, "require", channel_binding="require"))
    await log_in(tls_url(pooler, "require", channel_binding="require"), pooler.ca)


async def test_a_certificate_of_the_client(servers: Servers) -> None:
    with tls_pooler(servers, "127.0.0.1", sslmode="verify-ca") as strict:
        await log_in(f"{strict.url}?sslcert={strict.certificate}&sslkey={strict.certificate}")
        with pytest.raises(DBAPIError):
            await log_in(tls_url(strict, "require"))


async def test_tls_without_asking_for_it_first(pooler: Pooler) -> None:
    """PostgreSQL 17 and newer, and what routes by the name that TLS has, want the protocol's name too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pooler.certificate)
    context.set_alpn_protocols(["postgresql"])
    protocols = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocols.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OperationalError, match="closed the connection"):
            await log_in(f"postgresql://u:p@127.0.0.1:{port}/d?sslnegotiation=direct")
    assert protocols == ["postgresql"]
