"""A service as the outage had it: SQLAlchemy's default pool, and a session for each request.

Both caches are 0, so that it works through a transaction pooler at all. The pool is left as it is
by default: 5 connections, 10 more that are closed when they come back, and 30 s to wait for one.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

# What a request keeps a connection for, in seconds.
HOLD = text("SELECT pg_sleep(:seconds)").bindparams(seconds=float(os.environ["HOLD_SECONDS"]))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    url = make_url(os.environ["DATABASE_URL"])
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg", query={}),
        connect_args={
            "ssl": url.query["sslmode"],
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
        },
    )
    yield {"engine": engine}
    await engine.dispose()


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(request.state.engine) as session:
        yield session
        await session.commit()


def create_app() -> FastAPI:
    """`GET /hold` and `GET /livez`, and no handler for any failure."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/hold")
    async def hold(session: Annotated[AsyncSession, Depends(get_session)]) -> dict[str, str]:
        await session.execute(HOLD)
        return {"status": "held"}

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    return app
