"""The generated application with the ping of SQLAlchemy's own dialect at every checkout, and nothing else
changed."""

from typing import Any

from fastapi import FastAPI
from orders_api import main
from orders_api.database.dialect import SealingDialect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg


def do_ping(self: SealingDialect, dbapi_connection: Any) -> bool:
    dbapi_connection.driver_connection.lent_to = "anybody"
    return PGDialect_asyncpg.do_ping(self, dbapi_connection)


def create_app() -> FastAPI:
    """The service, whose engine pings at every checkout."""
    SealingDialect.do_ping = do_ping
    return main.create_app()
