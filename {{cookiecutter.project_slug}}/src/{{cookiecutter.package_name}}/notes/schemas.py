from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL can't store the character NUL")
    return text


Text = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_without_nul)]


class NoteCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text


class NoteChange(BaseModel):
    """What to change: a field that is left out stays as it is, so its default is never used."""

    model_config = ConfigDict(extra="forbid")

    text: Text = Field(default_factory=str)


class NoteRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str
    created_at: AwareDatetime


class NotePage(BaseModel):
    notes: list[NoteRead]
    next_after: int | None
    """The next page's `after`. Null on the last page."""
