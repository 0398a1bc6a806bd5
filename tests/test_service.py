"""What the template promises of a service beyond what the service's own suite looks at.

The tests are in `service/`: floods, types by the dozen, misuse of every kind. They prove the template;
nothing that an owner does would break them alone.
"""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import OWN_TESTS, TEMPLATE, Project, Service, run_copied


@pytest.mark.parametrize("path", sorted(OWN_TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_a_service_keeps_what_the_template_promises(
    service: Service, copied: Project, given: dict[str, str], path: Path
) -> None:
    tests = copied.path / path.relative_to(TEMPLATE)
    result = run_copied(service, copied, "-q", str(tests), **given)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr
    assert re.search(r"\d+ passed", result.stdout)


def test_these_tests_pass_the_checks_of_a_service(service: Project, copied: Project) -> None:
    """mypy: see `test_documents.py`."""
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [service.python, "-m", "ruff", *command, "--no-cache"],
            cwd=copied.path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_suite_takes_no_name_that_a_feature_may_have(service: Project) -> None:
    """Its routes are below /test/, and its tables in a schema of their own: an owner has `notes`."""
    example = service.path / "tests" / "api" / "test_items.py"
    apart = service.path / "tests" / "migrations" / "test_data_api.py"  # on a server of its own
    for path in set((service.path / "tests").rglob("*.py")) - {example, apart}:
        text = path.read_text()
        routes = re.findall(r"@\w+\.(?:get|post|put|patch|delete|websocket)\(\s*\"(.*?)\"", text)
        assert {route for route in routes if not route.startswith("/test/")} == set(), path
        models = re.findall(r"^class (\w+)\(Base\):", text, re.MULTILINE)
        assert {name for name in models if not name.startswith("Scratch")} == set(), path
        assert len(models) == text.count('metadata = MetaData(schema="scratch")'), path
        others = re.sub(r"CREATE SCHEMA test_\w+ CREATE TABLE", "", text)
        tables = re.findall(r"CREATE TABLE (?!\{|scratch\.|test_)\w+", others)
        assert set(tables) <= {"CREATE TABLE alembic_version"}, path
