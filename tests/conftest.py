"""Bake projects from the template, as `cookiecutter` does, and run what they contain."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import baking
import pytest
from baking import TEMPLATE, environment

# A company's proxy can't reach what runs here.
os.environ |= {name: f"127.0.0.1,{os.environ.get(name, '')}" for name in ("NO_PROXY", "no_proxy")}

# Tests of a generated service that it does not need itself: they run in a copy of it.
OWN_TESTS = TEMPLATE / "tests" / "service"
AUTH_TESTS = TEMPLATE / "tests" / "service_auth"
collect_ignore = ["service", "service_auth"]


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One more than there are cores: a third of the time these tests wait for something."""
    return (yield) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole suites first, and the many short ones last: nobody is left alone with what takes minutes."""

    def place(item: pytest.Item) -> int:
        if "suite" in item.name or "workflow" in item.name:
            return 0
        return 2 if item.path.stem.startswith("test_breakage") else 1

    items.sort(key=place)


@dataclass(frozen=True)
class Project:
    """A generated project."""

    path: Path
    package: str

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project's environment, such as `pytest` or `ruff`."""
        return subprocess.run(
            ["uv", "run", "--quiet", *command],
            cwd=self.path,
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )

    def check(self, *command: str, **variables: str) -> str:
        """Run a command that has to succeed; return what it printed."""
        result = self.run(*command, **variables)
        output = result.stdout + result.stderr
        assert result.returncode == 0, f"{' '.join(command)}:\n{output[-8000:]}"
        return output

    @property
    def python(self) -> str:
        """The interpreter of the project's environment, which `run` has made."""
        return str(self.path / ".venv" / "bin" / "python")

    def files(self) -> list[Path]:
        """What was generated, without what tools added."""
        added = {".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__", "uv.lock"}
        return [
            path
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and not added & set(path.relative_to(self.path).parts)
        ]


def bake(folder: Path, **answers: str) -> Project:
    """Generate a project below `folder`, with the defaults for what `answers` leaves out."""
    path = baking.bake(folder, **answers)
    [package] = [path.name for path in (path / "src").iterdir()]
    return Project(path, package)


@dataclass(frozen=True)
class Service(Project):
    """A project with an environment, which `run_copied` uses."""

    forks: subprocess.Popen[str]


@pytest.fixture(scope="session", autouse=True)
def _mypy_remembers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Most of what it reads is the same for every project, and it knows a file by its content."""
    os.environ["MYPY_CACHE_DIR"] = str(tmp_path_factory.mktemp("mypy"))


@contextmanager
def baked(folder: Path, **answers: str) -> Iterator[Service]:
    project = bake(folder, **answers)
    project.check("python", "--version")
    with subprocess.Popen(
        [project.python, TEMPLATE / "tests" / "forks.py"],
        cwd=project.path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forks:
        yield Service(project.path, project.package, forks)
        forks.communicate()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A project with every answer at its default, and its environment. Not to be changed."""
    with baked(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="session")
def auth_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One with `auth=supabase`. Not to be changed."""
    with baked(tmp_path_factory.mktemp("auth"), auth="supabase") as service:
        yield service


@pytest.fixture
def copied(service: Project, tmp_path: Path) -> Project:
    """A copy of the service to change, with our tests. It has no environment: see `run_copied`."""
    ignored = shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
    shutil.copytree(service.path, tmp_path / "copy", ignore=ignored)
    tests = tmp_path / "copy" / "tests"
    for ours in [OWN_TESTS, *[AUTH_TESTS] * (tests / "auth").exists()]:
        shutil.copytree(ours, tests / ours.name, ignore=ignored)
    return Project(tmp_path / "copy", service.package)


def run_copied(
    service: Service, copied: Project, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest on a copy, with the environment of the original but the code of the copy."""
    # Plugins that cost half a second each time, for tests that do not need them.
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "schemathesis")]
    output = copied.path.parent / "output"
    run = {
        "folder": str(copied.path),
        "arguments": ["-n0", *plugins, *arguments],
        "variables": {"PYTHONPATH": str(copied.path / "src"), **variables},
        "output": str(output),
    }
    assert service.forks.stdin
    assert service.forks.stdout
    print(json.dumps(run), file=service.forks.stdin, flush=True)
    code = int(service.forks.stdout.readline())
    return subprocess.CompletedProcess(arguments, code, output.read_text(), "")


@contextmanager
def devstack(service: Project, *settings: str) -> Iterator[dict[str, str]]:
    """A PostgreSQL and a PgBouncer, with these settings, that somebody else runs."""
    process = subprocess.Popen(
        [service.python, TEMPLATE / "benchmarks" / "servers.py", *settings],
        cwd=service.path,
        env=environment(PYTHONPATH=str(service.path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        assert process.stdout
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@pytest.fixture(scope="session")
def given(service: Project) -> Iterator[dict[str, str]]:
    """Variables with which `run_copied` starts no servers: they run already, as the suite has its own."""
    with devstack(service, "server_round_robin=1", "default_pool_size=3", "login=yes") as urls:
        given = {f"GIVEN_{name.upper()}": url for name, url in urls.items()}
        yield given | {"PYTEST_ADDOPTS": f"-p tests.{OWN_TESTS.name}.given_servers"}


def query(service: Project, url: str, sql: str) -> set[tuple[str, ...]]:
    """Ask PostgreSQL itself, with the driver of the service's environment."""
    program = (
        "import asyncio, asyncpg, json, sys\n"
        "async def main():\n"
        "    connection = await asyncpg.connect(sys.argv[1])\n"
        "    print(json.dumps([list(row) for row in await connection.fetch(sys.argv[2])]))\n"
        "asyncio.run(main())\n"
    )
    command = [service.python, "-c", program, url, sql]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {tuple(row) for row in rows}
