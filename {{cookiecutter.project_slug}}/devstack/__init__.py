"""A real PostgreSQL behind a real PgBouncer on loopback, for `dev` and for tests.

    with devstack.running() as stack:
        ... stack.database_url, stack.pooler_url ...

The servers belong to a supervisor process, `python -m devstack`, which ends them when its stdin
closes. That happens however this process ends, so nothing is left behind even after kill -9.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack.process import DevstackError

__all__ = ["DevstackError", "Stack", "running"]


@dataclass(frozen=True)
class Stack:
    """Where they are."""

    database_url: str
    """PostgreSQL itself, as its superuser."""
    pooler_url: str
    """The same database through PgBouncer in transaction mode."""


@contextmanager
def running(*arguments: str) -> Iterator[Stack]:
    """Run `python -m devstack` with these arguments for as long as the block runs.

    A relative path in them counts from the folder that holds this package. The first run may
    download PgBouncer. Raises DevstackError, with what the supervisor had to say, if it fails to
    start or has failed by the end of the block.
    """
    with tempfile.TemporaryFile() as messages:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "devstack", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,  # Ctrl-C in a terminal is for us, who close stdin in good time
        )
        assert supervisor.stdin and supervisor.stdout
        try:
            line = supervisor.stdout.readline()
            if line:
                yield Stack(**json.loads(line))
        finally:
            supervisor.stdin.close()
            supervisor.stdout.close()
            try:
                # It allows its servers 28 s in all before it kills them.
                supervisor.wait(timeout=40)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
        if supervisor.returncode != 0:
            messages.seek(0)
            raise DevstackError(messages.read().decode(errors="replace").strip())
