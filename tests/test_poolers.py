"""The generated suite through other poolers than its own: it passes, or says why it skips a test.

Through one that is less strict and tracks nothing, test_projects.py runs all of it.
"""

import re

from conftest import Project, Service, devstack, run_copied
from refusing import refusing

CORE = [
    *(f"tests/pooler/test_{name}.py" for name in ("control", "statements", "reading", "trips")),
    *(f"tests/service/test_{name}.py" for name in ("sealed", "reading")),
    "tests/api/test_session.py",
]
ROTATING = ("server_round_robin=1", "default_pool_size=3")
CONTROL = "tests/pooler/test_control.py"


def _tracking(service: Project) -> tuple[str, ...]:
    """What makes this machine's PgBouncer track named statements, if it is new enough."""
    program = (
        "import pathlib, tempfile; from devstack.pgbouncer import find_pgbouncer\n"
        "print(find_pgbouncer(pathlib.Path(tempfile.mkdtemp()))[1] >= (1, 21))"
    )
    told = service.check("python", "-c", program).split()[-1]
    return ("max_prepared_statements=200",) if told == "True" else ()


def test_the_core_through_a_supavisor_that_tracks_named_statements(
    service: Service, copied: Project
) -> None:
    """It refuses PREPARE and DEALLOCATE as simple queries, and ends the connection."""
    with (
        devstack(service, *ROTATING, *_tracking(service)) as stack,
        refusing(stack["pooler_url"]) as (server, url),
    ):
        urls = {"TEST_DATABASE_URL": stack["database_url"], "TEST_POOLER_URL": url}
        told = run_copied(service, copied, "-q", *CORE, **urls).stdout
        assert server.refused == 0
    assert re.search(r"^\d+ passed", told, re.MULTILINE), told[-4000:]


def test_a_simple_deallocate_is_noticed(service: Service, copied: Project) -> None:
    """The test above proves nothing about a pooler's refusals otherwise."""
    path = copied.path / "tests" / "pooler" / "backends.py"
    text = path.read_text()
    assert text.count('connection.execute("BEGIN")') == 2
    path.write_text(
        text.replace('connection.execute("BEGIN")', 'connection.execute("deallocate all; BEGIN")')
    )
    with devstack(service, *ROTATING) as stack, refusing(stack["pooler_url"]) as (server, url):
        urls = {"TEST_DATABASE_URL": stack["database_url"], "TEST_POOLER_URL": url}
        result = run_copied(service, copied, "-q", CONTROL, **urls)
        assert server.refused > 0
    assert "EPSSIMPLEQUERY" in result.stdout


def test_the_core_in_session_mode(service: Service, copied: Project) -> None:
    """A client keeps its backend there: tests that have it moved say so."""
    with devstack(service, "pool_mode=session", "default_pool_size=60") as stack:
        urls = {"TEST_DATABASE_URL": stack["database_url"], "TEST_POOLER_URL": stack["pooler_url"]}
        told = run_copied(service, copied, "-q", "-rs", *CORE, **urls).stdout
    reason = r"^SKIPPED \[(\d+)\].*in which a client keeps its backend$"
    moved = sum(map(int, re.findall(reason, told, re.MULTILINE)))
    assert moved > 0
    assert re.search(rf"^\d+ passed, {moved} skipped", told, re.MULTILINE), told[-4000:]
