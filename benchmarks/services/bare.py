"""asyncpg without SQLAlchemy in a bare FastAPI application: no middleware, no problem handlers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from raw import open_pool, router


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with open_pool() as pool:
        yield {"pool": pool}


def create_app() -> FastAPI:
    """Only the routes."""
    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    return app
