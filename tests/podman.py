"""Images and containers without an engine in the background."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest


class Podman:
    """Podman, with a store of its own: what is built here leaves nothing in the user's."""

    def __init__(self) -> None:
        if not shutil.which("podman"):
            pytest.fail(
                "There is no podman: install it (apt-get install podman buildah runc), run "
                '.ci/base-images, or leave these tests out with -m "not image".'
            )
        users = self._run(["podman", "info", "--format={{.Store.GraphRoot}}"]).stdout.strip()
        # Podman takes no --runroot of more than 50 characters, so not pytest's folder.
        self.folder = tempfile.mkdtemp(prefix="podman-", dir="/tmp")
        self.command = [
            *("podman", f"--root={self.folder}/store", f"--runroot={self.folder}/run"),
            # What the user's store has may be read: the images that the Dockerfile begins with.
            *("--storage-driver=overlay", f"--storage-opt=overlay.imagestore={users}"),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self("system", "reset", "--force")
        shutil.rmtree(self.folder)

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command; return what it printed."""
        result = self._run([*self.command, *map(str, arguments)])
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
        return result.stdout

    def status(self, *arguments: str) -> int:
        """Run a command; return its exit code."""
        return self._run([*self.command, *arguments]).returncode

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    @contextmanager
    def container(self, *arguments: str) -> Iterator[str]:
        """A container in the background, and its id."""
        name = self("run", "--detach", *arguments).strip()
        try:
            yield name
        finally:
            self("rm", "--force", "--time=0", name)

    def as_docker(self, folder: Path) -> str:
        """A PATH on which `docker`, whose commands are the same, is this."""
        script = folder / "docker"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(self.command)} "$@"\n')
        script.chmod(0o755)
        return f"{folder}{os.pathsep}{os.environ['PATH']}"
