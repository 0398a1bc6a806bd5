from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.exceptions import HTTPException
from sqlalchemy import delete, select, update

from {{ cookiecutter.package_name }}.items.models import Item
from {{ cookiecutter.package_name }}.items.schemas import (
    ItemChange,
    ItemCreate,
    ItemPage,
    ItemRead,
)
from {{ cookiecutter.package_name }}.web.dependencies import ReadSessionDep, SessionDep
from {{ cookiecutter.package_name }}.web.problems import problems

router = APIRouter(prefix="/items", tags=["items"], responses=problems(422, 503))

# PostgreSQL's bigint. Beyond it asyncpg refuses the argument.
ItemId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.post("", status_code=201, responses=problems(400, 413))
async def create_item(new: ItemCreate, session: SessionDep) -> ItemRead:
    item = Item(**new.model_dump())
    session.add(item)
    await session.flush()
    return ItemRead.model_validate(item)


@router.get("")
async def list_items(
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="The last id seen")] = 0,
) -> ItemPage:
    # Keyset pagination: unlike OFFSET, it costs the same on every page and skips no row when
    # another was deleted. One row more than asked for tells whether there is a next page.
    query = select(Item).where(Item.id > after).order_by(Item.id).limit(limit + 1)
    rows = (await session.scalars(query)).all()
    page = [ItemRead.model_validate(row) for row in rows[:limit]]
    return ItemPage(items=page, next_after=page[-1].id if len(rows) > limit else None)


@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemId, session: ReadSessionDep) -> ItemRead:
    return _found(item_id, await session.get(Item, item_id))


@router.patch("/{item_id}", responses=problems(400, 404, 413))
async def change_item(item_id: ItemId, change: ItemChange, session: SessionDep) -> ItemRead:
    changes = change.model_dump(exclude_unset=True)
    if not changes:
        return _found(item_id, await session.get(Item, item_id))
    query = update(Item).where(Item.id == item_id).values(changes).returning(Item)
    return _found(item_id, await session.scalar(query))


@router.delete("/{item_id}", status_code=204, responses=problems(404))
async def delete_item(item_id: ItemId, session: SessionDep) -> None:
    query = delete(Item).where(Item.id == item_id).returning(Item)
    _found(item_id, await session.scalar(query))


def _found(item_id: int, item: Item | None) -> ItemRead:
    if item is None:
        raise HTTPException(404, f"There is no item {item_id}.")
    return ItemRead.model_validate(item)
