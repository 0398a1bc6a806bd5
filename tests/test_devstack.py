"""`dev`: everything local with one command, and nothing left of it afterwards."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from conftest import Project, bake, environment


@dataclass
class Dev:
    """A running `dev`, and the processes that belong to it."""

    process: subprocess.Popen[str]
    base_url: str

    def request(self, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.base_url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, json.load(error)


def descendants(root: int) -> dict[int, str]:
    """This process and every one below it, those that began a session of their own included."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(folder.name)] = (int(stat.rpartition(")")[2].split()[1]), command)
    found = {root: parents[root][1]} if root in parents else {}
    size = -1
    while size != len(found):
        size = len(found)
        found |= {pid: command for pid, (parent, command) in parents.items() if parent in found}
    return found


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def dev(project: Project, log: Path, *, keep: bool = False) -> Iterator[Dev]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [project.python, "-m", project.package, "dev", "--port", str(port)],
            cwd=project.path,
            env=environment(PYTHONPATH=str(project.path / "src")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    running = Dev(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: process.poll() is not None or _answers(running))
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
        # Root's PostgreSQL can't keep its data below a folder of root's, and says where it does.
        elsewhere = re.search(r"data is in (/var/tmp/devstack-\S+)", log.read_text())
        if elsewhere and not keep:
            shutil.rmtree(elsewhere[1], ignore_errors=True)


def _answers(running: Dev) -> bool:
    try:
        return running.request("/livez")[0] == 200
    except OSError:
        return False


@pytest.fixture
def project(tmp_path: Path, service: Project) -> Project:
    """A project of its own, run with the environment of the session's: the code is the same."""
    project = bake(tmp_path)
    (project.path / ".venv").symlink_to(service.path / ".venv")
    return project


def url_of(log: Path, server: str) -> str:
    match = re.search(rf"^{server}: +(\S+)$", log.read_text(), re.MULTILINE)
    assert match
    return match[1]


def stored_names(project: Project, url: str) -> list[str]:
    """The names in `items`, asked of PostgreSQL itself."""
    program = (
        "import asyncio, asyncpg, json, sys\n"
        "async def main():\n"
        "    connection = await asyncpg.connect(sys.argv[1])\n"
        "    rows = await connection.fetch('SELECT name FROM items ORDER BY id')\n"
        "    print(json.dumps([row['name'] for row in rows]))\n"
        "asyncio.run(main())\n"
    )
    command = [project.python, "-c", program, url]
    names: list[str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return names


def test_a_row_goes_through_pgbouncer_and_is_there_after_a_restart(
    project: Project, tmp_path: Path
) -> None:
    log = tmp_path / "dev.log"
    with dev(project, log, keep=True) as running:
        assert running.request("/readyz") == (200, {"status": "ok"})
        assert running.request("/items", {"name": "kept"})[0] == 201
        assert stored_names(project, url_of(log, "PostgreSQL")) == ["kept"]
        port = url_of(log, "PgBouncer").rpartition(":")[2]
        assert re.search(
            rf"database engine .* pool_size=10 .*@127.0.0.1:{port}$", log.read_text(), re.MULTILINE
        )
    with dev(project, log) as running:
        assert running.request("/items")[1]["items"][0]["name"] == "kept"
    assert (project.path / ".gitignore").read_text().count("/.devstack/") == 1


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(project: Project, tmp_path: Path, signal_: signal.Signals) -> None:
    with dev(project, tmp_path / "dev.log") as running:
        family = descendants(running.process.pid)
        told = " ".join(family.values())
        assert "postgres" in told
        assert "pgbouncer" in told
        running.process.send_signal(signal_)
        running.process.wait(timeout=30)
        wait_until(lambda: not any(alive(pid) for pid in family))


def test_nothing_is_left_of_a_killed_test_run(service: Project) -> None:
    tests = subprocess.Popen(
        [service.python, "-m", "pytest", "-p", "no:cacheprovider", "tests/pooler"],
        cwd=service.path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: "pgbouncer" in " ".join(descendants(tests.pid).values()))
    family = descendants(tests.pid)
    tests.kill()
    tests.wait()
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_second_dev_in_the_same_folder_says_so(project: Project, tmp_path: Path) -> None:
    with dev(project, tmp_path / "dev.log"):
        second = subprocess.run(
            [project.python, "-m", project.package, "dev", "--port", "0"],
            cwd=project.path,
            env=environment(PYTHONPATH=str(project.path / "src")),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert second.returncode == 1
    assert "is in use by a devstack that is running" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken_is_one_message(project: Project, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second = subprocess.run(
            [project.python, "-m", project.package, "dev", "--port", str(taken.getsockname()[1])],
            cwd=project.path,
            env=environment(PYTHONPATH=str(project.path / "src")),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert second.returncode != 0
    assert "address already in use" in (second.stdout + second.stderr).lower()
    assert "Traceback" not in second.stderr


def test_two_projects_at_once(service: Project, project: Project, tmp_path: Path) -> None:
    with dev(service, tmp_path / "one.log") as one, dev(project, tmp_path / "two.log") as two:
        assert one.request("/readyz")[0] == 200
        assert two.request("/readyz")[0] == 200


@pytest.mark.parametrize("variable", ["PG_BINDIR", "PGBOUNCER_BIN"])
def test_a_missing_part_is_an_error_and_never_a_skip(
    service: Project, tmp_path: Path, variable: str
) -> None:
    command = [service.python, "-m", "pytest", "-p", "no:cacheprovider", "tests/pooler"]
    result = subprocess.run(
        command,
        cwd=service.path,
        env=environment(**{variable: str(tmp_path / "nowhere")}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    told = result.stdout + result.stderr
    assert variable in told
    assert "nowhere" in told
    assert "skipped" not in told
    assert "Traceback" not in told
