"""The generated application on what SQLAlchemy's documentation recommends behind PgBouncer.

See "Prepared Statement Name with PGBouncer" there. The same page asks for a DISCARD by the pooler,
which is not configured: every other variant would have to pay for it.
"""

from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from orders_api import main
from orders_api.settings import Settings
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine


def create_engine(settings: Settings) -> AsyncEngine:
    """A connection for each request, and a new name for each statement."""
    target = settings.database_url
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


class ReadSession:
    """What the service's own is, but with a transaction: without one, the recipe's statements are gone
    when the pooler runs the next on another connection."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.sessions = async_sessionmaker(engine)

    async def execute(self, *arguments: Any) -> Any:
        """Run one statement."""
        async with self.sessions() as session:
            return await session.execute(*arguments)


def create_app() -> FastAPI:
    """The service's own routes, on SQLAlchemy's own sessions."""
    main.create_engine = create_engine
    main.Sessions = async_sessionmaker
    main.ReadSession = ReadSession
    return main.create_app()
