from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL can't store the character NUL")
    return text


Text = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_without_nul)]


class NoteCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text


@with_config(ConfigDict(extra="forbid"))
class NoteChange(TypedDict, total=False):
    """What to change. What is left out stays as it is."""

    text: Text


class NoteRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str
    created_at: AwareDatetime


class NotePage(BaseModel):
    notes: list[NoteRead]
    next_after: int | None
    """The next page's `after`. Null on the last page."""
