"""The generated application on what SQLAlchemy's documentation recommends behind PgBouncer.

See "Prepared Statement Name with PGBouncer" there. The same page asks for a DISCARD by the pooler,
which is not configured: every other variant would have to pay for it.
"""

from uuid import uuid4

from fastapi import FastAPI
from orders_api import main
from orders_api.database.engine import database_url
from orders_api.settings import Settings
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def create_engine(settings: Settings) -> AsyncEngine:
    """A connection for each request, and a new name for each statement."""
    target = database_url(settings)
    return create_async_engine(
        target.url,
        poolclass=NullPool,
        connect_args={
            **target.connect_args,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        },
    )


def create_app() -> FastAPI:
    """The service's own routes and sessions, except that reading has a transaction as well: without
    one, the recipe's statements are gone when the pooler runs the next on another connection."""
    main.create_engine = create_engine
    main.read_session_maker = main.session_maker
    return main.create_app()
