"""The image: its Dockerfile linted, every step executed, and what it makes run as a platform would.

Podman builds and runs it, since it needs no engine in the background. `.ci/run` installs it, and
brings the images that the Dockerfile begins with. Docker's own builder is left to the workflows.
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from conftest import Project, bake, devstack, query
from podman import Podman

pytestmark = pytest.mark.image

# What a name may have in it that means something in a Dockerfile.
ANSWERS = {"description": "Costs $HOME", "owner": "O'Neill & Söhne"}


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with Podman() as podman:
        yield podman


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = bake(tmp_path_factory.mktemp("image"), **ANSWERS)
    project.check("python", "--version")
    # What lies about in a folder that somebody works in.
    (project.path / ".env").write_text("DATABASE_URL=postgresql://u:secret@h/d\n")
    (project.path / "key.pem").write_text("")
    return project


@pytest.fixture(scope="module")
def image(podman: Podman, project: Project) -> str:
    podman("build", "--format=docker", "--tag=orders-api", project.path)
    return "localhost/orders-api"


def test_the_dockerfile_is_linted(project: Project) -> None:
    result = subprocess.run(
        ["hadolint", "Dockerfile"], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_how_the_image_is_started(podman: Podman, image: str) -> None:
    """As somebody with a number, not root, and by itself, not by a shell that keeps the signals."""
    [described] = json.loads(podman("inspect", image))
    config = described["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["orders-api"]
    assert config["Cmd"] == ["serve", "--host", "0.0.0.0"]
    labels = {
        "org.opencontainers.image.title": "orders-api",
        "org.opencontainers.image.description": ANSWERS["description"],
        "org.opencontainers.image.vendor": ANSWERS["owner"],
    }
    assert labels.items() <= config["Labels"].items()


def test_the_image_holds_the_service_and_nothing_else(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    files = listed(podman, image, tmp_path)
    own = {name.split("/")[1] for name in files if name.startswith("app/")}
    assert own == {"", ".venv", "migrations", "pyproject.toml"}
    # uv and the compilers; and of the development dependencies.
    names = {name.rsplit("/", 1)[-1] for name in files}
    assert not names & {"uv", "gcc", "cc", "make", "git", "curl"}
    assert not names & {"pytest", "ruff", "mypy", "initdb", "devstack"}


def test_no_step_of_the_build_sees_what_lies_about(
    podman: Podman, image: str, project: Project, tmp_path: Path
) -> None:
    """It would be in a cache that is shared, whatever the last stage takes."""
    podman("build", "--target=build", "--tag=built", project.path)
    files = listed(podman, "localhost/built", tmp_path)
    own = {name.split("/")[1] for name in files if name.startswith("app/")}
    assert own == {"", ".venv", "README.md", "migrations", "pyproject.toml", "src", "uv.lock"}


def listed(podman: Podman, image: str, folder: Path) -> set[str]:
    """The path of every file of an image."""
    container = podman("create", "--no-healthcheck", image, "true").strip()
    podman("export", f"--output={folder}/image.tar", container)
    podman("rm", container)
    command = ["tar", "-tf", folder / "image.tar"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_dependencies_stay_in_the_cache_when_the_code_changes(
    podman: Podman, project: Project, image: str
) -> None:
    module = project.path / "src" / project.package / "changed.py"
    module.write_text('"""A change."""\n')
    try:
        told = podman("build", "--format=docker", "--tag=changed", project.path)
    finally:
        module.unlink()
    steps = told.split("STEP ")
    [dependencies] = [step for step in steps if "--no-install-project" in step]
    [itself] = [step for step in steps if "--no-editable" in step]
    assert "Using cache" in dependencies
    assert "Using cache" not in itself


def test_migrates_serves_and_ends_on_a_read_only_root(
    podman: Podman, image: str, service: Project
) -> None:
    with devstack(service) as stack:
        through = f"{stack['pooler_url']}?sslmode=disable"
        directly = f"{stack['database_url']}?sslmode=disable"
        options = [
            *("--read-only", "--read-only-tmpfs=false", "--no-healthcheck", "--network=host"),
            *("--cap-drop=all", "--security-opt=no-new-privileges"),
            *(f"--env=DATABASE_URL={through}", f"--env=DATABASE_MIGRATION_URL={directly}"),
        ]
        podman("run", "--rm", *options, image, "migrate")

        port = free_port()
        serve = ["serve", "--host=127.0.0.1", f"--port={port}"]
        with podman.container(*options, image, *serve) as name:
            request = Request(
                f"http://127.0.0.1:{port}/items",
                data=json.dumps({"name": "from the image"}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with patiently(request) as response:
                assert response.status == 201
            assert podman("exec", name, "id", "-u").strip() == "10001"
            podman("stop", "--time=25", name)
            [described] = json.loads(podman("inspect", name))
            assert described["State"]["ExitCode"] == 0
        assert query(service, stack["database_url"], "SELECT name FROM items") == {
            ("from the image",)
        }
        # As the README says for going back.
        podman("run", "--rm", *options, "--entrypoint=alembic", image, "downgrade", "-1")
        tables = "SELECT relname FROM pg_class WHERE relname = 'items'"
        assert query(service, stack["database_url"], tables) == set()


def test_the_health_check_of_the_image_tells(podman: Podman, image: str) -> None:
    """In a network of its own, where the port is free and no database is."""
    [described] = json.loads(podman("inspect", image))
    kind, *command = described["Healthcheck"]["Test"]
    assert kind == "CMD"
    environment = "--env=DATABASE_URL=postgresql://u:p@127.0.0.1/d"
    with podman.container(
        "--read-only", "--no-healthcheck", "--network=none", environment, image
    ) as name:
        deadline = time.monotonic() + 30
        while podman.status("exec", name, *command) != 0:
            assert time.monotonic() < deadline, podman("logs", name)
            time.sleep(0.2)
    alone = ["run", "--rm", "--network=none", f"--entrypoint={json.dumps(command)}", image]
    assert podman.status(*alone) == 1  # nothing serves there


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def patiently(request: Request) -> Iterator:
    """Ask a service that may still be starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            response = urlopen(request, timeout=10)
        except (URLError, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            with response:
                yield response
            return
