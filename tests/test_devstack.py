"""`dev`: everything local with one command, and nothing left of it afterwards."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from conftest import TEMPLATE, Project, bake, devstack, environment


@dataclass
class Dev:
    """A running `dev`, and the processes that belong to it."""

    process: subprocess.Popen[str]
    base_url: str

    def request(self, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
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


def command(project: Project, *arguments: str) -> list[str]:
    """`uv run poe dev`, in an environment that is another project's."""
    return [project.python, "-m", "poethepoet", "dev", *arguments]


@contextmanager
def dev(project: Project, log: Path, prefix: Sequence[str] = ()) -> Iterator[Dev]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*prefix, *command(project, "--port", str(port))],
            cwd=project.path,
            env=variables(project),
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


def variables(project: Project, **others: str) -> dict[str, str]:
    path = os.pathsep.join((str(Path(project.python).parent), os.environ["PATH"]))
    return environment(PYTHONPATH=str(project.path / "src"), PATH=path, **others)


def refused(project: Project, *arguments: str, **others: str) -> str:
    """What `dev` says when it can't start."""
    result = subprocess.run(
        command(project, *arguments),
        cwd=project.path,
        env=variables(project, **others),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    told = result.stdout + result.stderr
    assert result.returncode == 1, told
    assert "Traceback" not in told
    return told


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
    with dev(project, log) as running:
        assert running.request("/readyz") == (200, {"status": "ok"})
        assert running.request("/items", {"name": "kept"})[0] == 201
        assert stored_names(project, url_of(log, "PostgreSQL")) == ["kept"]
        port = url_of(log, "PgBouncer").rpartition(":")[2]
        assert re.search(
            rf"database engine .* pool_size=10 .*@127.0.0.1:{port}$", log.read_text(), re.MULTILINE
        )
        assert url_of(log, "PgBouncer").startswith("postgresql://service:")
        url = url_of(log, "PostgreSQL")
        assert f"The API:    {running.base_url}/docs" in log.read_text()
    with dev(project, log) as running:
        assert running.request("/items")[1]["items"][0]["name"] == "kept"
        assert url_of(log, "PostgreSQL") == url  # which a shell has exported
    assert (project.path / ".gitignore").read_text().count("/.devstack/") == 1


def alive_of(family: dict[int, str]) -> list[str]:
    return [command for pid, command in family.items() if alive(pid)]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(project: Project, tmp_path: Path, signal_: signal.Signals) -> None:
    with dev(project, tmp_path / "dev.log") as running:
        family = descendants(running.process.pid)
        told = " ".join(family.values())
        assert "postgres" in told
        assert "pgbouncer" in told
        running.process.send_signal(signal_)
        running.process.wait(timeout=30)
        wait_until(lambda: not alive_of(family))


@pytest.mark.parametrize("killed", ["uv run", "guard.py"])
def test_nothing_is_left_if_only_a_part_is_killed(
    project: Project, tmp_path: Path, killed: str
) -> None:
    """What waits for `dev` or for a server can't end it any more."""
    prefix = ["uv", "run", "--no-sync"] if killed == "uv run" else []
    with dev(project, tmp_path / "dev.log", prefix) as running:
        family = descendants(running.process.pid)
        for pid, command in family.items():
            if killed in command:
                os.kill(pid, signal.SIGKILL)
        ended = family if prefix else {pid: c for pid, c in family.items() if "python" not in c}
        assert len(ended) > 2
        wait_until(lambda: not alive_of(ended))


def test_killed_at_any_time_it_starts_again(project: Project, tmp_path: Path) -> None:
    """While it makes the cluster, while the servers start, while it migrates; and all at once, as when
    the machine stops."""
    log = tmp_path / "dev.log"

    def nothing_is_left() -> bool:
        return not any(str(project.path) in command for command in descendants(1).values())

    for turn in range(16):
        with log.open("w") as output:
            process = subprocess.Popen(
                command(project, "--port", "0"),
                cwd=project.path,
                env=variables(project),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        time.sleep(0.2 + 0.2 * turn)
        family = descendants(process.pid)
        for pid in family if turn % 2 else [process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if turn % 3 == 0:  # otherwise the next one has to wait for what is still ending
            wait_until(nothing_is_left)
    with dev(project, log) as running:
        assert running.request("/readyz") == (200, {"status": "ok"})
    wait_until(nothing_is_left)
    assert not (project.path / ".devstack" / "new").exists()


def test_nothing_is_left_of_a_killed_test_run(service: Project, tmp_path: Path) -> None:
    tests = subprocess.Popen(
        [service.python, "-m", "pytest", "-p", "no:cacheprovider", "tests/pooler"],
        cwd=service.path,
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: "pgbouncer.ini" in " ".join(descendants(tests.pid).values()))
    family = descendants(tests.pid)
    tests.kill()
    tests.wait()
    wait_until(lambda: not alive_of(family))
    wait_until(lambda: not list(tmp_path.glob("tmp*")))


def test_an_interrupt_is_heard_in_the_background(project: Project, tmp_path: Path) -> None:
    """A shell's `&` in a script has SIGINT and SIGQUIT ignored, by which PgBouncer ends. (After 10 s a
    guard asks in another way.)"""
    with dev(project, tmp_path / "dev.log", ["sh", "-c", '"$@" & wait', "sh"]) as running:
        family = descendants(running.process.pid)
        [pid] = [pid for pid, command in family.items() if "-m devstack.dev" in command]
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: not alive_of(family), seconds=8)


def test_a_second_dev_in_the_same_folder_names_the_first(project: Project, tmp_path: Path) -> None:
    """Also on the same port: another port would not help."""
    with dev(project, tmp_path / "dev.log") as running:
        for port in ("0", running.base_url.rpartition(":")[2]):
            told = refused(project, "--port", port)
            assert f"Process {running.process.pid} uses {project.path}/.devstack already" in told
            assert "--port" not in told.partition("\n")[2]


def test_a_port_that_is_taken_is_one_message(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = refused(project, "--port", str(taken.getsockname()[1]))
    assert "address already in use" in told.lower()
    assert "--port" in told.partition("\n")[2]


@pytest.mark.parametrize("damage", ["file", "password", "version"])
def test_a_folder_that_can_not_be_used_is_told(project: Project, damage: str) -> None:
    data = project.path / ".devstack"
    if damage == "file":
        data.write_text("")
    else:
        (data / "cluster").mkdir(parents=True)
    if damage == "version":
        (data / "cluster" / "PG_VERSION").write_text("9.6\n")
        (data / "cluster" / "devstack.password").write_text("secret")
    told = refused(project, "--port", "0")
    assert str(data) in told
    assert "delete it: its rows are lost then" in told


def test_what_another_user_has_made_is_told(service: Project) -> None:
    """After one run as root in a user's folder. (Here nobody, or a folder that can't be written to.)"""
    program = (
        "import os, sys; from pathlib import Path; from devstack.postgres import locked;"
        "os.geteuid() or os.seteuid(65534);"
        "locked(Path(sys.argv[1])).__enter__()"
    )
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / ".devstack").mkdir()
        for folder in (Path(name), Path(name) / ".devstack"):
            folder.chmod(0o555)
        result = subprocess.run(
            [service.python, "-c", program, f"{name}/.devstack"],
            cwd=service.path,
            capture_output=True,
            text=True,
            check=False,
        )
        Path(name).chmod(0o755)
    assert re.search(rf"Permission denied.*`chown -R \w+ {name}` as root", result.stderr)


def test_a_cache_that_is_not_ours_fails_no_test(service: Project, copied: Project) -> None:
    """After one run as root, or in a folder that is read-only."""
    (copied.path / ".pytest_cache").write_text("")
    command = [service.python, "-m", "pytest", "-n0", "tests/unit/test_settings.py"]
    env = environment(PYTHONPATH=str(copied.path / "src"))
    subprocess.run(command, cwd=copied.path, env=env, check=True, timeout=60)


@pytest.mark.parametrize(
    ("apt", "told"),
    [
        ("W: Failed to fetch http://d/InRelease  Temporary failure resolving 'd'", "no network"),
        ("E: Unable to locate package pgbouncer", "Install it: `apt-get install pgbouncer`"),
    ],
)
def test_a_pgbouncer_that_can_not_be_fetched(
    service: Project, tmp_path: Path, apt: str, told: str
) -> None:
    """Without a network it is no use to install the package."""
    program = (
        "import sys; from pathlib import Path; from devstack.pgbouncer import find_pgbouncer;"
        "sys.modules['devstack.pgbouncer'].USUAL_PLACES = (); sys.prefix = sys.argv[1];"
        "find_pgbouncer(Path(sys.argv[1]))"
    )
    (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "{apt}"\nexit 100\n')
    (tmp_path / "apt-get").chmod(0o755)
    result = subprocess.run(
        [service.python, "-c", program, tmp_path],
        cwd=service.path,
        env=environment(PATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in result.stderr
    assert ("nstall" in result.stderr.rpartition("DevstackError")[2]) == told.startswith("Install")


def test_five_first_runs_at_once(service: Project, tmp_path: Path) -> None:
    """Each fetches PgBouncer, and one of them keeps it."""
    shutil.copytree(service.path, tmp_path / "copy", ignore=shutil.ignore_patterns(".venv"))
    copy = Project(tmp_path / "copy", service.package)
    copy.check("python", "--version")
    runs = [
        subprocess.Popen(
            [copy.python, TEMPLATE / "benchmarks" / "servers.py"],
            env=environment(PYTHONPATH=str(copy.path)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    told = [run.communicate("")[0] for run in runs]
    assert all("pooler_url" in each for each in told), told


@pytest.fixture
def auth_project(tmp_path: Path, auth_service: Project) -> Project:
    """As `project`, with `auth=supabase`."""
    project = bake(tmp_path, auth="supabase")
    (project.path / ".venv").symlink_to(auth_service.path / ".venv")
    return project


def token(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project.python, "-m", "poethepoet", "token", *arguments],
        cwd=project.path,
        env=variables(project),
        capture_output=True,
        text=True,
        check=False,
    )


def test_tokens_are_good_for_every_dev_of_a_folder(auth_project: Project, tmp_path: Path) -> None:
    """Whichever came first, and whatever `.env` says. `dev` takes its issuer along when it is killed."""
    (auth_project.path / ".env").write_text(
        "DATABASE_URL=postgresql://h/d\nSUPABASE_URL=https://abc.supabase.co\n"
        "SUPABASE_JWKS_URL=https://abc.supabase.co/keys\n"
    )
    alice = token(auth_project).stdout.strip()
    log = tmp_path / "dev.log"
    with dev(auth_project, log) as running:
        assert running.request("/notes", {"text": "kept"}, alice)[0] == 201
        assert running.request("/notes")[0] == 401
        bob = token(auth_project, "bob").stdout.strip()
        assert running.request("/notes", token=bob)[1]["notes"] == []
        assert "uv run poe token [alice|bob]" in log.read_text()
        keys = auth_project.path / ".devstack" / "issuer.json"
        assert keys.stat().st_mode & 0o777 == 0o600
        exported = dict(re.findall(r"^  export (\w+)='(.*)'$", log.read_text(), re.MULTILINE))
        auth_project.check("orders-api", "migrate", **exported)
        told = auth_project.check("orders-api", "doctor", **exported)  # of the login, for instance
        assert "0 failures\n0 warnings" in told
        family = descendants(running.process.pid)
        running.process.kill()
        wait_until(lambda: not alive_of(family))
    with dev(auth_project, log) as running:
        assert [it["text"] for it in running.request("/notes", token=alice)[1]["notes"]] == ["kept"]


@pytest.mark.parametrize(
    ("arguments", "damage", "told"),
    [
        (["carol"], None, "There is no user 'carol': write alice or bob.\n"),
        ([], b"", "issuer.json: it is no key. Make it yours, or delete it.\n"),
        ([], b"\xff", "issuer.json: it is no key."),
        ([], b"[]", "issuer.json: it is no key."),
        ([], b"{}", "issuer.json: it is no key."),
    ],
)
def test_no_token_is_one_line(
    auth_project: Project, arguments: list[str], damage: bytes | None, told: str
) -> None:
    if damage is not None:
        (auth_project.path / ".devstack").mkdir()
        (auth_project.path / ".devstack" / "issuer.json").write_bytes(damage)
    result = token(auth_project, *arguments)
    assert result.returncode == 1
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_proxy_is_not_asked_for_this_machine(service: Project) -> None:
    """`http_proxy` without NO_PROXY, as in a company's network. Nobody listens at this one."""
    with devstack(service):
        pass  # PgBouncer is there, for which apt may ask the proxy
    # httpx refuses the last, whomever it is to ask: it has no SOCKS.
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:1")
    proxies["ALL_PROXY"] = "socks5://127.0.0.1:1"
    service.check("pytest", "-q", "tests/api/test_serve.py", NO_PROXY="", no_proxy="", **proxies)


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
