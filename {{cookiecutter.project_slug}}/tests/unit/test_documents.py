"""The tables of the documents name what the code has: variables, failures, start-up messages."""

import ast
import re

from sqlalchemy.exc import DBAPIError

from {{ cookiecutter.package_name }}.database import failures
from {{ cookiecutter.package_name }}.database.failures import Failure, classify
from {{ cookiecutter.package_name }}.observe.advice import UNKNOWN, explain

from tests.documents import OPERATIONS, README, with_variables
from tests.support import ROOT


class Answer(Exception):
    """What PostgreSQL or a pooler says, as asyncpg raises it."""

    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def _table(heading: str) -> list[list[str]]:
    """The cells of the rows below a heading, without the table's own head."""
    _, found, section = OPERATIONS.read_text().partition(f"\n### {heading}\n")
    assert found, f"docs/operations.md has no section {heading!r}"
    rows = [row for row in section.partition("\n##")[0].splitlines() if row.startswith("|")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _codes() -> list[tuple[str, str, Failure]]:
    """Each SQLSTATE of the table (53xxx: a class), a text that may come with it, and its kind."""
    return [
        (code, text, Failure[kind.strip("`")])
        for codes, texts, kind, *_ in _table("Failures of the database")
        for code in _quoted(codes)
        for text in _quoted(texts) or [""]
    ]


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    readme = README.read_text()
    assert readme == with_variables(readme), "README.md is out of date: run `uv run poe fix`"


def test_a_failure_is_what_the_runbook_says() -> None:
    for code, text, kind in _codes():
        answer = Answer(code.replace("x", "0"), text)
        assert classify(DBAPIError(None, None, answer)) is kind, (code, text)


def test_doctor_knows_what_to_do_about_each_failure() -> None:
    """Those of a request's values can't happen to it."""
    for code, text, kind in _codes():
        if kind in (Failure.UNAVAILABLE, Failure.LOGIN):
            found = explain(DBAPIError(None, None, Answer(code.replace("x", "0"), text)))
            assert found.advice != UNKNOWN, (code, text)
            assert text in found.observed


def test_the_runbook_has_every_failure_that_is_told_apart() -> None:
    codes = {code.rstrip("x") for code, _, _ in _codes()}
    assert failures._BY_SQLSTATE.keys() - codes == set(), "docs/operations.md lacks these"
    texts = " ".join(text for _, text, _ in _codes())
    for code in re.findall(r"E[A-Z]{5,}", " ".join(failures._POOLERS)):
        assert f"({code})" in texts, f"docs/operations.md lacks {code} of Supavisor"


def test_the_messages_of_the_runbook_are_in_the_code() -> None:
    """`...` in the runbook stands for what a message names. A constant of the code is a text."""
    texts = ""
    for folder in ("src", "devstack", "migrations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts += f"{node.value}\n"
    messages = [message for cell, *_ in _table("Before it serves") for message in _quoted(cell)]
    assert messages
    for message in messages:
        for part in filter(None, message.split("...")):
            assert part.strip() in texts, f"nothing says {part!r} any more: mend docs/operations.md"
