"""What finding either server takes: trying one place after the other, and Docker."""

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from devstack.process import NOBODY, DevstackError, last_line, run


@dataclass(frozen=True)
class Binaries:
    """How PostgreSQL or PgBouncer is called on this machine."""

    folder: str = ""
    program: str = "postgres"
    """The server's file name in the folder."""
    libraries: str = ""
    """Folders with shared libraries that this machine lacks, joined by colons."""
    image: str = ""
    """The Docker image that holds the binaries, instead of a folder."""
    version: str = ""

    def command(self, home: Path, name: str, *arguments: str) -> list[str]:
        """The command line of `name`; in Docker, `home` is the one folder it shares with us."""
        if self.image:
            return [*docker(self.image, home), name, *arguments]
        libraries = ["/usr/bin/env", f"LD_LIBRARY_PATH={self.libraries}"] if self.libraries else []
        return [*libraries, str(Path(self.folder, name)), *arguments]


def with_version(binaries: Binaries) -> Binaries:
    """The same with its version, which the program has to tell itself: so it does run."""
    command = binaries.command(Path("/tmp"), binaries.program, "--version")
    # 600 s: Docker pulls the image first.
    code, output = run(command, timeout=600 if binaries.image else 30)
    version = re.search(r"(?:PgBouncer|\(PostgreSQL\)) (\S+)", output)
    if code != 0 or version is None:
        raise DevstackError(f"it does not run: {last_line(output)}")
    return replace(binaries, version=version[1])


def first(what: str, rungs: list[tuple[str, str, Callable[[], Binaries]]]) -> Binaries:
    """What the first rung finds, each a name, a fix for the reader and a function."""
    problems = []
    for name, fix, rung in rungs:
        try:
            return rung()
        except (DevstackError, OSError) as error:
            problems.append(f"- {name}: {error}; fix: {fix}")
    raise DevstackError(
        f"No {what} found.\n" + "\n".join(problems) + "\n- servers that already run: set"
        " TEST_DATABASE_URL and TEST_POOLER_URL to use them"
    )


def not_set() -> Binaries:
    """The rung of an environment variable, when it is not set."""
    raise DevstackError("not set")


def docker(image: str, home: Path) -> list[str]:
    """A prefix that runs an ordinary command in a container.

    /etc/passwd comes along because initdb wants a name for its uid; `env` takes the place of the
    image's entry point, which would write configuration of its own.
    """
    uid, gid = (NOBODY.pw_uid, NOBODY.pw_gid) if NOBODY else (os.geteuid(), os.getegid())
    prefix = ["docker", "run", "--rm", "--network", "host"]
    prefix += ["--user", f"{uid}:{gid}", "--volume", "/etc/passwd:/etc/passwd:ro"]
    prefix += ["--volume", f"{home}:{home}", "--env", "LC_ALL=C", "--entrypoint", "env"]
    return [*prefix, "--name", f"devstack-{os.getpid()}-{time.monotonic_ns()}", image]


def from_docker(image: str, program: str) -> Binaries:
    """A server in Docker, if there is an engine."""
    if shutil.which("docker") is None:
        raise DevstackError("not on PATH")
    # 5 s: a healthy engine answers in well under one, and a hung one must not hang us.
    code, output = run(["docker", "info"], timeout=5, drop=False)
    if code != 0:
        raise DevstackError(f"`docker info` failed: {last_line(output)}")
    return with_version(Binaries(image=image, program=program))


def install_command(package: str) -> str:
    """How a person installs a package on this system."""
    for tool, command in (
        ("apt-get", "sudo apt-get install -y"),
        ("dnf", "sudo dnf install -y"),
        ("apk", "sudo apk add"),
        ("pacman", "sudo pacman -S"),
        ("brew", "brew install"),
    ):
        if shutil.which(tool):
            return f"{command} {package}"
    return f"install the package `{package}` of your system"
