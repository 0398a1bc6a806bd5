"""`doctor`, before any login: where DATABASE_URL leads, and who answers there."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

from {{ cookiecutter.package_name }}.observe.certificate import show
from {{ cookiecutter.package_name }}.observe.findings import Finding, failure, ok, warning
from {{ cookiecutter.package_name }}.observe.patient import STEP, Patient

# Days before a certificate ends in which it is time to have it renewed.
_SOON = 30


async def url(patient: Patient) -> AsyncIterator[Finding]:
    """What DATABASE_URL says, without its password."""
    target = patient.settings.database_url
    ignored = f"; without effect: {', '.join(target.ignored)}" if target.ignored else ""
    yield ok(f"{target}{ignored}", host=target.url.host, port=target.url.port)


async def host(patient: Patient) -> AsyncIterator[Finding]:
    """Which kinds of address the host has."""
    target = patient.settings.database_url.url
    name, port = target.host or "", target.port
    if name.startswith("/"):
        return  # a unix socket
    try:
        async with asyncio.timeout(STEP - 1):
            found = await asyncio.get_running_loop().getaddrinfo(
                name, port, type=socket.SOCK_STREAM
            )
    except TimeoutError:
        yield failure(f"no answer about {name} within {STEP - 1} s", "check this machine's DNS")
        return
    except socket.gaierror:
        return  # the login says why
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    patient.local = all(ipaddress.ip_address(address).is_loopback for address in addresses)
    ipv6 = [address for address in addresses if ":" in address]
    values = {"ipv4": len(addresses) - len(ipv6), "ipv6": len(ipv6)}
    told = f"{name} is {', '.join(addresses)}"
    advice = "take the pooler's string from the dashboard, or another host with an IPv4 address"
    if patient.local or values["ipv4"]:
        yield ok(told, **values)
    elif any(map(has_route, ipv6)):
        yield warning(f"{told}: only IPv6, which not every place has", advice, **values)
    else:
        yield failure(f"{told}: only IPv6, which this machine does not have", advice, **values)


def has_route(address: str) -> bool:
    """Whether this machine could send anything there. Nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return True
    return False


async def tls(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the connection is encrypted, and whether the server has proved who it is."""
    target = patient.settings.database_url
    name, arguments = target.url.host or "", target.connect_args
    if name.startswith("/"):
        return
    verifying = arguments["ssl"] if target.tls == "verified" else None
    shown = None
    if target.tls != "disable":
        direct = arguments.get("direct_tls", False)
        try:
            async with asyncio.timeout(STEP / 2):
                shown = await show(name, target.url.port or 5432, verifying, direct=direct)
        except TimeoutError:
            told = f"no certificate was shown within {STEP / 2:g} s, so it is not known whose it is"
            yield warning(told, "try again, or see what slows this machine down, or the network")
            return
        except OSError:
            return  # the login says why
    if shown is None and patient.local:
        yield ok("off; nothing leaves this machine", on=False, verified=False)
        return
    if shown is None:
        advice = "sslmode=require, or better DATABASE_SSL_ROOT_CERT, which also verifies"
        yield warning("off: whoever is between reads along", advice, on=False, verified=False)
        return
    verified = verifying is not None and shown.refused is None
    values = {"on": True, "verified": verified, "days": shown.days}
    by = "verified" if verifying and verifying.check_hostname else "verified, but for the host name"
    if verifying is None:
        advice = "DATABASE_SSL_ROOT_CERT: the CA's file, on Supabase from the database settings"
        yield warning(f"on, but nobody checks who answers; {shown.told}", advice, **values)
    elif not verified:
        advice = "use a host that it is for, and the CA that signed it"
        yield failure(f"refused: {shown.refused}; {shown.told}", advice, **values)
    elif shown.days < _SOON:
        yield warning(f"on, {by}; {shown.told}", "have it renewed", **values)
    else:
        yield ok(f"on, {by}; {shown.told}", **values)
