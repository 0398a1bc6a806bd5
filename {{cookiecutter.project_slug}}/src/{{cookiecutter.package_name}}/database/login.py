"""The first login of a command: a wrong password is found before many processes send it."""

import asyncio

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from {{ cookiecutter.package_name }}.database import connect
from {{ cookiecutter.package_name }}.database.engine import open_engine
from {{ cookiecutter.package_name }}.database.failures import Failure
from {{ cookiecutter.package_name }}.database.report import log_failure
from {{ cookiecutter.package_name }}.settings import Settings

# The SQLSTATE of a wrong password.
_WRONG_PASSWORD = "28P01"


async def refuse_wrong_login(settings: Settings, *, migrations: bool = False) -> None:
    """End here if the database refuses the login. Whatever else is wrong may pass: say it, and go on."""
    variable = "DATABASE_MIGRATION_URL" if migrations else "DATABASE_URL"
    async with open_engine(settings, migrations=migrations) as engine:
        error = await _connect(engine)
        if error is not None and getattr(error.orig, "sqlstate", None) == _WRONG_PASSWORD:
            await asyncio.sleep(connect.SECOND_TRY)
            error = await _connect(engine)
    if error is None:
        return
    if log_failure(error) is Failure.LOGIN:
        raise SystemExit(
            f"{variable} can't be used: {error.orig}. Check the user, the password and the "
            "database. Do not restart in a loop: after ten wrong passwords Supavisor blocks every "
            "client from this address."
        )
    structlog.get_logger().warning(f"the login of {variable} could not be tried")


async def _connect(engine: AsyncEngine) -> DBAPIError | None:
    try:
        async with engine.connect():
            return None
    except DBAPIError as error:
        return error
