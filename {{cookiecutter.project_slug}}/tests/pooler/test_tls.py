"""TLS and unix sockets, on a PgBouncer of their own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from {{ cookiecutter.package_name }}.database.engine import create_engine
from {{ cookiecutter.package_name }}.settings import Settings

import devstack
from tests.conftest import Servers


@dataclass(frozen=True)
class Pooler:
    url: str
    ca: Path
    other_ca: Path
    certificate: Path
    """Its own, with the key."""
    sockets: Path


@contextmanager
def tls_pooler(servers: Servers, name: str, sslmode: str = "require") -> Iterator[Pooler]:
    """A PgBouncer that takes TLS only, with a certificate for `name`, and a unix socket."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ca = trustme.CA()
        certificate = ca.issue_cert(name)
        ca.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        options = {
            "client_tls_sslmode": sslmode,
            "client_tls_ca_file": folder / "ca.pem",
            "client_tls_key_file": folder / "server.pem",
            "client_tls_cert_file": folder / "server.pem",
            "unix_socket_dir": folder,
        }
        with devstack.pgbouncer(servers.database_url, **options) as url:
            pems = (folder / "ca.pem", folder / "other-ca.pem", folder / "server.pem")
            yield Pooler(url, *pems, folder)


@pytest.fixture(scope="module")
def pooler(servers: Servers) -> Iterator[Pooler]:
    """One whose certificate is for the address it listens on."""
    with tls_pooler(servers, "127.0.0.1") as pooler:
        yield pooler


@pytest.fixture(scope="module")
def impostor(servers: Servers) -> Iterator[Pooler]:
    """One whose certificate is for another host, from the same kind of CA."""
    with tls_pooler(servers, "elsewhere.example") as pooler:
        yield pooler


def tls_url(pooler: Pooler, sslmode: str, **query: str) -> str:
    url = make_url(pooler.url).set(query={"sslmode": sslmode, **query})
    return url.render_as_string(hide_password=False)


async def log_in(url: str, ca: Path | None = None) -> None:
    settings = Settings.model_validate({"database_url": url, "database_ssl_root_cert": ca})
    engine = create_engine(settings)
    try:
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        await engine.dispose()


async def test_the_right_ca_and_host_name_are_accepted(pooler: Pooler) -> None:
    await log_in(pooler.url, pooler.ca)


@pytest.mark.parametrize("sslmode", ["allow", "prefer", "require", "verify-full"])
async def test_another_ca_is_refused(pooler: Pooler, sslmode: str) -> None:
    with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        await log_in(tls_url(pooler, sslmode), pooler.other_ca)


async def test_another_host_name_is_refused_unless_verify_ca(impostor: Pooler) -> None:
    with pytest.raises(OperationalError, match=r"not valid for '127\.0\.0\.1'"):
        await log_in(impostor.url, impostor.ca)
    await log_in(tls_url(impostor, "verify-ca"), impostor.ca)


async def test_require_encrypts_and_disable_does_not(pooler: Pooler) -> None:
    await log_in(tls_url(pooler, "require"))
    with pytest.raises(DBAPIError, match="SSL required"):
        await log_in(tls_url(pooler, "disable"))
