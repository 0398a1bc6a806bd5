from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL can't store the character NUL")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_without_nul)]
Description = Annotated[str, Field(max_length=10_000), AfterValidator(_without_nul)]


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None


@with_config(ConfigDict(extra="forbid"))
class ItemChange(TypedDict, total=False):
    """What to change. What is left out stays as it is."""

    name: Name
    description: Description | None


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ItemPage(BaseModel):
    items: list[ItemRead]
    next_after: int | None
    """The next page's `after`. Null on the last page."""
