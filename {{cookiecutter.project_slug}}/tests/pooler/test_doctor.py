"""`{{ cookiecutter.project_slug }} doctor`, on the servers of the tests."""

import asyncio
import os
import re
import subprocess
import sys

from {{ cookiecutter.package_name }}.observe.doctor import CHECKS
from {{ cookiecutter.package_name }}.observe.findings import Finding, Report

from tests.documents import OPERATIONS
from tests.support import Database

PACKAGE = "{{ cookiecutter.package_name }}"


async def test_doctor_finds_no_fault(database: Database, servers_are_ours: None) -> None:
    """{{ "But that there is no issuer" if cookiecutter.auth == "supabase" else "With the login that `dev` has, too" }}."""
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", PACKAGE, "doctor", "--client-limit", "200"],
        env=os.environ | {"DATABASE_URL": database.pooler_url},
        cwd="/",  # without a `.env` file
        capture_output=True,
        text=True,
        check=False,
    )
    faults = re.findall(r"^(?:warning|failure) +(\w+)", result.stdout, re.MULTILINE)
    assert faults == [{{ '"issuer"' if cookiecutter.auth == "supabase" }}], result.stdout + result.stderr
    assert result.returncode == {{ 2 if cookiecutter.auth == "supabase" else 0 }}
    assert re.search(r"^ok +pooler +PgBouncer in transaction mode", result.stdout, re.MULTILINE)
    assert re.search(r"^ok +statements .*no names", result.stdout, re.MULTILINE)
    assert re.search(r"^ok +schema ", result.stdout, re.MULTILINE)


def test_its_json_is_as_documented() -> None:
    document = OPERATIONS.read_text()
    [example] = re.findall(r"^```json\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert Report.model_validate_json(example)
    for check in ("settings", "doctor", *(it.__name__ for it in CHECKS)):
        assert f"`{check}`" in document
    for field in (*Report.model_fields, *Finding.model_fields):
        assert f'"{field}":' in example
