"""asyncpg without SQLAlchemy, in the generated application: the practical limit.

The same middleware, schemas, response models and problem handlers as the service has; only what lies
between a route and the driver is gone.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, Request
from orders_api import main
from orders_api.items.routes import ItemId
from orders_api.items.schemas import ItemCreate, ItemRead
from orders_api.web.problems import problems
from starlette.exceptions import HTTPException

COLUMNS = "id, name, description, created_at, updated_at"
READ = f"SELECT {COLUMNS} FROM items WHERE id = $1"
WRITE = f"INSERT INTO items (name, description) VALUES ($1, $2) RETURNING {COLUMNS}"

router = APIRouter(prefix="/items", tags=["items"], responses=problems(422, 503))


async def keep(connection: asyncpg.Connection) -> None:
    """Do not reset a connection that goes back to the pool.

    By default asyncpg spends one more round trip on it. Behind a transaction pooler that cleans up
    whichever server connection happens to answer, so a fast service does without.
    """


def open_pool() -> Any:
    """As many connections as the service keeps, and unnamed statements too."""
    return asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=10, max_size=10, statement_cache_size=0, reset=keep
    )


async def get_pool(request: Request) -> asyncpg.Pool:
    """The pool that the lifespan opened."""
    return request.state.pool


Pool = Annotated[asyncpg.Pool, Depends(get_pool)]


@router.post("", status_code=201)
async def create_item(new: ItemCreate, pool: Pool) -> ItemRead:
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(WRITE, new.name, new.description)
    return ItemRead(**row)


@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemId, pool: Pool) -> ItemRead:
    async with pool.acquire() as connection:
        row = await connection.fetchrow(READ, item_id)
    if row is None:
        raise HTTPException(404, f"There is no item {item_id}.")
    return ItemRead(**row)


def create_app() -> FastAPI:
    """The generated application with these routes instead of its own."""
    main.items = SimpleNamespace(router=router)
    app = main.create_app()
    generated = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with generated(app) as state, open_pool() as pool:
            yield {**state, "pool": pool}

    app.router.lifespan_context = lifespan
    return app
