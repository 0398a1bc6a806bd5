"""Who a server says it is, before any login."""

import asyncio
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Any

# PostgreSQL's SSLRequest: its length, and a code in the place of a protocol version.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass(frozen=True)
class Certificate:
    """What a server shows."""

    issuer: str
    names: tuple[str, ...]
    """What it is for."""
    days: int
    """Until it ends; negative, since."""
    refused: str | None
    """Why verification fails; None, if it does not or if nobody verifies."""


async def show(
    host: str, port: int, verifying: ssl.SSLContext | None = None, *, direct: bool = False
) -> Certificate | None:
    """The certificate of a PostgreSQL or a pooler; None if it offers no TLS.

    `direct`: TLS begins at once, without being asked for (sslnegotiation=direct).

    Raises:
        OSError, EOFError: it can't be reached, or does not speak PostgreSQL's protocol.
    """
    shown = await _handshake(host, port, _context(), direct)
    if shown is None:
        return None
    refused = None
    try:
        await _handshake(host, port, verifying or _context(), direct)
    except ssl.SSLCertVerificationError as error:
        refused = error.verify_message
    # Python takes a certificate apart only if it trusts it. So, once more, trust this one.
    trusted = _context(ssl.DER_cert_to_PEM_cert(shown.getpeercert(binary_form=True) or b""))
    try:
        trusting = await _handshake(host, port, trusted, direct)
    except ssl.SSLCertVerificationError as error:
        return Certificate("unknown", (), -1, refused or error.verify_message)
    fields: Any = (trusting and trusting.getpeercert()) or {}
    issuer = {key: value for group in fields.get("issuer", ()) for key, value in group}
    seconds = ssl.cert_time_to_seconds(fields["notAfter"]) - time.time()
    return Certificate(
        issuer.get("commonName") or issuer.get("organizationName") or "a CA without a name",
        tuple(name for _, name in fields.get("subjectAltName", ())),
        int(seconds // 86400),
        refused,
    )


def _context(trusted: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname = False
    if trusted is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trusted)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def _handshake(
    host: str, port: int, context: ssl.SSLContext, direct: bool
) -> ssl.SSLObject | None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if not direct:
            writer.write(_SSL_REQUEST)
            if await reader.readexactly(1) != b"S":
                return None
        await writer.start_tls(context, server_hostname=host)
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return found
    finally:
        writer.transport.abort()
