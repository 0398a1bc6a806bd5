"""What finding either server takes: trying one place after the other."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from devstack.process import DevstackError, last_line, run


@dataclass(frozen=True)
class Binaries:
    """How PostgreSQL or PgBouncer is called on this machine."""

    folder: str = ""
    program: str = "postgres"
    """The server's file name in the folder."""
    libraries: str = ""
    """Folders with shared libraries that this machine lacks, joined by colons."""
    version: str = ""

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of `name`."""
        libraries = ["/usr/bin/env", f"LD_LIBRARY_PATH={self.libraries}"] if self.libraries else []
        return [*libraries, str(Path(self.folder, name)), *arguments]


def with_version(binaries: Binaries) -> Binaries:
    """The same with its version, which the program has to tell itself: so it does run."""
    code, output = run(binaries.command(binaries.program, "--version"), timeout=30)
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
