"""Notes that only their owner sees. No statement names the owner: PostgreSQL's policies do."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.exceptions import HTTPException
from sqlalchemy import delete, insert, select, update

from {{ cookiecutter.package_name }}.auth.dependencies import UserSessionDep
from {{ cookiecutter.package_name }}.notes.models import Note
from {{ cookiecutter.package_name }}.notes.schemas import (
    NoteChange,
    NoteCreate,
    NotePage,
    NoteRead,
)
from {{ cookiecutter.package_name }}.web.problems import problems

router = APIRouter(prefix="/notes", tags=["notes"], responses=problems(401))

# PostgreSQL's bigint. Beyond it asyncpg refuses the argument.
NoteId = Annotated[int, Path(ge=1, le=2**63 - 1)]


@router.post("", status_code=201)
async def create_note(new: NoteCreate, session: UserSessionDep) -> NoteRead:
    query = insert(Note).values(new.model_dump()).returning(Note)
    return NoteRead.model_validate(await session.scalar(query))


@router.get("")
async def list_notes(
    session: UserSessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="The last id seen")] = 0,
) -> NotePage:
    query = select(Note).where(Note.id > after).order_by(Note.id).limit(limit + 1)
    found = (await session.scalars(query)).all()
    page = [NoteRead.model_validate(note) for note in found[:limit]]
    return NotePage(notes=page, next_after=page[-1].id if len(found) > limit else None)


@router.get("/{note_id}", responses=problems(404))
async def read_note(note_id: NoteId, session: UserSessionDep) -> NoteRead:
    return _found(note_id, await session.get(Note, note_id))


@router.patch("/{note_id}", responses=problems(404))
async def change_note(note_id: NoteId, change: NoteChange, session: UserSessionDep) -> NoteRead:
    query = update(Note).where(Note.id == note_id).values(**change).returning(Note)
    note = await session.scalar(query) if change else await session.get(Note, note_id)
    return _found(note_id, note)


@router.delete("/{note_id}", status_code=204, responses=problems(404))
async def delete_note(note_id: NoteId, session: UserSessionDep) -> None:
    query = delete(Note).where(Note.id == note_id).returning(Note)
    _found(note_id, await session.scalar(query))


def _found(note_id: int, note: Note | None) -> NoteRead:
    if note is None:  # or another's, which is no business of the caller's
        raise HTTPException(404, f"There is no note {note_id}.")
    return NoteRead.model_validate(note)
