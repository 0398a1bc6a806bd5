"""The guarantees of a service with `auth=supabase`, each taken away."""

import pytest
import test_breakage
from conftest import Project
from test_breakage import Row

CALLER = "src/{package}/database/caller.py"

CALLING = "tests/auth/test_caller.py::"


@pytest.fixture(scope="session")
def service(auth_service: Project) -> Project:
    """In the place of the one with the default answers, for `copied` and `given` too."""
    return auth_service


ROWS: list[Row] = []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.broken)
def test_a_broken_guarantee_is_noticed(
    service: Project, copied: Project, given: dict[str, str], row: Row
) -> None:
    test_breakage.test_a_broken_guarantee_is_noticed(service, copied, given, row)
