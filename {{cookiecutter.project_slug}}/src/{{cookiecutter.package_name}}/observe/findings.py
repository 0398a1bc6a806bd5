"""What an examination found, for people and for programs."""

from collections.abc import Iterator
from typing import Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field

Level = Literal["ok", "warning", "failure"]
Value = bool | int | float | str | None

LEVELS: tuple[Level, ...] = ("ok", "warning", "failure")
"""The exit code is the place of the worst one in here."""

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}
_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Finding(BaseModel):
    """One line of the report."""

    model_config = _CONFIG

    check: str = ""
    """Which check found it."""
    level: Level
    """`ok`, `warning` or `failure`."""
    observed: str
    """What was seen, in words that may change."""
    advice: str = ""
    """What to do, empty where there is nothing to do."""
    values: dict[str, Value] = Field(default_factory=dict)
    """What was seen, for programs."""


class Report(BaseModel):
    """What `doctor --json` prints."""

    model_config = _CONFIG

    level: Level
    """The worst of the findings'."""
    seconds: float
    """How long it took."""
    findings: list[Finding]
    """In the order of the checks."""


def ok(observed: str, advice: str = "", /, **values: Any) -> Finding:
    """Nothing is wrong."""
    return Finding(level="ok", observed=observed, advice=advice, values=values)


def warning(observed: str, advice: str = "", /, **values: Any) -> Finding:
    """It works, and may not for ever."""
    return Finding(level="warning", observed=observed, advice=advice, values=values)


def failure(observed: str, advice: str = "", /, **values: Any) -> Finding:
    """It does not work, or will not under load."""
    return Finding(level="failure", observed=observed, advice=advice, values=values)


def lines(report: Report) -> Iterator[str]:
    """The report for people. `typer.echo` leaves out the colours where nobody sees them."""
    for it in report.findings:
        level = typer.style(f"{it.level:8}", fg=_COLOURS[it.level], bold=True)
        yield f"{level} {it.check:10} {it.observed}"
        if it.advice:
            yield f"{'':19} -> {it.advice}"
    for level in LEVELS[:0:-1]:
        number = sum(it.level == level for it in report.findings)
        yield f"{number} {level}{'s' * (number != 1)}"
