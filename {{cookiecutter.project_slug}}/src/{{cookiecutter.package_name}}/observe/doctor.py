"""Examine what the service is connected to, and whether its settings are safe there.

It only reads, and tells of what it could not take away again. Each check is a function that yields what
it found.
"""

import asyncio
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing, suppress
from typing import NoReturn

import asyncpg
import typer
from sqlalchemy.exc import SQLAlchemyError

from {{ cookiecutter.package_name }}.observe import (
    address,
    budget,
    migrations,
    pooler,
    server,
)
from {{ cookiecutter.package_name }}.observe.advice import explain
from {{ cookiecutter.package_name }}.observe.findings import (
    LEVELS,
    Finding,
    Report,
    failure,
    lines,
)
{%- if cookiecutter.auth == "supabase" %}
from {{ cookiecutter.package_name }}.observe.issuer import issuer
{%- endif %}
from {{ cookiecutter.package_name }}.observe.patient import STEP, Options, Patient
from {{ cookiecutter.package_name }}.settings import (
    ConfigurationError,
    Settings,
    load_settings,
)

# Seconds for all checks, with the imports here. With connections that are slow to close it still ends
# within 15.
LIMIT = 12

Check = Callable[[Patient], AsyncIterator[Finding]]
CHECKS: tuple[Check, ...] = (
    address.url,
    address.host,
    address.tls,
    server.login,
    pooler.pooler,
    pooler.session,
    pooler.statements,
    server.timeouts,
    server.trips,
    budget.budget,
    server.role,
    migrations.migrations,
    migrations.schema,
{%- if cookiecutter.auth == "supabase" %}
    issuer,
{%- endif %}
)

# What is said by whoever was asked.
_ANSWERS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


async def examine(settings: Settings, options: Options, started: float) -> list[Finding]:
    """All checks, one after the other, in little time."""
    found: list[Finding] = []
    check = CHECKS[0]
    stack = AsyncExitStack()
    patient = Patient(settings, options, stack)
    try:
        async with asyncio.timeout(LIMIT - (time.monotonic() - started)):
            for check in CHECKS:
                _tell(f"{check.__name__} ...")
                found += await _examine(check, patient)
                if found[-1].level == "failure" and not patient.usable:
                    break  # it would be the same for all others
    except TimeoutError:
        told = f"no more was found out within {LIMIT} s, while it was at: {check.__name__}"
        found.append(Finding(check="doctor", level="failure", observed=told))
    finally:
        with suppress(Exception):
            async with asyncio.timeout(2):
                await stack.aclose()
    return found


async def _examine(check: Check, patient: Patient) -> list[Finding]:
    found = []
    try:
        async with asyncio.timeout(STEP):
            async for finding in check(patient):
                found.append(finding)
    except Exception as error:  # noqa: BLE001  the other checks go on
        found.append(explain(error) if isinstance(error, _ANSWERS) else _not_examined(error))
        await patient.roll_back()
    for finding in found:
        finding.check = check.__name__
    return found


def _not_examined(error: Exception) -> Finding:
    """Not with what it says, which may be a secret."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    told = f"not examined: {type(error).__name__} at {place.filename}:{place.lineno}"
    return failure(told, "mend what it reads there, or else the check itself")


def report(options: Options, started: float) -> Report:
    """What was found, be it that the environment can't be used."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        told = str(error.code).splitlines()
        found = [failure(it.strip(), "see .env.example") for it in told[1:] or told]
        for it in found:
            it.check = "settings"
    else:
        # Not asyncio.run(), which waits for the thread in which a resolver hangs.
        with closing(asyncio.new_event_loop()) as loop:
            found = loop.run_until_complete(examine(settings, options, started))
        _tell("")
    level = max((it.level for it in found), key=LEVELS.index)
    seconds = round(time.monotonic() - started, 1)
    return Report(level=level, seconds=seconds, findings=found)


def run(options: Options, *, as_json: bool, started: float) -> NoReturn:
    """Examine, print what was found, and end with the code that says how bad it is.

    `started`: the `time.monotonic()` from which on time counts.
    """
    if options.plan is not None and options.plan not in budget.PLANS:
        raise typer.BadParameter(f"--plan is one of {', '.join(budget.PLANS)}")
    found = report(options, started)
    for line in [found.model_dump_json(indent=2)] if as_json else lines(found):
        typer.echo(line)
    sys.stdout.flush()
    os._exit(LEVELS.index(found.level))  # sys.exit() waits for that thread, too


def _tell(at: str) -> None:
    """What it is at, for who waits at a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{at}", err=True, nl=False)
