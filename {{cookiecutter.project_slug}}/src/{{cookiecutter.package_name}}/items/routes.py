from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.exceptions import HTTPException
from sqlalchemy import bindparam, delete, insert, select, update

from {{ cookiecutter.package_name }}.items.models import Item, items
from {{ cookiecutter.package_name }}.items.schemas import (
    ItemChange,
    ItemCreate,
    ItemPage,
    ItemRead,
)
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep
from {{ cookiecutter.package_name }}.web.problems import problems

router = APIRouter(prefix="/items", tags=["items"])

# PostgreSQL's bigint. Beyond it asyncpg refuses the argument.
ItemId = Annotated[int, Path(ge=1, le=2**63 - 1)]

# The two that are asked for the most are on the table and made once: half of the work of the same on
# the model, made when it is needed. Write the others as is easiest to read.
CREATE = insert(items).returning(items)
READ = select(items).where(items.c.id == bindparam("id"))


@router.post("", status_code=201)
async def create_item(new: ItemCreate, session: SessionDep) -> ItemRead:
    result = await session.execute(CREATE, new.model_dump())
    return ItemRead.model_validate(result.one())


@router.get("")
async def list_items(
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="The last id seen")] = 0,
) -> ItemPage:
    # Keyset pagination: unlike OFFSET, it costs the same on every page and skips no row when another
    # was deleted. One row more than asked for tells whether there is a next page.
    query = select(Item).where(Item.id > after).order_by(Item.id).limit(limit + 1)
    found = (await session.scalars(query)).all()
    page = [ItemRead.model_validate(item) for item in found[:limit]]
    return ItemPage(items=page, next_after=page[-1].id if len(found) > limit else None)


@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemId, session: ReadSessionDep) -> ItemRead:
    result = await session.execute(READ, {"id": item_id})
    return _found(item_id, result.one_or_none())


@router.patch("/{item_id}", responses=problems(404))
async def change_item(item_id: ItemId, change: ItemChange, session: SessionDep) -> ItemRead:
    query = update(Item).where(Item.id == item_id).values(**change).returning(Item)
    item = await session.scalar(query) if change else await session.get(Item, item_id)
    return _found(item_id, item)


@router.delete("/{item_id}", status_code=204, responses=problems(404))
async def delete_item(item_id: ItemId, session: SessionDep) -> None:
    query = delete(Item).where(Item.id == item_id).returning(Item)
    _found(item_id, await session.scalar(query))


def _found(item_id: int, item: object) -> ItemRead:
    if item is None:
        raise HTTPException(404, f"There is no item {item_id}.")
    return ItemRead.model_validate(item)
