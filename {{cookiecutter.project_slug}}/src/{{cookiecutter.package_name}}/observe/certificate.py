"""Who a server says it is, before any login."""

import asyncio
import ssl
import struct
import time
from typing import Any, NamedTuple

# PostgreSQL's SSLRequest: its length, and a code in the place of a protocol version.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Certificate(NamedTuple):
    told: str
    """Whose it is, for what, and how long."""
    days: int
    """Until it ends; negative, since."""
    refused: str | None
    """Why verification fails; None, if it does not or if nobody verifies."""


async def show(
    host: str, port: int, verifying: ssl.SSLContext | None, *, direct: bool
) -> Certificate | None:
    """The certificate of a PostgreSQL or a pooler; None if it offers no TLS.

    `direct`: TLS begins at once, without being asked for (sslnegotiation=direct).

    Raises:
        OSError: it can't be reached, or does not speak PostgreSQL's protocol.
    """

    async def handshake(context: ssl.SSLContext) -> Any:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            if not direct:
                writer.write(_SSL_REQUEST)
                if not (answer := await reader.read(1)):
                    raise ConnectionResetError
                if answer != b"S":
                    return None
            await writer.start_tls(context, server_hostname=host)
            return writer.get_extra_info("ssl_object")
        finally:
            writer.transport.abort()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["postgresql"])
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if (shown := await handshake(context)) is None:
        return None
    # Python takes a certificate apart only if it trusts it. So trust this one.
    context.load_verify_locations(cadata=shown.getpeercert(binary_form=True))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    fields: dict[str, Any] = {}
    refused = None
    try:
        fields = (await handshake(context)).getpeercert()
        if verifying:
            await handshake(verifying)
    except ssl.SSLCertVerificationError as error:
        refused = error.verify_message
    issuer = {key: value for group in fields.get("issuer", ()) for key, value in group}
    ca = issuer.get("commonName") or issuer.get("organizationName") or "an unknown CA"
    names = ", ".join(name for _, name in fields.get("subjectAltName", ())) or "no name"
    left = ssl.cert_time_to_seconds(fields["notAfter"]) - time.time() if fields else -1
    days = int(left // 86400)
    ends = f"ends in {days} days" if days >= 0 else "has ended"
    return Certificate(f"certificate of {ca} for {names}, {ends}", days, refused)
