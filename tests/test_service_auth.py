"""What the template promises of a service with `auth=supabase`: see test_service.py."""

import subprocess
from pathlib import Path

import pytest
import test_service
from conftest import AUTH_TESTS, Project, Service, environment


@pytest.fixture(scope="session")
def service(auth_service: Service) -> Service:
    """In the place of the one with the default answers, for `copied` and `given` too."""
    return auth_service


@pytest.mark.parametrize("path", sorted(AUTH_TESTS.glob("test_*.py")), ids=lambda path: path.stem)
def test_a_service_keeps_what_the_template_promises(
    service: Service, copied: Project, given: dict[str, str], path: Path
) -> None:
    test_service.test_a_service_keeps_what_the_template_promises(service, copied, given, path)


def test_these_tests_pass_the_checks_of_a_service(service: Project, copied: Project) -> None:
    """mypy too, which looks at the whole service by the way."""
    test_service.test_these_tests_pass_the_checks_of_a_service(service, copied)
    result = subprocess.run(
        [service.python, "-m", "mypy"],
        cwd=copied.path,
        env=environment(PYTHONPATH="src"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
