"""`{{ cookiecutter.project_slug }} doctor`, on the servers of the tests."""

import asyncio
import os
import re
import subprocess
import sys

from {{ cookiecutter.package_name }}.observe.findings import Finding, Report

from tests.documents import OPERATIONS
from tests.support import Database

PACKAGE = "{{ cookiecutter.package_name }}"


async def _examined(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the command says, in a folder without a `.env` file."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", PACKAGE, "doctor", "--client-limit", "200", *arguments],
        env=os.environ | {"DATABASE_URL": url},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


async def test_doctor_finds_no_fault(database: Database, servers_are_ours: None) -> None:
    """{{ "But that there is no issuer" if cookiecutter.auth == "supabase" else "With the login that `dev` has, too" }}."""
    result = await _examined(database.pooler_url)
    assert result.returncode == {{ 2 if cookiecutter.auth == 'supabase' else 0 }}, result.stdout + result.stderr
    assert re.search(r"^ok +pooler +PgBouncer in transaction mode", result.stdout, re.MULTILINE)
    assert re.search(r"^ok +statements .*no names", result.stdout, re.MULTILINE)
    assert re.search(r"^ok +schema ", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("{{ 1 if cookiecutter.auth == 'supabase' else 0 }} failure{{ 's' if cookiecutter.auth != 'supabase' }}\n0 warnings\n")


async def test_its_json_is_as_documented(database: Database, servers_are_ours: None) -> None:
    result = await _examined(database.pooler_url, "--json")
    report = Report.model_validate_json(result.stdout)
    assert report.level == "{{ 'failure' if cookiecutter.auth == 'supabase' else 'ok' }}"
    document = OPERATIONS.read_text()
    [example] = re.findall(r"^```json\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert Report.model_validate_json(example)
    for check in ("settings", "doctor", *(it.check for it in report.findings)):
        assert f"`{check}`" in document
    for field in (*Report.model_fields, *Finding.model_fields):
        assert f'"{field}":' in example
