from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("PostgreSQL can't store the character NUL")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Description = Annotated[Text, Field(max_length=10_000)]


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None


class ItemChange(BaseModel):
    """What to change: a field that is left out stays as it is, so its default is never used."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(default_factory=str)
    description: Description | None = None


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
